"""Write captures into the pool of a file backing, as the kernel's program does into its own."""

import os
import struct
import time
from typing import NamedTuple

from ipc_bypass.kernel.ordering import full_barrier, WEAK
from ipc_bypass.pool import layout
import numpy as np

_DESCRIPTOR = struct.Struct('<QQQQII16s16sHHBBHIIII')
_DESCRIPTOR_WORDS = layout.DESCRIPTOR.itemsize // 8
_SLOT_HEADER = struct.Struct('<QQIIIIII24x')
_RING_WORDS = layout.RING.itemsize // 8
_HEAD, _CURSOR, _HEARTBEAT, _OWNER_WAKE, _OBSERVER_WAKE = (
    layout.RING.fields[name][1] // 8
    for name in ('head', 'cursor', 'heartbeat_ns', 'owner_wake', 'observer_wake'))
#: How many slots are looked at for a free one.
_ATTEMPTS = 64
_WORD = (1 << 64) - 1


class Capture(NamedTuple):
    """What a descriptor tells of a payload; addresses are 16 bytes, ports in host order."""

    capture_ns: int
    cookie: int
    source_address: bytes
    destination_address: bytes
    source_port: int
    destination_port: int
    family: int
    action: int
    flags: int
    sender_pid: int
    receiver_pid: int
    rule_id: int
    #: Bytes of the whole, of which the payload may be the first ones.
    original_length: int


class PoolWriter:
    """
    The only writer of a pool.

    `claims` (uint64 a slot, small ones first) is the writer's side of `released`, as in the
    program: the sequence number of the datagram that a slot was claimed for, times two, plus one
    while it is being written. A slot is free where both name the same number.
    """

    def __init__(self, memory, wakes=None, *, heartbeat_ns=0, use_limit=0.9):
        """
        Begin with every slot free.

        :param memory: PoolMemory
        :param wakes: {ring: eventfd}, written to when a sleeping consumer asked for it
        :param heartbeat_ns: how old an owner's heartbeat may be; 0: any
        :param use_limit: share of the slots of a class above which nothing is captured
        """
        self.memory, self._wakes, self.heartbeat_ns = memory, dict(wakes or {}), heartbeat_ns
        self.claims = np.zeros(sum(memory.slots), dtype=np.uint64)
        self.claims[:] = memory.released << np.uint64(1)
        self.use_limit(use_limit)
        self._first = (0, memory.slots[layout.SMALL])
        self._next, self._used = [0, 0], [0, 0]
        self._sequence = [int(part.max(initial=0)) for part in
                          (memory.released[:memory.slots[0]], memory.released[memory.slots[0]:])]
        self.captured = self.captured_bytes = self.wakes = 0

    def use_limit(self, share):
        """Capture nothing while more than this share of the slots of a class is in use."""
        self._limits = [int(count * share) for count in self.memory.slots]

    def write(self, ring, payload, capture):
        """
        Put a payload into a slot and tell a ring; return '', or why it was not done.

        The reasons are those of the program: 'stale_heartbeat', 'too_large', 'ring_full',
        'pool_full', 'no_slot'. Nothing is changed then.
        """
        memory, words = self.memory, self.memory.ring_words
        base = ring * _RING_WORDS
        if self.heartbeat_ns and \
                time.monotonic_ns() - words[base + _HEARTBEAT] > self.heartbeat_ns:
            return 'stale_heartbeat'
        kind = layout.SMALL if len(payload) <= layout.SLOT_DATA[layout.SMALL] else layout.LARGE
        if len(payload) > layout.SLOT_DATA[kind]:
            return 'too_large'
        head = words[base + _HEAD]
        # The owner wrote the cursor: it may be anything.
        if (head - words[base + _CURSOR]) % 2 ** 64 >= memory.ring_entries:
            return 'ring_full'
        if self._is_full(kind):
            return 'pool_full'
        slot = self._free_slot(kind)
        if slot is None:
            return 'no_slot'
        sequence = self._fill(kind, slot, ring, payload, capture)
        self._publish(ring, head, slot, sequence, len(payload), capture)
        self.captured += 1
        self.captured_bytes += len(payload)
        self._wake(ring, head + 1 & _WORD)
        return ''

    def used(self, kind):
        """Return how many slots of a class are not free."""
        start = self._first[kind]
        end = start + self.memory.slots[kind]
        return int(np.count_nonzero(
            self.claims[start:end] >> np.uint64(1) != self.memory.released[start:end]))

    def free(self, slot, sequence):
        """Free a slot that nobody released, as the watchdog does; return whether it was held."""
        if int(self.claims[slot]) != sequence << 1 or self.memory.released[slot] == sequence:
            return False
        self.memory.released[slot] = sequence
        return True

    def _is_full(self, kind):
        """Return whether the limit is reached; counted anew only where it may be."""
        if self._used[kind] >= self._limits[kind]:
            self._used[kind] = self.used(kind)
        return self._used[kind] >= self._limits[kind]

    def _free_slot(self, kind):
        released, claims, first = self.memory.released, self.claims, self._first[kind]
        for _ in range(min(_ATTEMPTS, self.memory.slots[kind])):
            slot = first + self._next[kind]
            self._next[kind] = (self._next[kind] + 1) % self.memory.slots[kind]
            if int(released[slot]) == int(claims[slot]) >> 1:
                return slot
        return None

    def _fill(self, kind, slot, ring, payload, capture):
        """Write a slot, its sequence number last; return that."""
        self._sequence[kind] += 1
        sequence = self._sequence[kind]
        self.claims[slot] = sequence << 1 | 1
        self._used[kind] += 1
        number = slot - self._first[kind]
        sequences = self.memory.headers[kind]['sequence']
        sequences[number] = 0
        if WEAK:
            full_barrier()
        data, start = self.memory.data[kind], number * layout.SLOT[kind]
        _SLOT_HEADER.pack_into(data, start, 0, capture.capture_ns, capture.sender_pid,
                               capture.receiver_pid, len(payload), capture.flags, ring, 0)
        start += layout.SLOT_HEADER.itemsize
        data[start:start + len(payload)] = payload
        if WEAK:
            full_barrier()
        sequences[number] = sequence
        self.claims[slot] = sequence << 1
        return sequence

    def _publish(self, ring, head, slot, sequence, length, capture):
        """Write the next descriptor of a ring, its number last."""
        memory = self.memory
        # A consumer may have written the head: it goes round, as the program's does.
        number = head + 1 & _WORD
        # Reserved first, so that an observer sees that it is overtaken.
        memory.ring_words[ring * _RING_WORDS + _HEAD] = number
        if WEAK:
            full_barrier()
        place = (ring * memory.ring_entries + (head & (memory.ring_entries - 1)))
        place *= _DESCRIPTOR_WORDS
        packed = _DESCRIPTOR.pack(
            0, sequence, capture.capture_ns, capture.cookie, slot, length,
            capture.source_address, capture.destination_address, capture.source_port,
            capture.destination_port, capture.family, capture.action, capture.flags,
            capture.sender_pid, capture.receiver_pid, capture.rule_id, capture.original_length)
        words = memory.descriptor_words
        words[place + 1:place + _DESCRIPTOR_WORDS] = memoryview(packed).cast('Q')[1:]
        if WEAK:
            full_barrier()
        words[place] = number

    def _wake(self, ring, head):
        """Wake who sleeps until so many descriptors are there."""
        full_barrier()  # what was published is seen before the wish is read
        words, base = self.memory.ring_words, ring * _RING_WORDS
        wanted = words[base + _OWNER_WAKE]
        owner = wanted and (head - words[base + _CURSOR]) % 2 ** 64 >= wanted
        observer = words[base + _OBSERVER_WAKE]
        if not (owner or observer) or ring not in self._wakes:
            return
        if owner:
            words[base + _OWNER_WAKE] = 0
        words[base + _OBSERVER_WAKE] = 0
        self.wakes += 1
        try:
            os.eventfd_write(self._wakes[ring], 1)
        except BlockingIOError:
            pass  # the count is at its most: it is awake
