"""The control socket: whatever is said there, the others are served."""

import contextlib
import json
import os
import random
import socket

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool.access import Access
from ipc_bypass.pool.channel import Client, VERSION
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.pool.control import ControlServer
import pytest
from support.descriptors import open_descriptors, wait_for_descriptors
from support.waiting import PATIENCE, wait_until

OPEN = {'op': 'open', 'version': VERSION, 'name': 'test', 'rules': [], 'claims': [],
        'observe': False}
GARBAGE = (
    b'', b'x', b'{', b'[]', b'null', b'3', b'\xff\xfe', b'{"op": 3}', b'{"op": ["open"]}',
    b'{"op": "no"}', b'{}', b'[' * 60_000, b'{"op":' * 9_000, os.urandom(60_000),
    b'{"op": "revoked", "ring": 1e999, "generation": 0}',
    b'{"op": "revoked", "ring": [], "generation": 0}', b'{"op": "revoked"}',
    b'{"op": "revoked", "ring": 0, "generation": 1}', b'{"op": "lease"}', b'{"op": "maps"}',
    b'{"op": "open"}', b'{"op": "exempt"}',
    *(json.dumps({**OPEN, **change}).encode() for change in (
        {'rules': 7}, {'rules': ['udp:0']}, {'rules': 'abc'}, {'rules': [None]},
        {'rules': ['tcp:5']}, {'claims': 3}, {'claims': ['nonsense']}, {'name': ['x'] * 5000},
        {'version': None}, {'observe': 'x'}, {'version': 1e300})))


@pytest.fixture
def pool(make_pool, ports):
    """Yield a pool in a file, with a rule."""
    with make_pool('file') as made:
        made.set_rules(f'udp:{ports[0]}:mirror')
        yield made
        assert not made.server.problems


def connect(pool):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(pool.control)
    sock.settimeout(PATIENCE)
    return sock


def works(pool, port):
    """Assert that a consumer is served."""
    with Consumer(control=pool.control) as consumer:
        pool.send(port, b'works')
        with consumer.read(PATIENCE) as batch:
            assert [bytes(payload) for payload in batch.payloads()] == [b'works']
    pool.wait_for_leases(0)


def test_garbage(pool, ports):
    works(pool, ports[0])
    before = open_descriptors()
    for garbage in GARBAGE:
        with connect(pool) as sock:
            sock.send(garbage)
            answer = json.loads(sock.recv(1 << 16) or b'{}')
            if answer.get('ok'):
                assert b'"open"' in garbage or b'exempt' in garbage
            elif garbage:
                assert '\n' not in answer['error']
            with contextlib.suppress(OSError):  # on the same connection, too
                sock.send(json.dumps(OPEN).encode())
                assert not garbage or json.loads(sock.recv(1 << 16))['ok']
    works(pool, ports[0])
    wait_for_descriptors(before)


def test_random_garbage_with_descriptors(pool, ports):
    works(pool, ports[0])
    before, generator = open_descriptors(), random.Random(1)
    handed = [os.eventfd(0), os.eventfd(0)]
    for _ in range(200):
        with connect(pool) as sock, contextlib.suppress(OSError):
            data = bytearray(json.dumps({**OPEN, 'op': generator.choice(
                ('open', 'exempt', 'maps'))}).encode())
            for _ in range(generator.randrange(3)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            socket.send_fds(sock, [bytes(data[:generator.choice((1, 40, 999))])], handed * 20)
            if generator.random() < 0.5:
                sock.recv(1 << 16)
    works(pool, ports[0])
    for fd in handed:
        os.close(fd)
    wait_for_descriptors(before)


def test_who_says_nothing_makes_room(pool, ports):
    """Silent connections take no place from consumers; with 64 of those, the next is refused."""
    silent = [connect(pool) for _ in range(64)]
    works(pool, ports[0])
    observers = [Consumer(control=pool.control, observe=True) for _ in range(64)]
    with pytest.raises(PoolError, match='64 consumers are connected'):
        Consumer(control=pool.control, observe=True)
    observers.pop().close()
    wait_until(lambda: len(pool.server.clients()) == 63, 'it is gone')
    works(pool, ports[0])
    for each in (*silent, *observers):
        each.close()


def test_who_does_not_read_is_dropped(pool, ports):
    with connect(pool) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(100_000):
                sock.send(json.dumps(OPEN).encode())
        works(pool, ports[0])


def test_a_node_that_does_not_answer(pool):
    """An answer that comes too late is not taken for the next one's."""
    client = Client(pool.control, timeout=0.05)
    with pool.server._leases.lock:
        client.ask(**OPEN)
        with pytest.raises(PoolError, match='timed out'):
            client.ask(op='lease')
        assert not client.alive()
    client.close()
    pool.wait_for_leases(0)


def test_another_version(pool, monkeypatch):
    monkeypatch.setattr('ipc_bypass.pool.consumer.VERSION', VERSION + 1)
    with pytest.raises(PoolError, match=f'it speaks version {VERSION + 1}, the node {VERSION}'):
        Consumer(control=pool.control)


def test_no_node(tmp_path):
    for path in (tmp_path / 'nothing', tmp_path / ('x' * 200)):
        with pytest.raises(PoolError, match=f'reach the node at {path}: .') as caught:
            Consumer(control=path)
        assert '\n' not in str(caught.value) and caught.value.next_step


def test_a_lease_is_ended_by_who_holds_it_only(pool, ports):
    with Consumer(control=pool.control) as owner:
        lease = pool.leases.all()[0]
        client = Client(pool.control)
        client.ask(**OPEN)
        with pytest.raises(PoolError, match='not one that ended'):
            client.ask(op='revoked', ring=lease.ring, generation=lease.generation)
        assert pool.leases.all() == [lease]
        client.close()
        answer, _ = owner._client.ask(op='revoked', ring=lease.ring, generation=lease.generation)
        assert answer['cursor'] == lease.first and pool.leases.all() == []
        with pytest.raises(PoolError, match='not one that ended'):
            owner._client.ask(op='revoked', ring=lease.ring, generation=lease.generation)


def test_where_it_listens(pool, tmp_path):
    def listen(path):
        return ControlServer(path, pool.leases, backing='file', descriptors=dict, heartbeat_ms=1,
                             access=Access(), exempt=None)

    with pytest.raises(PoolError, match='another node does'):
        listen(pool.control)
    (tmp_path / 'file').write_text('precious')
    with pytest.raises(PoolError, match='no socket'):
        listen(tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'precious'
    with pytest.raises(PoolError, match='listen at'):
        listen(tmp_path / ('x' * 200))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(tmp_path / 'left'))
    listen(tmp_path / 'left').close()
    assert not (tmp_path / 'left').exists()
