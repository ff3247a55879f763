"""Who sends, who receives, and the statistics by port and sender."""

import os
import socket

from ipc_bypass.pool.consumer import Consumer
import pytest
from support.capturing import changes, knows, Route, take, udp_socket
from support.ports import PortBlock
from support.processes import Script
from support.waiting import wait_until

COMMAND = 'ipcb_sender'


@pytest.fixture(scope='module', params=[True, False], ids=['asked', 'noted'])
def named(request, make_udp):
    """Yield (path, port): the program asks who sends, or it is noted before the send."""
    block = PortBlock()
    port = next(block)
    with make_udp(f'udp:{port}:mirror', current_pid=request.param) as path:
        assert path._capture._objects.notes_senders is not request.param
        knows(path, '::1')
        yield path, port
    block.close()


@pytest.fixture
def reader(named):
    """Yield the Consumer of `named`."""
    with Consumer(control=named[0].settings.control_socket) as opened:
        yield opened


def sender_of(reader):
    """Return the sender's pid of the one datagram that was captured."""
    batch = reader.read(10)
    assert len(batch) == 1
    batch.release()
    return int(batch.descriptors['sender_pid'][0])


def child(work):
    """Run a function in a child process with a name of its own; return the child's pid."""
    pid = os.fork()
    if not pid:
        try:
            with open('/proc/self/comm', 'w') as stream:
                stream.write(COMMAND)
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def send_by(way, route, sock, port):
    """Send one datagram: the ways by which a sender may be noted."""
    if way == 'connect':
        sock.connect((route.address, port))
        sock.send(b'connected')
    elif way == 'sendto':
        sock.sendto(b'sent', (route.address, port))
    else:
        sock.bind((route.address, 0))
        sock.sendmsg([b'bound'], [], 0, (route.address, port))


@pytest.mark.parametrize('way', ['connect', 'sendto', 'bind'])
def test_sender(named, reader, local, way, stack):
    """The pid and the command of a process that made its socket itself."""
    path, port = named
    stack.enter_context(local.receiver(port))
    pid = child(lambda: send_by(way, local, udp_socket(family=local.family), port))
    assert sender_of(reader) == pid
    found, = (one for one in path.endpoints() if one['pid'] == pid)
    assert (found['command'].rstrip('\0'), found['port'], found['captured'], found['passed']) == (
        COMMAND, port, 1, 0)


def test_sender_of_an_inherited_socket(named, reader, local, stack):
    """A child that sends over its parent's socket, unconnected, is the sender."""
    path, port = named
    stack.enter_context(local.receiver(port))
    sock = stack.enter_context(local.sender())
    pid = child(lambda: send_by('sendto', local, sock, port))
    assert sender_of(reader) == pid
    local.send(sock, b'ours', port)
    assert sender_of(reader) == os.getpid()


def test_sender_before_the_path(make_udp, routes, ports, stack):
    """A socket that was connected before programs were attached: known where they may ask."""
    local, port = routes['loopback'], next(ports)
    stack.enter_context(local.receiver(port))
    sock = stack.enter_context(local.sender(port))
    for current_pid in (True, False):
        with make_udp(f'udp:{port}:mirror', current_pid=current_pid) as path, \
                Consumer(control=path.settings.control_socket) as reader:
            sock.send(b'early')
            assert sender_of(reader) == (os.getpid() if current_pid else 0)
            sock.connect((local.address, port))
            sock.send(b'noted now')
            assert sender_of(reader) == os.getpid()


def test_captured_from_the_first_datagram_on(named, reader, local, action, stack):
    """Notes change nothing of what is captured, connected or not."""
    path, port = named
    receiver = stack.enter_context(local.receiver(port))
    with changes(path) as changed:
        for connected in (port, None):
            sock = stack.enter_context(local.sender(connected))
            local.send(sock, b'x', port)
    assert changed == {'captured_mirror': 2}
    assert take(reader, 2) == [b'x'] * 2 == [receiver.recv(10) for _ in range(2)]


def test_receiver(captured, consumer, local, stack):
    """The pid of the one process that has the port; 0 where several have it, or none."""
    path, port = captured.path, captured.port['mirror']
    sock = stack.enter_context(local.sender())

    def receiver_pid():
        local.send(sock, b'who receives', port)
        with consumer.read(10) as batch:
            return int(batch.descriptors['receiver_pid'][0])
    wait_until(lambda: receiver_pid() == 0, 'nobody receives')
    with Script('receiver_process.py', local.address, str(port)) as process:
        pid = process.answer()
        path._capture._upkeep.wake()
        wait_until(lambda: receiver_pid() == pid, 'the receiver is known')
        assert path.receiver_of(6 if ':' in local.address else 4, local.address, port)[0] == pid
        stack.enter_context(local.receiver(port, reuse=True))
        path._capture._upkeep.wake()
        wait_until(lambda: receiver_pid() == 0, 'two receive')
    path._capture._upkeep.wake()
    wait_until(lambda: receiver_pid() == os.getpid(), 'we alone receive')


def test_receiver_in_a_namespace(captured, consumer, namespaces, stack):
    """A receiver in another namespace."""
    route, port = Route('bridged', '10.123.0.1', *namespaces), captured.port['mirror']
    stack.enter_context(route.receiver(port))
    sock = stack.enter_context(route.sender())
    captured.path._capture._upkeep.wake()

    def receiver_pid():
        route.send(sock, b'who receives', port)
        with consumer.read(10) as batch:
            return int(batch.descriptors['receiver_pid'][0])
    wait_until(lambda: receiver_pid() == os.getpid(), 'the receiver is known')


def test_statistics(named, reader, local, stack):
    """Captured and passed datagrams and bytes of each port and sender."""
    path, port = named
    stack.enter_context(local.receiver(port))
    sock = stack.enter_context(local.sender(port))

    def ours():
        return next((one for one in path.endpoints()
                     if (one['port'], one['pid']) == (port, os.getpid())),
                    dict.fromkeys(('captured', 'captured_bytes', 'passed', 'passed_bytes'), 0))
    before, totals = ours(), path.counters()
    for size in (10, 0, 5000):
        sock.send(bytes(size))
    sock.setsockopt(socket.IPPROTO_UDP, 103, 100)
    sock.send(bytes(250))
    after, totals_after = ours(), path.counters()
    assert {name: after[name] - before[name] for name in
            ('captured', 'captured_bytes', 'passed', 'passed_bytes')} == {
        'captured': 3, 'captured_bytes': 5010, 'passed': 1, 'passed_bytes': 250}
    assert totals_after['captured_mirror_bytes'] - totals['captured_mirror_bytes'] == 5010
    assert totals_after['passed_bytes'] - totals['passed_bytes'] == 250
    take(reader, 3)


def test_more_senders_than_places(make_udp):
    """The statistics of who sent longest ago make room: a new sender always has its own."""
    first, last = 40_000, 45_000
    with make_udp(f'udp:{first}-{last}:mirror') as path, udp_socket(None) as sock:
        for port in range(first, last + 1):
            sock.sendto(b'x', ('127.0.0.1', port))
        ports = {endpoint['port'] for endpoint in path.endpoints()}
        counters = path.counters()
    assert 3000 < len(ports) <= 4096
    assert set(range(last - 100, last + 1)) <= ports
    assert counters['endpoints_full'] == 0
    assert counters['passed_no_consumer'] == last - first + 1
