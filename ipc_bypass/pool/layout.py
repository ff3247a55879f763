"""
The layout of the pool, for processes that have no compiler: a mirror of pool_layout.h.

test/pool holds sizes, offsets and constants against what the compiler made of the header.
"""

import numpy as np

MAGIC = 0x4c4f4f50
VERSION = 1
SMALL, LARGE = 0, 1
#: Bytes of data in a slot, by class.
SLOT_DATA = (4096, 65536)
#: Bytes of the largest datagram that is captured.
LARGEST_PAYLOAD = 65527
#: Least numbers of slots, by class.
FEWEST_SLOTS = (512, 64)
MIRROR, DIVERT = 2, 3
ACTIONS = {MIRROR: 'mirror', DIVERT: 'divert'}
TRUNCATED, TCP = 1, 2

HEADER = np.dtype([
    ('magic', '<u4'), ('version', '<u4'), ('header_bytes', '<u4'), ('slot_header_bytes', '<u4'),
    ('slot_data_bytes', '<u4', (2,)), ('slots', '<u4', (2,)), ('rings', '<u4'),
    ('ring_entries', '<u4'), ('descriptor_bytes', '<u4'), ('tick_ms', '<u4'),
    ('slots_used', '<u8', (2,)), ('captured', '<u8'), ('captured_bytes', '<u8'),
    ('passed', '<u8'), ('freed_by_watchdog', '<u8'), ('sent_on', '<u8'), ('stranded', '<u8')])

SLOT_HEADER = np.dtype([
    ('sequence', '<u8'), ('capture_ns', '<u8'), ('sender_pid', '<u4'), ('receiver_pid', '<u4'),
    ('length', '<u4'), ('flags', '<u4'), ('ring', '<u4'), ('unused_word', '<u4'),
    ('unused', '<u8', (3,))])

DESCRIPTOR = np.dtype([
    ('number', '<u8'), ('sequence', '<u8'), ('capture_ns', '<u8'), ('cookie', '<u8'),
    ('slot', '<u4'), ('length', '<u4'), ('source_address', 'u1', (16,)),
    ('destination_address', 'u1', (16,)), ('source_port', '<u2'), ('destination_port', '<u2'),
    ('family', 'u1'), ('action', 'u1'), ('flags', '<u2'), ('sender_pid', '<u4'),
    ('receiver_pid', '<u4'), ('rule_id', '<u4'), ('original_length', '<u4')])

RING = np.dtype([
    ('head', '<u8'), ('program_unused', '<u8', (7,)),
    ('cursor', '<u8'), ('heartbeat_ns', '<u8'), ('owner_wake', '<u8'),
    ('released', '<u8', (2,)), ('owner_unused', '<u8', (3,)),
    ('observer_wake', '<u8'), ('observer_unused', '<u8', (7,)),
    ('generation', '<u8'), ('revoked_at', '<u8'), ('owner_pid', '<u4'), ('node_pid', '<u4'),
    ('node_unused', '<u8', (5,))])

#: Bytes of a slot, by class.
SLOT = tuple(SLOT_HEADER.itemsize + size for size in SLOT_DATA)
#: The parts of a pool's memory, in the order in which a file holds them.
PARTS = ('pool_header', 'small_slots', 'large_slots', 'released', 'rings', 'descriptors')


def part_bytes(slots, rings, ring_entries):
    """Return {part: bytes} of a pool with (small, large) slots, rings of so many descriptors."""
    return {'pool_header': HEADER.itemsize, 'small_slots': SLOT[SMALL] * slots[SMALL],
            'large_slots': SLOT[LARGE] * slots[LARGE], 'released': 8 * sum(slots),
            'rings': RING.itemsize * rings,
            'descriptors': DESCRIPTOR.itemsize * rings * ring_entries}


def slot_counts(pool_bytes):
    """
    Return how many (small, large) slots a pool of so many bytes has: half of it each.

    Never fewer than FEWEST_SLOTS; the rings come on top.
    """
    return tuple(max(fewest, int(pool_bytes) // 2 // size)
                 for fewest, size in zip(FEWEST_SLOTS, SLOT, strict=True))


def entries_for(slots):
    """Return the descriptors of one ring: a power of two, more than there are slots."""
    return 1 << (sum(slots) + 64).bit_length()
