"""The writer of a file backing: what it writes is what consumers read, and it never overruns."""

import os
import time

from ipc_bypass.pool import layout
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.writer import Capture, PoolWriter
import pytest
from support.pool_owner import PoolOwner

RING = 1
SLOTS = layout.FEWEST_SLOTS
CAPTURE = Capture(
    capture_ns=1234, cookie=77, source_address=bytes(range(16)),
    destination_address=bytes(range(16, 32)), source_port=7000, destination_port=7400, family=6,
    action=layout.MIRROR, flags=layout.TRUNCATED, sender_pid=42, receiver_pid=43, rule_id=5,
    original_length=9000)


@pytest.fixture
def memory(tmp_path):
    """Return a pool's memory with the fewest slots and two rings."""
    return PoolMemory.create_file(tmp_path / 'pool', SLOTS, 2)


@pytest.fixture
def writer(memory):
    """Return its writer."""
    return PoolWriter(memory)


@pytest.fixture
def owner(memory):
    """Return the owner of its ring."""
    return PoolOwner(memory, RING)


def fill(writer, reason=''):
    """Write until it is refused; return (how many were written, the reason)."""
    count = 0
    while not (reason := writer.write(RING, b'x', CAPTURE)):
        count += 1
    return count, reason


@pytest.mark.parametrize('size', [0, 1, 256, 4096, 4097, 65507])
def test_a_payload(memory, writer, owner, tmp_path, size):
    """Payload and descriptor arrive as written, also in another mapping of the file."""
    payload = os.urandom(size)
    assert writer.write(RING, payload, CAPTURE) == ''
    found = owner.take(10)
    other = PoolMemory.from_file(tmp_path / 'pool')
    for pool in (memory, other):
        assert bytes(pool.payload(int(found['slot'][0]), int(found['length'][0]))) == payload
        assert pool.sequences(found['slot']).tolist() == found['sequence'].tolist() == [1]
    one = found[0]
    assert (one['number'], one['length'], one['original_length']) == (1, size, 9000)
    assert one['slot'] == (0 if size <= 4096 else SLOTS[layout.SMALL])
    assert one['source_address'].tobytes() == CAPTURE.source_address
    assert one['destination_address'].tobytes() == CAPTURE.destination_address
    for name in ('capture_ns', 'cookie', 'source_port', 'destination_port', 'family', 'action',
                 'flags', 'sender_pid', 'receiver_pid', 'rule_id'):
        assert one[name] == getattr(CAPTURE, name)
    kind = int(size > 4096)
    header = memory.headers[kind][0]
    assert [int(header[name]) for name in ('sequence', 'length', 'flags', 'ring')] == [
        1, size, layout.TRUNCATED, RING]
    assert (writer.captured, writer.captured_bytes) == (1, size)


def test_too_large(writer):
    """A payload that fits no slot is refused."""
    assert writer.write(RING, bytes(65537), CAPTURE) == 'too_large'


def test_many_rounds(writer, owner):
    """Slots and places are used again and again; numbers and sequence numbers go on."""
    for turn in range(40):
        payloads = [b'%d %d' % (turn, number) for number in range(100)]
        assert [writer.write(RING, payload, CAPTURE) for payload in payloads] == [''] * 100
        found = owner.take(4096)
        assert [owner.payload(one) for one in found] == payloads
        assert found['number'].tolist() == list(range(100 * turn + 1, 100 * turn + 101))
        assert found['sequence'].tolist() == found['number'].tolist()
        owner.release(found)
    assert writer.used(layout.SMALL) == 0


def test_full_pool(writer, owner):
    """Above 90 % nothing is captured; once slots are given back it goes on."""
    limit = SLOTS[layout.SMALL] * 9 // 10
    assert fill(writer) == (limit, 'pool_full')
    assert writer.used(layout.SMALL) == limit
    assert writer.write(RING, bytes(5000), CAPTURE) == ''  # the other class has room
    owner.release(owner.take(100))
    assert fill(writer) == (100, 'pool_full')


def test_full_ring(memory, writer):
    """What the owner has not taken is not overwritten, and a cursor of nonsense is no way in."""
    memory.rings[RING]['head'] = memory.rings[RING]['cursor'] = 2 ** 40
    memory.rings[RING]['cursor'] -= memory.ring_entries
    assert writer.write(RING, b'', CAPTURE) == 'ring_full'
    memory.rings[RING]['cursor'] = 2 ** 50
    assert writer.write(RING, b'', CAPTURE) == 'ring_full'
    memory.rings[RING]['cursor'] = 2 ** 40
    assert writer.write(RING, b'', CAPTURE) == ''


def test_slots_that_nobody_released(memory, writer, owner):
    """The watchdog frees a slot once; the owner's late release changes nothing."""
    assert writer.write(RING, b'late', CAPTURE) == ''
    found = owner.take(1)
    slot, sequence = int(found['slot'][0]), int(found['sequence'][0])
    assert not writer.free(slot, sequence + 1)
    assert writer.free(slot, sequence)
    assert not writer.free(slot, sequence)
    assert writer.used(layout.SMALL) == 0
    assert owner.release(found) == 0


def test_stale_heartbeat(memory):
    """Where the owner has not read for too long, nothing is captured for it."""
    memory.rings[RING]['heartbeat_ns'] = time.monotonic_ns()
    writer = PoolWriter(memory, heartbeat_ns=10 ** 12)
    assert writer.write(RING, b'', CAPTURE) == ''
    memory.rings[RING]['heartbeat_ns'] = 0
    writer = PoolWriter(memory, heartbeat_ns=1)
    assert writer.write(RING, b'', CAPTURE) == 'stale_heartbeat'


def test_wakes(memory, owner):
    """Who sleeps is woken at its watermark, once; who does not sleep is left alone."""
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        writer = PoolWriter(memory, {RING: wake})
        writer.write(RING, b'', CAPTURE)
        assert writer.wakes == 0
        memory.rings[RING]['owner_wake'] = 4  # one is there already
        for _ in range(3):
            writer.write(RING, b'', CAPTURE)
        assert (writer.wakes, os.eventfd_read(wake)) == (1, 1)
        memory.rings[RING]['observer_wake'] = 1
        writer.write(RING, b'', CAPTURE)
        writer.write(RING, b'', CAPTURE)
        assert (writer.wakes, os.eventfd_read(wake)) == (2, 1)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(wake)
    finally:
        os.close(wake)


def test_overwritten_places(memory, writer, owner):
    """A ring goes round: the head says how far, numbers say which descriptor is the new one."""
    count = memory.ring_entries + 50
    for _ in range(count):
        assert writer.write(RING, b'x', CAPTURE) == ''
        owner.release(owner.take())
    assert memory.rings[RING]['head'] == memory.rings[RING]['cursor'] == count
    numbers = memory.descriptors[RING]['number'].tolist()
    assert numbers == [*range(memory.ring_entries + 1, count + 1),
                       *range(51, memory.ring_entries + 1)]
