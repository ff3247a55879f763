"""Captured datagrams that nobody took reach their receiver, from their sender's address."""

import os
import socket
import time

from ipc_bypass.pool import layout
from ipc_bypass.udp.resend import REASONS, Resender
import numpy as np
from packet_tools import content, descriptor
import pytest
from support.namespaces import bridged_pair, CLIENT, CLIENT_V6, Namespace, SERVER, SERVER_V6
from support.waiting import wait_until

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
LOOPBACK = {4: '127.0.0.1', 6: '::1'}
RECEIVER = {4: SERVER, 6: SERVER_V6}
SENDER = {4: CLIENT, 6: CLIENT_V6}
LENGTHS = [0, 1, 1472, 1473, 4096, 9000, 65507]


@pytest.fixture(scope='module', autouse=True)
def _privileged(privileged):
    """Namespaces and raw sockets need capabilities."""


def bound(space, address, port=0):
    """Return a UDP socket that is bound in a namespace."""
    family = FAMILIES[6 if ':' in address else 4]
    with space.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.bind((address, port))
    made.settimeout(20)
    return made


def captured(sock, destination, length, *, pid=None, **rest):
    """Return the record of a datagram that `sock` sent now, by this process."""
    record = np.array([descriptor(sock.getsockname()[:2], destination, length, **rest)])
    record['sender_pid'] = os.getpid() if pid is None else pid
    record['capture_ns'] = time.monotonic_ns()
    return record[0]


def path_of(space):
    return f'/run/netns/{space.name}'


def check_all(resender, sender, receiver, pid):
    """Send every length, twice over; each arrives once, from the sender's address and port."""
    target = receiver.getsockname()[:2]
    for length in LENGTHS * 2:
        data = content(length)
        assert resender.send(captured(sender, target, length, pid=pid), memoryview(data)) == ''
        received, source = receiver.recvfrom(1 << 16)
        assert received == data
        assert source[:2] == sender.getsockname()[:2]
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(1)
    assert resender.counters()['sent'] == 2 * len(LENGTHS)
    assert resender.counters()['sent_bytes'] == 2 * sum(LENGTHS)
    assert resender.counters()['stranded'] == 0


@pytest.fixture
def resender():
    """Yield a function that makes a Resender; its sockets are closed with the test."""
    made = []

    def make(**arguments):
        made.append(Resender(**arguments))
        return made[-1]
    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('connected', [False, True])
def test_loopback(resender, family, connected):
    """While the sender's own socket has its port still, connected or not."""
    with Namespace('l') as space, space.inhabited() as home, \
            bound(home, LOOPBACK[family]) as sender, bound(home, LOOPBACK[family]) as receiver:
        if connected:
            sender.connect(receiver.getsockname()[:2])
        check_all(resender(namespace_of_address=lambda _: path_of(space)), sender, receiver,
                  inhabitant(space))


@pytest.mark.parametrize('family', FAMILIES)
def test_bridged(resender, family):
    """Beyond an MTU of 1,500 bytes the datagram is cut, and joined by the receiver's kernel."""
    with bridged_pair() as (server, client), client.inhabited(), \
            bound(client, SENDER[family]) as sender, bound(server, RECEIVER[family]) as receiver:
        check_all(resender(), sender, receiver, inhabitant(client))


def inhabitant(space):
    """Return the pid of the process that lives in a namespace."""
    inode = os.stat(path_of(space)).st_ino

    def there():
        for name in filter(str.isdigit, os.listdir('/proc')):
            try:
                if os.stat(f'/proc/{name}/ns/net').st_ino == inode:
                    return int(name)
            except OSError:
                continue
        return 0
    return wait_until(there, 'a process lives there')


@pytest.mark.parametrize('family', FAMILIES)
def test_sender_is_gone(resender, family):
    """Then its address tells the namespace; a pid that was given again does not."""
    with bridged_pair() as (server, client), bound(client, SENDER[family]) as sender, \
            bound(server, RECEIVER[family]) as receiver:
        asked = []

        def find(address):
            asked.append(address)
            return path_of(client)
        made = resender(namespace_of_address=find)
        check_all(made, sender, receiver, 0)
        assert set(asked) == {socket.inet_pton(FAMILIES[family], SENDER[family])}
        # As if another process had this pid at the capture: it is younger than the datagram.
        record = np.array([captured(sender, receiver.getsockname()[:2], 3)])
        record['capture_ns'] = 1
        assert resender().send(record[0], b'abc') == 'no_namespace'
        assert made.send(record[0], b'abc') == ''


def test_namespace_of_a_thread(resender):
    """A process whose socket lives in another namespace than itself, as this one's."""
    with bridged_pair() as (server, client), bound(client, CLIENT) as sender, \
            bound(server, SERVER) as receiver:
        made = resender(namespace_of_address=lambda _: path_of(client))
        assert made.send(captured(sender, receiver.getsockname(), 3), b'abc') == ''
        assert receiver.recvfrom(10) == (b'abc', sender.getsockname())


def test_link_local(resender):
    with bridged_pair() as (server, client), client.inhabited():
        scopes, addresses = {}, {}
        for space in (server, client):
            def found(space=space):
                with space.entered(), open('/proc/thread-self/net/if_inet6') as stream:
                    for line in stream:
                        fields = line.split()
                        if fields[0].startswith('fe80') and not int(fields[4], 16) & 0x40:
                            return fields
                return None
            fields = wait_until(found, 'a link-local address')
            addresses[space] = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0]))
            scopes[space] = int(fields[1], 16)
        with server.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
            receiver.bind((addresses[server], 0, 0, scopes[server]))
            receiver.settimeout(20)
            record = np.array([descriptor((addresses[client], 4000),
                                          (addresses[server], receiver.getsockname()[1]), 3)])
            record['sender_pid'], record['capture_ns'] = inhabitant(client), time.monotonic_ns()
            assert resender().send(record[0], b'abc') == ''
            received, source = receiver.recvfrom(10)
        assert received == b'abc'
        assert source[:2] == (addresses[client], 4000)


def test_stranded(resender):
    with Namespace('l') as space, bound(space, '127.0.0.1') as sender, \
            bound(space, '127.0.0.1') as receiver:
        target, here = receiver.getsockname(), path_of(space)
        plain = resender(namespace_of_address=lambda _: here)
        wanted = dict.fromkeys(REASONS, 0)
        for reason, record, data, made in (
                ('truncated', captured(sender, target, 3, flags=layout.TRUNCATED, pid=0), b'abc',
                 plain),
                ('tcp', captured(sender, target, 3, flags=layout.TCP | layout.TRUNCATED, pid=0),
                 b'abc', plain),
                ('malformed', captured(sender, target, 65508, pid=0), bytes(65508), plain),
                ('unreachable', captured(sender, ('10.99.0.1', 1), 3, pid=0), b'abc', plain),
                ('no_namespace', captured(sender, target, 3, pid=0), b'abc', resender()),
                ('no_namespace', captured(sender, target, 3, pid=0), b'abc',
                 resender(namespace_of_address=lambda _: '/run/netns/ipcb_there_is_none'))):
            assert made.send(record, data) == reason
            assert made.counters()[f'stranded_{reason}'] == 1
            wanted[reason] += made is plain
        assert {name: plain.counters()[f'stranded_{name}'] for name in REASONS} == wanted
        assert plain.counters()['stranded'] == sum(wanted.values()) == 4
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


def test_sockets(resender):
    """One a namespace and family, each shown to `exempt`; bounded, closed when idle."""
    shown = []
    spaces = [Namespace('n') for _ in range(4)]
    try:
        before = os.stat('/proc/thread-self/ns/net').st_ino
        paths = iter(())
        made = resender(exempt=shown.append, namespace_of_address=lambda _: next(paths), most=3)
        ends = [(bound(space, '127.0.0.1'), bound(space, '127.0.0.1')) for space in spaces]
        for _ in range(2):
            for space, (sender, receiver) in zip(spaces, ends, strict=True):
                for _ in range(3):
                    paths = iter([path_of(space)])
                    record = captured(sender, receiver.getsockname(), 1, pid=0)
                    assert made.send(record, b'a') == ''
                    assert receiver.recv(10) == b'a'
        assert len(shown) == 8
        assert [sock.fileno() < 0 for sock in shown] == [True] * 5 + [False] * 3
        assert os.stat('/proc/thread-self/ns/net').st_ino == before
        made.trim(3600)
        assert [sock.fileno() < 0 for sock in shown] == [True] * 5 + [False] * 3
        made.trim(0)
        assert all(sock.fileno() < 0 for sock in shown)
        for pair in ends:
            for sock in pair:
                sock.close()
    finally:
        for space in spaces:
            space.close()
