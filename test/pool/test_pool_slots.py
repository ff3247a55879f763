"""The life of a slot: taken, released once, in any order, late, never, and above the limit."""

import os
import threading

from ipc_bypass.pool import layout
import numpy as np
import pytest
from support.udp_processes import ConsumerProcess
from support.waiting import PATIENCE, wait_until


def read(consumer, count):
    """Return batches of one that hold the next `count` datagrams."""
    found = [consumer.read(PATIENCE, 1) for _ in range(count)]
    assert [len(batch) for batch in found] == [1] * count
    return found


def test_release_in_any_order_and_twice(pool, opened, ports):
    consumer = opened()
    for size in (10, 5000, 20, 60000, 30, 0):
        pool.send(ports[0], bytes(size))
    held = read(consumer, 6)
    assert pool.used() == (4, 2)
    for position, used in ((3, (4, 1)), (0, (3, 1)), (5, (2, 1)), (1, (2, 0)), (4, (1, 0)),
                           (2, (0, 0))):
        assert bytes(held[position].payload(0)) == bytes(
            (10, 5000, 20, 60000, 30, 0)[position])
        for _ in range(2):
            held[position].release()
            assert pool.used() == used
    for batch in held:
        batch.release()
    assert consumer.statistics.released == 6
    assert pool.used_by_count() == (0, 0)


def test_batches_of_many_are_released_together(pool, opened, ports):
    consumer = opened()
    for number in range(300):
        pool.send(ports[0], bytes(5000 if number % 10 == 0 else 8))
    with consumer.read(PATIENCE) as batch:
        assert len(batch) == 300
        assert pool.used() == (270, 30)
    assert pool.used() == pool.used_by_count() == (0, 0)


@pytest.mark.parametrize('kind', [layout.SMALL, layout.LARGE], ids=['small', 'large'])
def test_above_the_limit_datagrams_pass(pool, opened, ports, kind):
    consumer, slots = opened(), pool.memory.slots[kind]
    limit = slots * 90 // 100
    size = 8 if kind == layout.SMALL else 5000
    for _ in range(slots + 20):
        pool.send(ports[0], bytes(size))
    held = []
    while len(held) == 0 or len(held[-1]):
        held.append(consumer.read(0))
    # The program looks up to eight times for a slot that is free.
    assert sum(map(len, held)) == limit == pool.used()[kind]
    assert pool.used()[1 - kind] == 0
    pool.send(ports[0], bytes(5000 if kind == layout.SMALL else 8))
    read(consumer, 1)[0].release()
    for batch in held:
        batch.release()
    pool.send(ports[0], b'again')
    assert bytes(read(consumer, 1)[0].payload(0)) == b'again'


def test_the_watchdog_frees_and_counts_by_owner(pool, opened, ports):
    one, other = opened(f'udp:{ports[0]}', name='one'), opened(f'udp:{ports[1]}', name='other')
    before = pool.watchdog.freed.copy()
    for number in range(30):
        pool.send(ports[number % 3 == 0], bytes(number * 400))
    held = [one.read(PATIENCE), other.read(PATIENCE)]
    assert sum(pool.used()) == 30
    pool.set(slot_ttl_ms=50)
    wait_until(lambda: sum(pool.used()) == 0, 'the watchdog frees them')
    pool.set(slot_ttl_ms=60_000)
    assert pool.watchdog.freed - before == {'one': 20, 'other': 10}
    wait_until(lambda: pool.used_by_count() == (0, 0), 'they are counted as free')
    for batch in held:
        batch.release()
    assert one.statistics.released == other.statistics.released == 0
    assert not pool.watchdog.problems


def test_a_late_release_frees_nothing(pool, opened, ports):
    """The slots were freed in the owner's place, and hold other datagrams by now."""
    consumer = opened()
    for number in range(40):
        pool.send(ports[0], bytes(number % 2 * 5000))
    late = [*read(consumer, 20), consumer.read(PATIENCE)]
    pool.set(slot_ttl_ms=50)
    wait_until(lambda: sum(pool.used()) == 0, 'the watchdog frees them')
    pool.set(slot_ttl_ms=60_000)
    old = np.concatenate([batch.descriptors['slot'] for batch in late])
    new = []
    while not set(old.tolist()) <= {slot for batch in new
                                    for slot in batch.descriptors['slot'].tolist()}:
        for number in range(60):
            pool.send(ports[0], bytes(number % 2 * 5000))
        batch = consumer.read(PATIENCE)
        if len(new) < 5:  # most are given back, so that the allocator comes round
            new = [each for each in new if each.intact().all()]
        if set(batch.descriptors['slot'].tolist()) & set(old.tolist()):
            new.append(batch)
        else:
            batch.release()
    used, released = pool.used(), consumer.statistics.released
    assert not any(batch.intact().any() for batch in late)
    for batch in late:
        batch.release()
    assert consumer.statistics.released == released
    assert pool.used() == used and all(batch.intact().all() for batch in new)
    for batch in new:
        batch.release()
    assert pool.used() == (0, 0)


def test_what_expired_is_not_handed_out(pool, opened, ports):
    consumer = opened(f'udp:{ports[0]}')  # mirrored: what is diverted would be sent on
    for _ in range(10):
        pool.send(ports[0], b'old')
    pool.set(slot_ttl_ms=50)
    wait_until(lambda: sum(pool.used()) == 0, 'the watchdog frees them')
    pool.set(slot_ttl_ms=60_000)
    pool.send(ports[0], b'new')
    assert bytes(read(consumer, 1)[0].payload(0)) == b'new'
    assert consumer.statistics.expired == 10


def test_a_killed_owner_leaves_no_drift(pool, ports):
    """Killed at any moment of its work, whatever it held and counted."""
    stop = threading.Event()

    def send():
        while not stop.is_set():
            pool.send(ports[0], bytes(64))
            pool.send(ports[1], bytes(6000))
            stop.wait(0.0005)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(3):
            with ConsumerProcess(pool.control) as consumer:
                consumer.ask('start')
                wait_until(lambda: sum(pool.memory.rings['released'].ravel().tolist()) > 200,
                           'it releases')
                os.kill(consumer.pid, 9)
            pool.wait_for_leases(0)
    finally:
        stop.set()
        sender.join()
    pool.set(slot_ttl_ms=50)
    wait_until(lambda: pool.used() == pool.used_by_count() == (0, 0), 'every slot is free')


def test_a_wrong_count_is_put_right(pool, opened, ports):
    consumer = opened()
    for wrong in (10 ** 6, 2 ** 63, 2 ** 64 - 5):
        ring = pool.memory.rings[pool.leases.all()[0].ring]
        with np.errstate(over='ignore'):
            ring['released'] = np.array([wrong, wrong // 3], np.uint64)
        wait_until(lambda: pool.used_by_count() == (0, 0), 'the count is right')
        pool.send(ports[0], b'x')
        assert sum(map(len, read(consumer, 1))) == 1
        pool.set(slot_ttl_ms=1)
        wait_until(lambda: pool.used_by_count() == (0, 0), 'the count is right')
        pool.set(slot_ttl_ms=60_000)
    assert not pool.watchdog.problems
