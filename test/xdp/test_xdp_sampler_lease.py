"""The right to read samples: one holder at a time, whoever races, dies or hangs."""

import os
import subprocess
import sys
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.uapi import MapType
from ipc_bypass.xdp.reader_lease import ReaderError, ReaderLease
from ipc_bypass.xdp.sampler_layout import LEASE, LEASE_KEY
import pytest
from support.waiting import wait_until

FRESH = 1_000_000_000


class Clock:
    """Nanoseconds that stand still until they are set."""

    now = 10 * FRESH

    def __call__(self):
        """Return them."""
        return self.now


@pytest.fixture
def maps():
    made = (syscall.map_create(MapType.HASH, LEASE_KEY.size, LEASE.size, 16),
            syscall.map_create(MapType.ARRAY, 4, 8, 3))
    yield made
    for fd in made:
        os.close(fd)


def lease(maps, reader='capture', clock=None):
    return ReaderLease(*maps, reader, fresh_ns=FRESH, clock=clock or Clock())


def test_of_many_takers_one_wins(maps):
    for _ in range(30):
        takers, won, refused = [lease(maps) for _ in range(8)], [], []
        barrier = threading.Barrier(len(takers))

        def take(taker, barrier=barrier, won=won, refused=refused):
            barrier.wait()
            try:
                taker.take('racer')
                won.append(taker)
            except ReaderError:
                refused.append(taker)
        threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, 7)
        won[0].beat()
        won[0].release()
    assert len(syscall.map_items(maps[0], LEASE_KEY.size, LEASE.size)) == 1


def test_readers_do_not_know_of_each_other(maps):
    node, capture = lease(maps, 'node'), lease(maps)
    node.take('a node')
    capture.take('a capture')
    assert node.holder == f'a node (pid {os.getpid()})'
    assert capture.holder == f'a capture (pid {os.getpid()})'
    capture.release()
    assert (capture.holder, bool(node.holder)) == ('', True)


def test_a_holder_that_does_not_beat_loses(maps):
    clock = Clock()
    first, second = lease(maps, clock=clock), lease(maps, clock=clock)
    first.take('first')
    clock.now += FRESH - 1
    first.beat()
    clock.now += FRESH - 1
    with pytest.raises(ReaderError, match="'first' .* reads them"):
        second.take('second')
    clock.now += 1
    second.take('second')
    with pytest.raises(ReaderError, match='another process took them'):
        first.beat()
    first.release()  # of what it has no more
    assert second.holder.startswith('second')
    second.beat()


def test_a_holder_that_was_killed_is_succeeded_at_once(maps):
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    holder = lease(maps)
    holder.take('child')
    key, entry = syscall.map_items(maps[0], LEASE_KEY.size, LEASE.size)[0]
    taken, _, namespace, name = LEASE.unpack(entry)
    syscall.map_update(maps[0], key, LEASE.pack(taken, child.pid, namespace, name))
    with pytest.raises(ReaderError, match=f'pid {child.pid}'):
        lease(maps).take('next')
    child.kill()
    child.wait()
    wait_until(lambda: not holder.holder, 'the death to be seen')
    lease(maps).take('next')
