"""What a connection through the proxy carries: the same on every way as without one."""

import os
import socket
import threading
import time

from proxy_tools import connect, echoing, listening, PATHS, read_all, read_exactly, reset
import pytest
from support.descriptors import open_descriptors
from support.traffic import Job, random_sizes, receive, send
from support.waiting import PATIENCE, wait_until

each_path = pytest.mark.parametrize('path', PATHS)


@each_path
def test_content_both_ways(connected, path):
    """Eight connections at once, sizes from a byte to megabytes, both directions: equal."""
    pairs = [connected(path)[:2] for _ in range(8)]
    jobs = []
    for number, (client, server) in enumerate(pairs):
        for one, other, seed in ((client, server, number), (server, client, 100 + number)):
            sizes = random_sizes(seed, 6 << 20, 2 << 20)
            jobs.append((Job(send, one, sizes, seed, finish=True), Job(receive, other)))
    for sent, got in jobs:
        assert sent.result() == got.result()


@each_path
def test_hand_over_under_load(forward, path):
    """A client that sends from the first moment, to one that does not accept at once."""
    with listening() as backend:
        port, ours = forward(backend.getsockname()[1], path=path)
        jobs = []
        for seed in range(6):
            client = connect(port)
            # No pause: the way is chosen while bytes come in.
            jobs.append((client, Job(send, client, random_sizes(seed, 8 << 20, 1 << 18), seed,
                                     finish=True)))
        for client, sent in jobs:
            server, _address = backend.accept()
            server.settimeout(PATIENCE)
            with server, client:
                got = receive(server)
                # The backend accepts in the order in which the gateway connects.
                assert got == sent.result()
                server.sendall(b'done')
                server.shutdown(socket.SHUT_WR)
                assert read_all(client) == b'done'
        wait_until(lambda: not ours.connections, 'all have ended')
        assert ours.counters['finished'] == 6


@each_path
@pytest.mark.parametrize('first', ['client', 'server'])
def test_half_close(connected, path, first):
    """One direction ends, the other goes on, in either order."""
    client, server, ours = connected(path)
    one, other = (client, server) if first == 'client' else (server, client)
    one.sendall(b'last words')
    one.shutdown(socket.SHUT_WR)
    assert read_all(other) == b'last words'
    block = os.urandom(3 << 20)
    job = Job(other.sendall, block)
    assert read_exactly(one, len(block)) == block
    job.result()
    other.shutdown(socket.SHUT_WR)
    assert read_all(one) == b''
    wait_until(lambda: ours.counters['finished'] == 1, 'it has ended')


@each_path
@pytest.mark.parametrize('first', ['client', 'server'])
def test_reset(connected, path, first):
    """A reset of one end is a reset for the other."""
    client, server, ours = connected(path)
    one, other = (client, server) if first == 'client' else (server, client)
    reset(one)
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    wait_until(lambda: ours.counters['reset'] == 1, 'it is counted')
    assert not ours.connections


@each_path
def test_the_server_speaks_first(forward, path):
    with listening() as backend:
        port, _ours = forward(backend.getsockname()[1], path=path)
        with connect(port) as client:
            server, _address = backend.accept()
            with server:
                server.sendall(b'220 welcome')
                assert read_exactly(client, 11) == b'220 welcome'


@each_path
def test_slow_reader(connected, path):
    """It gets everything, and the sender has to wait: nothing grows without bound."""
    client, server, _ours = connected(path)
    block = os.urandom(96 << 20)
    # Not the socket's own timeout: the sender is to wait for as long as it takes.
    job = Job(client.sendall, block)
    time.sleep(1.0)
    assert job.is_alive(), 'the sender waits for the reader'
    got = bytearray()
    while len(got) < len(block):
        part = server.recv(1 << 20)
        got += part
        if len(got) < 2 << 20:
            time.sleep(0.01)
    job.result()
    assert got == block


@each_path
def test_many_small_messages(connected, path):
    """As an interactive session: a few bytes, answered, again and again."""
    client, server, _ours = connected(path)

    def answer():
        for _ in range(500):
            server.sendall(read_exactly(server, 3)[::-1])
    job = Job(answer)
    for number in range(500):
        text = b'%03d' % number
        client.sendall(text)
        assert read_exactly(client, 3) == text[::-1]
    job.result()


@each_path
def test_ends_come_with_the_last_bytes(forward, path):
    """Data and end in one go, from both, hundreds of times: nothing is cut off."""
    with listening() as backend:
        port, ours = forward(backend.getsockname()[1], path=path)

        def serve():
            for _ in range(200):
                sock, _address = backend.accept()
                sock.settimeout(PATIENCE)
                with sock:
                    data = read_all(sock)
                    sock.sendall(data[::-1])
        job = Job(serve)
        for number in range(200):
            with connect(port) as client:
                data = os.urandom(1 + number * 97)
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == data[::-1]
        job.result()
        wait_until(lambda: ours.counters['finished'] == 200, 'all have ended')


def test_backend_dies(forward):
    """Its connections end, new ones are refused, and come again when it is back."""
    with echoing() as backend:
        port, ours = forward(backend)
        client = connect(port)
        client.sendall(b'x')
        assert client.recv(1) == b'x'
    client.close()
    with connect(port) as refused:
        with pytest.raises(ConnectionResetError):
            if not refused.recv(1):
                raise ConnectionResetError
    wait_until(lambda: ours.counters['connect_error_refused'] == 1, 'it is counted')
    assert (ours.health, ours.health_reason) == ('down', 'refused: Connection refused')
    with echoing(port=backend), connect(port) as client:
        client.sendall(b'again')
        assert read_exactly(client, 5) == b'again'
        assert ours.health == 'up'


def test_ten_thousand_connections(engine, forward):
    """Opened and closed: no descriptor, no map entry, no memory is left."""
    def some(number):
        socks = [connect(port) for _ in range(number)]
        for sock in socks:
            sock.sendall(b'abc')
        for sock in socks:
            assert read_exactly(sock, 3) == b'abc'
            sock.close()
    with echoing() as backend:
        port, ours = forward(backend, path='auto')
        some(100)
        wait_until(lambda: not ours.connections, 'all have ended')
        before, resident = open_descriptors(pipes=True), _resident()
        # A hundred at a time: the threads of the backend are the tests' own.
        for _ in range(100):
            some(100)
            wait_until(lambda: not ours.connections, 'all have ended', interval=0.002)
        # Beside it, the machines may have opened a few.
        wait_until(lambda: (open_descriptors(pipes=True) - before).total() < 10,
                   'descriptors are closed')
        assert ours.counters['finished'] == 10_100
        assert engine.ended_by_path['shortcut'] > 9_000
        assert _resident() - resident < 32 << 20
    pairs = engine._choice.ways.shortcut.pairs
    wait_until(lambda: not pairs.count(), 'the maps are empty')
    assert threading.active_count() < 50


def _resident():
    with open('/proc/self/statm') as stream:
        return int(stream.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
