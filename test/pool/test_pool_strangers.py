"""Consumers that may do as they like: mad ones, ordinary users, users of another group."""

import os
from pathlib import Path
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import ipc_bypass
from ipc_bypass.pool.channel import Client
from ipc_bypass.pool.consumer import Consumer
import pytest
from support.processes import Script
from support.waiting import PATIENCE, wait_until

ROOT = Path(ipc_bypass.__file__).resolve().parents[1]
NOBODY = pwd.getpwnam('nobody')
GROUP = 61235
READ = """
import sys
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool.consumer import Consumer
try:
    with Consumer([sys.argv[2]], control=sys.argv[1]) as consumer:
        print('ready', flush=True)
        with consumer.read(30) as batch:
            print(*[bytes(payload).decode() for payload in batch.payloads()])
except BypassError as error:
    print(error)
"""


class Sender:
    """A thread that sends small and large datagrams to ports, and counts errors."""

    def __init__(self, ports):
        self._ports, self.sent, self.errors, self._stop = ports, 0, [], threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._stop.set()
        self._thread.join()

    def _run(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not self._stop.is_set():
                for port in self._ports:
                    for size in (10, 5000):
                        try:
                            sock.sendto(bytes(size), ('127.0.0.1', port))
                            self.sent += 1
                        except OSError as error:
                            self.errors.append(error)
                self._stop.wait(0.0005)


@pytest.fixture(scope='module')
def own_pool(privileged, make_pool):
    """Yield a pool of which other tests need not know what is done to it."""
    with make_pool('kernel') as made:
        yield made
        assert made.path.pool['leases'] == []


@pytest.mark.parametrize('parts', [[], ['rings'], ['descriptors', 'released']], ids=lambda
                         parts: '+'.join(parts) or 'everything')
def test_a_consumer_that_scribbles(own_pool, ports, parts):
    """Senders never notice; when it is gone the pool and its other consumers recover."""
    pool = own_pool
    pool.set(heartbeat_ms=1000, slot_ttl_ms=100)
    pool.set_rules(f'udp:{ports[0]}:mirror', f'udp:{ports[1]}:divert')
    receivers = []
    for port in ports[:2]:
        receivers.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receivers[-1].bind(('127.0.0.1', port))
    owner, observer = Consumer(control=pool.control), Consumer(control=pool.control, observe=True)
    stop, faults = threading.Event(), []

    def read(consumer):
        try:
            while not stop.is_set():
                with consumer.read(0.05) as batch:
                    [bytes(payload[:8]) for payload in batch.payloads()]
                    batch.intact()
        except Exception as error:
            faults.append(error)
            raise

    readers = [threading.Thread(target=read, args=[each]) for each in (owner, observer)]
    with owner, observer, Sender(ports[:2]) as sender:
        for reader in readers:
            reader.start()
        with Script('scribbler_process.py', pool.control) as scribbler:
            scribbler.answer()
            before = sender.sent
            assert scribbler.ask('scribble', 6, parts)
            wait_until(lambda: sender.sent > before + 100, 'the sender goes on')
        # Both go on by themselves, whatever was in their rings.
        for consumer in (owner, observer):
            taken = consumer.statistics.taken
            wait_until(lambda one=consumer, taken=taken: one.statistics.taken > taken + 500,
                       'a consumer goes on')
        stop.set()
        for reader in readers:
            reader.join()
        assert not sender.errors and not faults
    for receiver in receivers:
        receiver.close()
    wait_until(lambda: pool.used() == pool.used_by_count() == (0, 0), 'every slot is free')
    pool.set(heartbeat_ms=20_000, slot_ttl_ms=60_000)
    with Consumer(control=pool.control) as consumer:  # the header is right again, too
        for number in range(300):
            pool.send(ports[0], b'%d' % number)
        found = []
        while len(found) < 300:
            with consumer.read(PATIENCE) as batch:
                assert len(batch)
                found += [int(bytes(payload)) for payload in batch.payloads()]
        assert found == [*range(300)]
    assert not pool.watchdog.problems and not pool.server.problems


@pytest.fixture
def folder():
    """Yield a folder that every user can look into, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix='ipcb_test_'))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_nobody(pool, port, groups):
    """Start a consumer of a port as nobody, in these groups."""
    words = ['--groups', ','.join(map(str, groups))] if groups else ['--clear-groups']
    return subprocess.Popen(
        ['setpriv', f'--reuid={NOBODY.pw_uid}', f'--regid={NOBODY.pw_gid}', *words, 'env',
         f"PYTHONPATH={os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}",
         sys.executable, '-c', READ, pool.control, f'udp:{port}'],
        stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize('backing', ['kernel', 'file'])
def test_an_ordinary_user_of_the_group(request, make_pool, ports, folder, backing):
    if backing == 'kernel':
        request.getfixturevalue('privileged')
    with make_pool(backing, folder, pool_group=str(GROUP)) as pool:
        pool.set_rules(f'udp:{ports[2]}:divert')
        with as_nobody(pool, ports[2], [GROUP]) as process:
            assert process.stdout.readline() == 'ready\n'
            pool.send(ports[2], b'hello')
            assert process.communicate(timeout=PATIENCE)[0] == 'hello\n'
        for groups in ([], [GROUP + 1]):
            with as_nobody(pool, ports[2], groups) as process:
                said = process.communicate(timeout=PATIENCE)[0]
            assert said.count('\n') == 1
            assert 'Permission denied' in said and 'pool_group' in said


@pytest.mark.parametrize('shared_pool', ['kernel'], indirect=True)
def test_by_pins_or_by_descriptors(pool, ports, monkeypatch):
    """Where the pins cannot be opened, or are another node's, the socket hands them over."""
    asked, changed, original = [], {}, Client.ask

    def note(client, **request):
        asked.append(request['op'])
        answer, descriptors = original(client, **request)
        return {**answer, **changed}, descriptors

    monkeypatch.setattr(Client, 'ask', note)
    for change, wanted in (({}, ['open', 'lease']),
                           ({'pins': '/sys/fs/bpf/no_such'}, ['open', 'maps', 'lease']),
                           ({'pool_id': 1}, ['open', 'maps', 'lease']),
                           ({'pins': ''}, ['open', 'maps', 'lease'])):
        asked.clear()
        changed.clear()
        changed.update(change)
        with Consumer(control=pool.control) as consumer:
            assert asked == wanted
            pool.send(ports[0], b'x')
            assert len(consumer.read(PATIENCE)) == 1
        pool.wait_for_leases(0)


def test_counters_in_the_header(pool, opened, ports):
    if pool.backing == 'file':
        return  # who makes the pool refreshes them
    header, before = pool.memory.header[0], pool.memory.header[0].copy()
    consumer = opened()
    for _ in range(7):
        pool.send(ports[0], bytes(100))
    held = consumer.read(PATIENCE)
    wait_until(lambda: header['slots_used'].tolist() == [7, 0], 'the use is shown')
    assert header['captured'] - before['captured'] == 7
    assert header['captured_bytes'] - before['captured_bytes'] == 700
    held.release()
    wait_until(lambda: header['slots_used'].tolist() == [0, 0], 'the use is shown')
    consumer.close()
    pool.wait_for_leases(0)
    pool.send(ports[0], b'passes')
    wait_until(lambda: header['passed'] - before['passed'] == 1, 'it is counted')
    pool.set(slot_ttl_ms=10)
    with Consumer(control=pool.control) as again:
        pool.send(ports[0], b'kept')
        assert len(again.read(PATIENCE)) == 1
        wait_until(lambda: header['freed_by_watchdog'] > before['freed_by_watchdog'], 'freed')
