"""With a path chosen by itself ('auto'), all bytes arrive, also where the kernel has no path."""

from contextlib import ExitStack
import os
import threading

from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings
import pytest
from support import capturing, steering
from support.capability import need_capabilities
from support.leaks import PIN_PREFIX
from support.ports import PortBlock
from support.streams import connect, listening, read_exactly, settle
from support.waiting import PATIENCE

_PIECES = [os.urandom(size) for size in (1, 1000, 65536, 300_000, 7)] * 4


@pytest.fixture
def stack():
    """Yield an ExitStack, closed after the test."""
    need_capabilities()
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def port(stack):
    """Return a port of this test."""
    block = PortBlock()
    stack.callback(block.close)
    return next(block)


@pytest.fixture
def tell(request):
    """Return a function that records which way a path took, and why not another."""
    def told(name, path):
        found = {'selected': path.selected, 'reasons': path.reasons, 'notes': list(path.notes)}
        request.node.user_properties.append((name, found))
    return told


def test_tcp(stack, port, tell):
    """Bytes of both directions arrive in order; they are redirected unless that is refused."""
    path = TcpPath(TcpSettings(tcp_path='auto', pin_directory=''))
    stack.callback(path.cleanup)
    path.configure()
    path.set_rules(steering.rules(port))
    path.activate()
    tell('tcp', path)
    listener = stack.enter_context(listening(port=port))
    client = stack.enter_context(connect(port))
    server = stack.enter_context(listener.accept()[0])
    settle(client, server)
    whole = b''.join(_PIECES)
    for sender, receiver in ((client, server), (server, client)):
        sending = threading.Thread(target=lambda end=sender: [end.sendall(piece)
                                                              for piece in _PIECES])
        sending.start()
        assert read_exactly(receiver, len(whole)) == whole
        sending.join()
    if path.selected == 'loopback':
        assert path.reasons['sk_msg'].strip()
    else:
        assert path.counters()['redirected_bytes'] > 0


@pytest.mark.parametrize('action', ['mirror', 'divert'])
def test_udp(stack, port, tell, tmp_path, action):
    """Datagrams come to the consumer, or to the receiver where they are not captured."""
    # As in test/udp: a machine that is emulated or busy may be slow to show that it lives.
    heartbeat = round(PATIENCE * 1000 / 6)
    pins, control = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_safe', str(tmp_path / 'pool.sock')
    path = UdpPath(UdpSettings(udp_path='auto', pin_directory=pins, pool_size=8 << 20,
                               control_socket=control, heartbeat_ms=heartbeat,
                               slot_ttl_ms=4 * heartbeat))
    stack.callback(path.cleanup)
    path.configure()
    path.set_rules(capturing.rules(f'udp:{port}:{action}'))
    path.activate()
    tell('udp', path)
    route = capturing.Route('loopback')
    receiver = stack.enter_context(route.receiver(port))
    payloads = [os.urandom(size) for size in (0, 1, 1000, 4096, 65507)] * 10
    consumer = None
    if path.selected == 'cgroup_skb':
        consumer = stack.enter_context(Consumer(control=control))
    sender = stack.enter_context(route.sender())
    got, taken = [], []
    for payload in payloads:
        route.send(sender, payload, port)
        if consumer:
            taken += capturing.take(consumer)
        if action == 'mirror' or not consumer:
            got.append(receiver.recv(1 << 17))
    assert taken == (payloads if consumer else [])
    assert got == (payloads if action == 'mirror' or not consumer else [])
    capturing.nothing_came(receiver)
    if path.selected != 'cgroup_skb':
        assert path.reasons['cgroup_skb'].strip()
