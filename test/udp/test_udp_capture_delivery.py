"""Where captured datagrams go, however they are sent: to the consumer, to the receiver."""

import ctypes
import os
import socket
import struct

from ipc_bypass.kernel.cgroup import find_cgroup2
import pytest
from support.capturing import changes, nothing_came, nothing_captured, take, udp_socket
from support.datagrams import content, Many
from support.processes import Script
from support.traffic import Job

SIZES = (0, 1, 4095, 4096, 4097, 65507)
UDP_CORK = 1


def delivered(action, consumer, receiver, payloads):
    """Assert that datagrams came whole, each once, to where the action says."""
    assert take(consumer, len(payloads)) == payloads
    if action == 'mirror':
        assert [receiver.recv(1 << 17) for _ in payloads] == payloads
    nothing_came(receiver)
    nothing_captured(consumer)


@pytest.fixture
def port(captured, action):
    """Return the port of a rule with the action."""
    return captured.port[action]


@pytest.mark.parametrize('connected', [False, True], ids=['unconnected', 'connected'])
def test_one(route, action, connected, captured, port, consumer, stack):
    """Every byte of a datagram, its addresses, its sender."""
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender(port if connected else None))
    payload = os.urandom(1000)
    with changes(captured.path) as changed:
        if connected:
            assert sender.send(payload) == len(payload)
        else:
            route.send(sender, payload, port)
        batch = consumer.read(10)
    assert changed == {f'captured_{action}': 1}
    assert [bytes(found) for found in batch.payloads()] == [payload]
    record = batch.descriptors[0]
    prefix = b'' if ':' in route.address else bytes(10) + b'\xff\xff'
    assert record['destination_address'].tobytes() == \
        prefix + socket.inet_pton(route.family, route.address)
    assert (record['source_port'], record['destination_port']) == (sender.getsockname()[1], port)
    assert record['family'] == (6 if ':' in route.address else 4)
    assert record['sender_pid'] == os.getpid()
    assert record['action'] == {'mirror': 2, 'divert': 3}[action]
    if action == 'mirror':
        got, source = receiver.recvfrom(2000)
        assert got == payload
        assert record['source_address'].tobytes() == \
            prefix + socket.inet_pton(route.family, source[0])
    nothing_came(receiver)
    batch.release()
    assert captured.path.pool['used'] == (0, 0)


@pytest.mark.parametrize('size', SIZES)
def test_sizes(route, action, size, captured, port, consumer, stack):
    """From nothing to the largest datagram, on both sides of the small slots' size."""
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender())
    payload = os.urandom(size)
    route.send(sender, payload, port)
    delivered(action, consumer, receiver, [payload])


def test_largest_of_ipv6(routes, action, captured, port, consumer, stack):
    """IPv6 does not count its header: 65,527 bytes fit, and a slot holds them."""
    route = routes['loopback_v6']
    receiver = stack.enter_context(route.receiver(port, buffer=1 << 20))
    sender = stack.enter_context(route.sender())
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    payload = os.urandom(65527)
    route.send(sender, payload, port)
    delivered(action, consumer, receiver, [payload])


@pytest.mark.parametrize('way', ['MSG_MORE', 'UDP_CORK'])
def test_corked(route, action, way, captured, port, consumer, stack):
    """A datagram that is made by several sends is one, also where it needs fragments."""
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender(port))
    parts = [os.urandom(size) for size in (10, 3000, 20000, 1)]
    if way == 'UDP_CORK':
        sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
    for part in parts:
        last = part is parts[-1]
        sender.send(part, socket.MSG_MORE if way == 'MSG_MORE' and not last else 0)
        if not last:
            nothing_captured(consumer)
    if way == 'UDP_CORK':
        sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
    delivered(action, consumer, receiver, [b''.join(parts)])


def test_sendmmsg(route, action, captured, port, consumer, stack):
    """Many in one call, in order."""
    receiver = stack.enter_context(route.receiver(port, buffer=1 << 22))
    sender = stack.enter_context(route.sender(port))
    lengths = 8, 4096, 4104, 16
    Many(sender, 0, lengths).send(0, 128)
    delivered(action, consumer, receiver,
              [content(0, number, lengths[number % 4]) for number in range(128)])


def test_sendfile(local, action, captured, port, consumer, stack, tmp_path):
    """A datagram whose bytes are pages of a file."""
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender(port))
    payload = os.urandom(3000)
    (tmp_path / 'file').write_bytes(payload)
    with open(tmp_path / 'file', 'rb') as stream:
        assert os.sendfile(sender.fileno(), stream.fileno(), 0, 3000) == 3000
    delivered(action, consumer, receiver, [payload])


def test_zerocopy(local, action, captured, port, consumer, stack):
    """A datagram whose bytes stay in the sender's memory: it is told when they are done with."""
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender(port))
    sender.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
    payload = os.urandom(20000)
    sender.send(payload, 0x4000000)  # MSG_ZEROCOPY
    delivered(action, consumer, receiver, [payload])
    assert sender.recvmsg(1, 1000, socket.MSG_ERRQUEUE)[1]


def test_ipv4_options(action, captured, port, consumer, routes, stack):
    """Options move the ports."""
    route = routes['bridged']
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender())
    # Record route: four places; then an end of options.
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS,
                      bytes([7, 19, 4]) + bytes(16) + b'\0')
    route.send(sender, b'with options', port)
    delivered(action, consumer, receiver, [b'with options'])


def test_dual_stack(action, captured, port, consumer, routes, stack):
    """An IPv6 socket that sends by IPv4: descriptors say IPv4."""
    receiver = stack.enter_context(routes['loopback'].receiver(port))
    sender = stack.enter_context(udp_socket(family=socket.AF_INET6))
    sender.sendto(b'mapped', ('::ffff:127.0.0.1', port))
    batch = consumer.read(10)
    assert batch.descriptors['family'].tolist() == [4]
    batch.release()
    if action == 'mirror':
        assert receiver.recv(100) == b'mapped'
    nothing_came(receiver)


def test_reuseport(local, action, captured, port, consumer, stack):
    """With several sockets at a port, one of them gets what is mirrored."""
    receivers = [stack.enter_context(local.receiver(port, reuse=True)) for _ in range(3)]
    payloads = [b'%d' % number for number in range(12)]
    for payload in payloads:
        local.send(stack.enter_context(local.sender()), payload, port)
    assert take(consumer, len(payloads)) == payloads
    got = []
    for receiver in receivers:
        receiver.setblocking(False)
        while True:
            try:
                got.append(receiver.recv(100))
            except BlockingIOError:
                break
    assert sorted(got) == (sorted(payloads) if action == 'mirror' else [])


def test_child_cgroup(local, action, captured, port, consumer, stack):
    """What a process of a cgroup further below sends."""
    receiver = stack.enter_context(local.receiver(port))
    folder = os.path.join(find_cgroup2(), f'ipcb_test_{os.getpid()}')
    os.mkdir(folder)
    try:
        with Script('sender_process.py', local.address, str(port), '0', prefix=(
                'sh', '-c', f'echo $$ > {folder}/cgroup.procs && exec "$@"', 'sh')) as sender:
            sender.answer()
            sender.ask('one', 'from below')
            delivered(action, consumer, receiver, [b'from below'])
    finally:
        os.rmdir(folder)


def test_threads(local, action, captured, port, consumer, stack):
    """Threads that send over one socket at once."""
    receiver = stack.enter_context(local.receiver(port, buffer=1 << 24))
    sender = stack.enter_context(local.sender(port))
    jobs = [Job(lambda first=first: [sender.send(struct.pack('=I', first + number))
                                     for number in range(200)]) for first in range(0, 800, 200)]
    expected = {struct.pack('=I', number) for number in range(800)}
    # While they send: an owner that does not read loses its lease.
    assert set(take(consumer, 800)) == expected
    for job in jobs:
        job.result()
    if action == 'mirror':
        assert {receiver.recv(100) for _ in range(800)} == expected
    nothing_came(receiver)


def test_bad_address(captured, consumer, local):
    """A send that the kernel refuses is nobody's datagram."""
    with local.sender() as sender, changes(captured.path) as changed:
        with pytest.raises(OSError):
            sender.sendto(bytes(65536), (local.address, captured.port['divert']))
        libc = ctypes.CDLL(None, use_errno=True)
        sender.connect((local.address, captured.port['divert']))
        assert libc.send(sender.fileno(), None, 10, 0) < 0  # no memory of ours there
    assert changed == {}
    nothing_captured(consumer)
