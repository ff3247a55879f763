"""What consumers may rely on, whatever is behind the pool: the program, or a file's writer."""

import itertools
import os
import random
import threading
import time

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool import layout
import pytest
from support.waiting import PATIENCE

SIZES = (0, 1, 2, 63, 64, 1472, 4095, 4096, 4097, 9000, 65506, 65507)


def take(consumer, count, most=4096):
    """Return copies of the next `count` payloads, released; none may come late."""
    found = []
    while len(found) < count:
        with consumer.read(PATIENCE, most) as batch:
            assert len(batch), f'{len(found)} of {count} came'
            found += [bytes(payload) for payload in batch.payloads()]
    assert len(found) == count
    return found


def numbered(count, first=0):
    return [b'%d' % number for number in range(first, first + count)]


def test_order_contents_and_sizes(pool, opened, ports):
    consumer, generator = opened(), random.Random(3)
    sizes = [*SIZES, *(generator.choice(SIZES) for _ in range(40))]
    payloads = [generator.randbytes(size) for size in sizes]
    before = time.monotonic_ns()
    for payload in payloads:
        pool.send(ports[1], payload)
    after, descriptors, got = time.monotonic_ns(), [], []
    while len(got) < len(payloads):
        with consumer.read(PATIENCE, 5) as batch:
            assert len(batch)
            assert batch.intact().all()
            descriptors += list(batch.descriptors)
            got += [bytes(payload) for payload in batch.payloads()]
            assert all(payload.readonly for payload in batch.payloads())
            assert bytes(batch.payload(len(batch) - 1)) == got[-1]
    assert got == payloads
    first = int(descriptors[0]['number'])
    assert [int(one['number']) for one in descriptors] == [*range(first, first + len(payloads))]
    times = [int(one['capture_ns']) for one in descriptors]
    assert times == sorted(times) and before <= times[0] and times[-1] <= after
    for one, payload in zip(descriptors, payloads, strict=True):
        assert one['length'] == one['original_length'] == len(payload)
        assert (one['slot'] >= pool.memory.slots[0]) == (len(payload) > 4096)
        assert (one['family'], one['action'], one['destination_port'], one['sender_pid']) == \
            (4, layout.DIVERT, ports[1], os.getpid())
        assert bytes(one['destination_address']) == bytes(10) + b'\xff\xff\x7f\0\0\x01'
    assert pool.used() == (0, 0)
    assert consumer.statistics.taken == consumer.statistics.released == len(payloads)


def test_the_ring_goes_round_many_times(pool, opened, ports):
    consumer, generator, sent, got = opened(), random.Random(5), 0, []
    while sent < pool.memory.ring_entries * 5:
        burst = generator.randrange(1, 400)
        for payload in numbered(burst, sent):
            pool.send(ports[0], payload)
        sent += burst
        got += take(consumer, burst, generator.choice([1, 7, 4096]))
    assert got == numbered(sent)
    assert pool.used() == (0, 0)


def test_owners_of_different_rules(pool, opened, ports):
    one, other = opened(f'udp:{ports[0]}'), opened(f'udp:{ports[1]}:divert')
    for number in range(50):
        pool.send(ports[number % 2], b'%d' % number)
    assert take(one, 25) == [b'%d' % number for number in range(0, 50, 2)]
    assert take(other, 25) == [b'%d' % number for number in range(1, 50, 2)]
    assert not len(one.read(0)) and not len(other.read(0))


def test_a_lease_is_refused_with_the_owners_name(pool, opened, ports):
    opened(f'udp:{ports[0]}', name='the first')
    with pytest.raises(PoolError, match=f"'the first' \\(pid {os.getpid()}\\) owns it") as caught:
        opened(f'udp:{ports[0]}')
    assert '\n' not in str(caught.value) and caught.value.next_step
    pool.wait_for_leases(1)
    assert len(opened().read(0)) == 0  # the other rule is free


def test_more_owners_than_rings(pool, opened, ports):
    pool.set_rules(*(f'udp:{port}:mirror' for port in ports[:4]))
    held = [opened(f'udp:{port}') for port in ports[:3]]
    with pytest.raises(PoolError, match='all 3 rings are taken'):
        opened(f'udp:{ports[3]}')
    held[1].close()
    pool.wait_for_leases(2)
    later = opened(f'udp:{ports[3]}')
    pool.send(ports[3], b'there')
    assert take(later, 1) == [b'there']


def test_a_lease_that_ends_is_another_ones(pool, opened, ports):
    rule = f'udp:{ports[0]}'
    for number in range(5):
        consumer = opened(rule)
        pool.send(ports[0], b'%d' % number)
        assert take(consumer, 1) == [b'%d' % number]
        consumer.close()
        with pytest.raises(PoolError, match='closed'):
            consumer.read(0)
        pool.wait_for_leases(0)


def test_observers_see_the_same(pool, opened, ports):
    owner = opened()
    observers = [opened(observe=True), opened(f'udp:{ports[0]}', observe=True),
                 opened(f'udp:{ports[0]}:divert', observe=True)]
    for number in range(100):
        pool.send(ports[number % 2], b'%d' % number)
    assert take(owner, 100) == numbered(100)
    assert take(observers[0], 100) == numbered(100)
    assert take(observers[1], 50) == numbered(100)[::2]
    assert not len(observers[2].read(0))
    assert [observer.statistics.missed for observer in observers] == [0, 0, 0]


def test_what_an_observer_missed(pool, opened, ports):
    """Overtaken by more than a ring: taken and missed are all there was, and in order."""
    owner, observer = opened(), opened(observe=True)
    first = pool.leases.all()[0].first + 1
    total = 0
    for laps in (0.5, 3, 1.2, 0.1):
        count, sent = int(pool.memory.ring_entries * laps), 0
        while sent < count:
            burst = min(200, count - sent)
            for payload in numbered(burst, total + sent):
                pool.send(ports[0], payload)
            assert len(take(owner, burst)) == burst
            sent += burst
        total += count
        while True:
            with observer.read(0) as batch:
                if not len(batch):
                    break
                payloads, intact = [bytes(each) for each in batch.payloads()], batch.intact()
                numbers = batch.descriptors['number'].astype(int)
                assert (numbers[1:] - numbers[:-1] == 1).all()
                for number, payload, whole in zip(numbers, payloads, intact, strict=True):
                    if whole:
                        assert int(payload) == number - first
        assert observer.statistics.taken + observer.statistics.missed == total
    assert observer.statistics.missed >= pool.memory.ring_entries * 2


def test_an_observer_is_told_what_was_torn(pool, opened, ports):
    owner, observer = opened(), opened(observe=True)
    for payload in numbered(10):
        pool.send(ports[0], payload)
    take(owner, 10)
    held = observer.read(PATIENCE)
    assert held.intact().all() and len(held) == 10
    for _ in range(4):  # every slot is used anew
        for payload in numbered(200):
            pool.send(ports[0], payload)
        take(owner, 200)
    assert not held.intact().any()
    assert not held.intact().any()
    assert observer.statistics.torn == 10
    observer.skip()
    assert not len(observer.read(0))


def test_timeouts(pool, opened, ports):
    for consumer in (opened(), opened(observe=True), opened(f'udp:{ports[5]}', spin=True)):
        for timeout in (0, 0.02):
            before = time.monotonic()
            with consumer.read(timeout) as batch:
                assert len(batch) == 0 and list(batch.payloads()) == []
            assert time.monotonic() - before >= timeout
        assert [len(batch) for batch in itertools.islice(consumer.batches(0), 2)] == [0, 0]


@pytest.mark.parametrize('options', [
    {}, {'spin': True}, {'observe': True}, {'observe': True, 'spin': True}], ids=str)
def test_waiting(pool, opened, ports, options):
    if 'observe' in options:
        opened()
    consumer = opened(**options)
    sender = threading.Thread(target=lambda: [
        (time.sleep(0.005), pool.send(ports[0], payload)) for payload in numbered(20)])
    sender.start()
    assert take(consumer, 20) == numbered(20)
    sender.join()
    assert (consumer.statistics.wakes == 0) == ('spin' in options)


@pytest.mark.parametrize('observe', [False, True], ids=['owner', 'observer'])
def test_no_wake_up_is_lost(pool, opened, ports, observe):
    """The sender waits for the consumer each time: without a wake-up neither would go on."""
    owner = opened()
    consumer = opened(observe=True) if observe else owner
    generator, went_on, count = random.Random(7), threading.Semaphore(0), 4000
    pauses = [generator.choice((0, 0, 1e-6, 2e-5, 1e-4)) for _ in range(count)]

    def send():
        for number, pause in enumerate(pauses):
            pool.send(ports[0], b'%d' % number)
            went_on.acquire()
            if pause:
                time.sleep(pause)

    sender = threading.Thread(target=send)
    sender.start()
    for number in range(count):
        # The heartbeat is far longer than this test: nothing else ends the wait.
        assert take(consumer, 1) == [b'%d' % number], consumer.statistics
        if observe:
            assert take(owner, 1) == [b'%d' % number]
        went_on.release()
    sender.join()
    assert consumer.statistics.wakes > count / 4, consumer.statistics


def test_watermark(pool, opened, ports):
    consumer, asleep, lengths = opened(watermark=10), threading.Event(), []
    wait = consumer._waking.wait

    def wait_and_tell(seconds):
        asleep.set()
        return wait(seconds)

    def read():
        with consumer.read(PATIENCE) as batch:
            lengths.append(len(batch))

    pool.send(ports[0], b'x')  # takes away the wish of an observer that is gone
    take(consumer, 1)
    wait(0)
    consumer._waking.wait = wait_and_tell
    for round_number in range(3):
        asleep.clear()
        reader = threading.Thread(target=read)
        reader.start()
        assert asleep.wait(PATIENCE)
        for _ in range(9):
            pool.send(ports[0], b'x')
        time.sleep(0.02)
        assert reader.is_alive()
        pool.send(ports[0], b'x')
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert consumer.statistics.wakes == round_number + 1
    assert lengths == [10] * 3
