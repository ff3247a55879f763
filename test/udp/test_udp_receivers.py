"""Who receives on a port: real sockets of real processes, in several namespaces."""

from contextlib import contextmanager, ExitStack
import os
import socket
import struct
import subprocess

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.tcp.owners import comm
from ipc_bypass.udp.destinations import Destinations
from ipc_bypass.udp.receivers import PORTS, Receivers, ReceiversView
import pytest
from support.namespaces import Namespace
from support.ports import PortBlock
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures('privileged')

GROUP = '239.255.0.7'


@pytest.fixture
def ports():
    """Yield a PortBlock of this test."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture
def program_map():
    """Yield the program's map."""
    fd = syscall.map_create(syscall.MapType.ARRAY, 4, 4, PORTS, syscall.MapFlag.MMAPABLE,
                            name='ipcb_test_recv')
    yield LoadedMap(fd, syscall.MapType.ARRAY, 4, 4, PORTS, None, None)
    os.close(fd)


@pytest.fixture
def table(program_map):
    """Yield the map, mapped."""
    view = ReceiversView(program_map)
    yield view
    view.close()


@pytest.fixture
def receivers(program_map, table, ports):
    """Return the keeper of the table, with the test's ports enrolled."""
    made = Receivers(table)
    made.enroll(range(ports.first, ports.last + 1))
    made.map_fd = program_map.fd
    return made


@pytest.fixture
def space():
    """Yield a namespace."""
    with Namespace() as made:
        yield made


def bind(address, port, *, family=socket.AF_INET, space=None, options=()):
    """Return a socket that is bound to an address, in a namespace or here."""
    with space.entered() if space else ExitStack():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    for option in options:
        sock.setsockopt(*option)
    sock.bind((address, port))
    return sock


REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
ONLY_6 = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


@contextmanager
def owner(*sockets, keep=False):
    """Have a process that owns sockets, which are closed here, and yield its pid."""
    process = subprocess.Popen(['sleep', '1000'], pass_fds=[sock.fileno() for sock in sockets])
    try:
        # The descriptors are there from the fork on; the name comes with the exec.
        wait_until(lambda: comm(process.pid) == 'sleep', 'it runs')
        if not keep:
            for sock in sockets:
                sock.close()
        yield process.pid
    finally:
        process.kill()
        process.wait()


def pid_of(receivers, port):
    """Return what the program finds in the table."""
    receivers.refresh(max_age=0)
    value = syscall.map_lookup(receivers.map_fd, struct.pack('=I', port), 4)
    return struct.unpack('=I', value)[0]


@pytest.mark.parametrize('family, address, asked', [
    (socket.AF_INET, '0.0.0.0', (4, '127.0.0.1')), (socket.AF_INET, '127.0.0.1', (4, '127.0.0.1')),
    (socket.AF_INET6, '::', (6, '::1')), (socket.AF_INET6, '::1', (6, '::1')),
    (socket.AF_INET6, '::', (4, '127.0.0.1'))])
def test_a_socket_here(receivers, ports, family, address, asked):
    port = next(ports)
    assert pid_of(receivers, port) == 0
    with owner(bind(address, port, family=family)) as pid:
        assert pid_of(receivers, port) == pid
        assert receivers.receiver_of(*asked, port) == (pid, 'sleep')
    assert pid_of(receivers, port) == 0
    assert receivers.receiver_of(*asked, port) is None


def test_sockets_of_this_very_process(receivers, ports):
    port = next(ports)
    with bind('127.0.0.1', port), bind('127.0.0.2', port):
        assert pid_of(receivers, port) == os.getpid()


def test_only_enrolled_ports(receivers, ports):
    port = next(ports)
    with bind('127.0.0.1', port):
        receivers.enroll([])
        assert pid_of(receivers, port) == 0
        assert receivers.receiver_of(4, '127.0.0.1', port) is None
        receivers.enroll([port])
        assert pid_of(receivers, port) == os.getpid()
        receivers.enroll([])
        assert pid_of(receivers, port) == 0


def test_namespaces_with_a_process_and_without(receivers, ports, space):
    one, two = next(ports), next(ports)
    with owner(bind('0.0.0.0', one, space=space)) as pid:
        # Of the namespace there is only the name, and the socket.
        assert pid_of(receivers, one) == pid
        with space.inhabited(), owner(bind('::', two, family=socket.AF_INET6,
                                           space=space)) as other:
            assert pid_of(receivers, two) == other
            assert pid_of(receivers, one) == pid


def test_several_give_none_but_an_address_decides(receivers, ports, space):
    port = next(ports)
    space.ip('address', 'add', '198.51.100.1/32', 'dev', 'lo')
    fd = syscall.map_create(syscall.MapType.LPM_TRIE, 20, 4, 256, syscall.MapFlag.NO_PREALLOC)
    try:
        destinations = Destinations(fd)
        destinations.refresh()
        exact = Receivers(None, namespaces_of_address=destinations.namespaces_of_address)
        exact.enroll([port])
        with owner(bind('0.0.0.0', port, space=space)) as there, \
                owner(bind('0.0.0.0', port)) as here:
            assert pid_of(receivers, port) == 0
            assert receivers.receiver_of(4, '198.51.100.1', port) is None
            assert exact.receiver_of(4, '198.51.100.1', port) == (there, 'sleep')
            assert exact.receiver_of(4, '127.0.0.1', port) is None  # whose 127.0.0.1?
        assert here != there
    finally:
        os.close(fd)


def test_the_most_exact_socket_receives(receivers, ports):
    port = next(ports)
    with owner(bind('127.0.0.1', port, options=[REUSE])) as exact, \
            owner(bind('0.0.0.0', port, options=[REUSE])) as any4, \
            owner(bind('::', port, family=socket.AF_INET6, options=[REUSE, ONLY_6])) as any6:
        assert pid_of(receivers, port) == 0
        assert receivers.receiver_of(4, '127.0.0.1', port) == (exact, 'sleep')
        assert receivers.receiver_of(4, b'\x7f\0\0\2', port) == (any4, 'sleep')
        assert receivers.receiver_of(6, '::1', port) == (any6, 'sleep')


def test_multicast_with_one_receiver_and_with_several(receivers, ports):
    port = next(ports)
    with owner(bind('0.0.0.0', port, options=[REUSE])) as one:
        assert pid_of(receivers, port) == one
        assert receivers.receiver_of(4, GROUP, port) == (one, 'sleep')
        with owner(bind(GROUP, port, options=[REUSE])):
            assert pid_of(receivers, port) == 0
            receivers.refresh()
            assert receivers.receiver_of(4, GROUP, port) is None
            assert receivers.receiver_of(4, '127.0.0.1', port) == (one, 'sleep')
        assert pid_of(receivers, port) == one


def test_a_socket_that_two_processes_have(receivers, ports):
    port = next(ports)
    with bind('127.0.0.1', port) as sock:
        assert pid_of(receivers, port) == os.getpid()
        with owner(sock, keep=True) as pid:
            sock.close()  # the same socket has another owner
            assert pid_of(receivers, port) == pid
    with bind('127.0.0.1', port) as sock, owner(sock, keep=True):
        assert pid_of(receivers, port) == 0


def test_a_connected_socket_beside_the_one_for_all(receivers, ports):
    port = next(ports)
    client = bind('127.0.0.1', port, options=[REUSE])
    client.connect(('127.0.0.1', next(ports)))
    with owner(client) as connected:
        assert receivers.receiver_of(4, '127.0.0.1', port) == (connected, 'sleep')
        with owner(bind('127.0.0.1', port, options=[REUSE])):
            receivers.refresh()
            assert receivers.receiver_of(4, '127.0.0.1', port) is None


def test_what_an_earlier_start_left_in_the_table(table, ports):
    port, other = next(ports), next(ports)
    for stale in (port, other, 0, PORTS - 1):
        table[stale] = 12345
    receivers = Receivers(table)
    receivers.enroll([port])
    with bind('127.0.0.1', port):
        receivers.refresh()
        assert {place: pid for place, pid in enumerate(table.tolist()) if pid} == \
            {port: os.getpid()}


def test_processes_are_looked_through_only_when_sockets_change(receivers, ports, monkeypatch):
    port = next(ports)
    with bind('127.0.0.1', port):
        receivers.refresh()
        monkeypatch.setattr(receivers, '_find_owners', None)
        assert not receivers.refresh(max_age=0)
        assert receivers.receiver_of(4, '127.0.0.1', port)[0] == os.getpid()
