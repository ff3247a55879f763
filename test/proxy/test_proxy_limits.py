"""Limits, timeouts, the backend's health, the PROXY header, and what is refused."""

import errno
import os
import resource
import socket
import struct
import time

from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass.proxy.forward import Forward
from ipc_bypass.proxy.header import proxy_header
from proxy_tools import connect, echoing, listening, PATHS, read_all, read_exactly, settle
import pytest
from support.waiting import PATIENCE, wait_until

SIGNATURE = b'\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a'


def answers(port, host='127.0.0.1'):
    """Return whether a forward answers a byte."""
    with connect(port, host) as client:
        client.sendall(b'x')
        return client.recv(1) == b'x'


def test_max_connections(forward):
    """Those above the limit wait, and have their turn when one ends."""
    with echoing() as backend:
        port, ours = forward(backend, max_connections=2)
        first, second, third = (connect(port) for _ in range(3))
        with first, second, third:
            for sock in first, second, third:
                sock.sendall(b'x')
            assert first.recv(1) == second.recv(1) == b'x'
            wait_until(lambda: ours.counters['limit_reached'], 'the limit is reached')
            third.settimeout(0.3)
            with pytest.raises(TimeoutError):
                third.recv(1)
            assert len(ours.connections) == 2
            first.close()
            third.settimeout(PATIENCE)
            assert third.recv(1) == b'x'
    wait_until(lambda: ours.counters['finished'] == 3, 'all have ended')


@pytest.mark.parametrize('path', PATHS)
def test_idle_timeout(connected, path):
    """A connection on which nothing moves is closed; one that is used is not, on any way."""
    client, server, ours = connected(path, idle_timeout_s=1.0)
    for _ in range(15):
        client.sendall(b'alive')
        assert read_exactly(server, 5) == b'alive'
        time.sleep(0.1)
    assert ours.connections
    assert client.recv(1) == b'' and server.recv(1) == b''
    wait_until(lambda: ours.counters['idle'] == 1, 'it is counted')


def test_connect_timeout(forward):
    """A backend whose queue is full does not answer; the client is told in the end."""
    with socket.create_server(('127.0.0.1', 0), backlog=0) as backend:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(backend.getsockname())
        port, ours = forward(backend.getsockname()[1], connect_timeout_s=0.3)
        with connect(port) as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        assert ours.counters['connect_error_timeout'] == ours.counters['connect_error'] == 1
        assert (ours.health, ours.health_reason) == ('down', 'timeout: Connection timed out')
        for filler in fillers:
            filler.close()


def test_several_addresses(engine, ports):
    """The addresses of a name are tried one after the other."""
    with echoing() as backend:
        port = next(ports)
        ours = engine.add(Forward(Endpoint('127.0.0.1', port), Endpoint('localhost', backend)))
        ours.backends = (Endpoint('127.0.0.2', 1), Endpoint('127.0.0.1', backend))
        assert answers(port)
        assert not ours.counters['connect_error']
        ours.backends = (Endpoint('127.0.0.2', 1), Endpoint('127.0.0.3', 1))
        with connect(port) as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        assert ours.counters['connect_error_refused'] == 1


def test_health(ways, ports):
    """A backend is asked when nobody connects, and each change is told."""
    told = []
    engine = Engine(ways, told.append, health_interval_s=0.2)
    try:
        with listening() as free:
            target = free.getsockname()[1]
        listener = engine.add(Forward.parse(f'127.0.0.1:{next(ports)} -> 127.0.0.1:{target}'))
        assert listener.health == 'unknown'
        engine.start()
        wait_until(lambda: listener.health == 'down', 'it is down')
        with listening(port=target):
            wait_until(lambda: listener.health == 'up', 'it is up')
        wait_until(lambda: listener.health == 'down', 'it is down again')
    finally:
        engine.close()
    assert [line.partition(':')[2] for line in told] == [
        f'{target} does not accept connections: refused: Connection refused',
        f'{target} accepts connections',
        f'{target} does not accept connections: refused: Connection refused']


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('listen, host', [('0.0.0.0', '127.0.0.1'), ('::', '127.0.0.1'),
                                          ('::', '::1')])
def test_proxy_header(forward, path, listen, host):
    """The backend is told who the client is, before anything else, and only once."""
    with listening() as backend:
        port, _ours = forward(backend.getsockname()[1], listen=listen, path=path,
                              proxy_protocol=True)
        with connect(port, host) as client, backend.accept()[0] as server:
            server.settimeout(PATIENCE)
            client.sendall(b'hello')
            head = read_exactly(server, 16)
            assert head[:13] == SIGNATURE + b'\x21'
            family, length = struct.unpack('>BH', head[13:])
            assert (family, length) == ((0x21, 36) if ':' in host else (0x11, 12))
            body = read_exactly(server, length)
            size = 16 if ':' in host else 4
            form = f'>{size}s{size}sHH'
            kind = socket.AF_INET6 if ':' in host else socket.AF_INET
            packed = socket.inet_pton(kind, host)
            assert struct.unpack(form, body) == (packed, packed, client.getsockname()[1], port)
            assert read_exactly(server, 5) == b'hello'
            settle(client, server)
            client.sendall(b'more')
            client.shutdown(socket.SHUT_WR)
            assert read_all(server) == b'more'


def test_header_of_mixed_families():
    """A client and an address of two families are both told in IPv6's form."""
    class Ends:

        def getpeername(self):
            return '::ffff:192.0.2.1', 1000, 0, 0

        def getsockname(self):
            return '2001:db8::1', 80, 0, 0
    header = proxy_header(Ends())
    assert header[12:16] == b'\x21\x21\x00\x24'
    assert header[16:32] == socket.inet_pton(socket.AF_INET6, '::ffff:192.0.2.1')


def test_address_in_use(engine, ports):
    """By another process's socket, or by another forward; the line says what to do."""
    with listening() as other:
        with pytest.raises(ForwardError, match='ss -ltnp') as caught:
            engine.add(Forward(Endpoint('127.0.0.1', other.getsockname()[1]),
                               Endpoint('127.0.0.1', 9)))
        assert (caught.value.code, caught.value.errno) == ('ADDRESS_IN_USE', errno.EADDRINUSE)
    port = next(ports)
    made = engine.add(Forward.parse(f'127.0.0.1:{port} -> 127.0.0.1:9'))
    with pytest.raises(ForwardError, match=f'forward {made.id} does already') as caught:
        engine.add(Forward.parse(f'127.0.0.1:{port} -> 127.0.0.1:10'))
    assert caught.value.code == 'ALREADY_FORWARDED'
    with pytest.raises(ForwardError) as caught:
        engine.add(Forward.parse(f'192.0.2.1:{port} -> 127.0.0.1:10'))
    assert caught.value.code == 'INVALID_ADDRESS'
    engine.remove(made.id)
    with pytest.raises(ForwardError) as caught:
        engine.remove(made.id)
    assert caught.value.code == 'NO_SUCH_FORWARD'
    # The same port at once again, also while connections of before are in TIME_WAIT.
    engine.add(Forward.parse(f'127.0.0.1:{port} -> 127.0.0.1:10'))


def test_no_descriptor(engine, forward):
    """Where none is left for a connection, the listener rests, tells it, and goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with echoing() as backend:
        port, ours = forward(backend)
        assert answers(port)
        with connect(port) as before:
            before.sendall(b'x')
            assert before.recv(1) == b'x'
            lowest = os.dup(0)
            os.close(lowest)
            try:
                with engine._lock:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
                    late = socket.socket()  # takes the last one, while nobody else can
                    late.settimeout(PATIENCE)
                    late.connect(('127.0.0.1', port))
                wait_until(lambda: ours.counters['no_descriptor'] or ours.counters[
                    'connect_error_no_descriptor'], 'it is told')
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            before.sendall(b'x')
            assert before.recv(1) == b'x'
            late.close()
        assert answers(port)


def test_many_forwards(engine, ports):
    """Many at once, each with its own backend."""
    with echoing() as backend:
        numbers = [next(ports) for _ in range(20)]
        made = [engine.add(Forward.parse(f'127.0.0.{10 + index}:{port} -> 127.0.0.1:{backend}'))
                for port in numbers for index in range(5)]
        assert len(made) == 100
        for listener in made:
            endpoint = listener.forward.listen
            assert answers(endpoint.port, endpoint.host)
        for listener in made:
            engine.remove(listener.id, close_connections=True)
    wait_until(lambda: not engine._listeners, 'all are forgotten')


def test_closed_with_their_forward(engine, connected):
    """Open connections are closed where that is asked for."""
    client, server, ours = connected('shortcut')
    engine.remove(ours.id, close_connections=True)
    assert client.recv(1) == b'' and server.recv(1) == b''
    assert ours.counters['closed_by_node'] == 1
