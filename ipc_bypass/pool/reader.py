"""What an owner and an observer do with the memory of a pool: take, release, sleep."""

from __future__ import annotations

import struct
import time

from ipc_bypass.kernel.ordering import full_barrier, WEAK
from ipc_bypass.pool import layout
from ipc_bypass.pool.memory import PoolMemory
import numpy as np

_RING_WORDS = layout.RING.itemsize // 8
_BYTES = layout.DESCRIPTOR.itemsize
_WORDS = _BYTES // 8
_HEAD, _CURSOR, _HEARTBEAT, _OWNER_WAKE, _OBSERVER_WAKE, _GENERATION, _RELEASED, _REVOKED_AT = (
    layout.RING.fields[name][1] // 8 for name in
    ('head', 'cursor', 'heartbeat_ns', 'owner_wake', 'observer_wake', 'generation', 'released',
     'revoked_at'))
# 'sequence' and 'slot' of a descriptor's bytes.
_SINGLE = struct.Struct('<8xQ16xI').unpack_from
_WORD = (1 << 64) - 1
#: More than any sender can be ahead of an observer: the number was scribbled over.
_SENSELESS = 1 << 48
_STEPS = np.arange(1, 4097, dtype=np.uint64)

_frombuffer, _monotonic_ns, _DESCRIPTOR = np.frombuffer, time.monotonic_ns, layout.DESCRIPTOR


class Places:
    """
    Where a reader stands in one ring, and how it looks whether there is more.

    Single words are read by memoryviews: numpy takes ten times as long for one.
    """

    def __init__(self, memory: PoolMemory, ring: int, cursor: int | None = None) -> None:
        """Start at `cursor`, or at the ring's end."""
        self.memory, self.ring = memory, ring
        self._words, self._first = memory.ring_words, ring * _RING_WORDS
        self._numbers, self._bytes = memory.descriptor_words, memory.descriptor_bytes
        self._published_numbers = memory.descriptors['number'][ring]
        self._base, self._mask = ring * memory.ring_entries, memory.ring_entries - 1
        self.cursor = self.head() if cursor is None else cursor

    def head(self) -> int:
        """Return how many descriptors were reserved in this ring, ever."""
        return self._words[self._first + _HEAD]

    def skip(self) -> None:
        """Go on with what is captured from now on."""
        self.cursor = self.head()

    def watch(self) -> tuple[int, int]:
        """Return the word in which the next descriptor's number will stand, and that number."""
        return (self._base + (self.cursor & self._mask)) * _WORDS, self.cursor + 1

    def _next_alone(self) -> bool:
        """Return whether no other descriptor is there behind the next one."""
        after = self.cursor + 1
        return self._numbers[(self._base + (after & self._mask)) * _WORDS] != after + 1

    def _copy_one(self) -> bytearray:
        if WEAK:
            full_barrier()
        start = (self._base + (self.cursor & self._mask)) * _BYTES
        return bytearray(self._bytes[start:start + _BYTES])

    def _copy(self, most: int) -> np.ndarray:
        """Return a copy of the descriptors that are there, in order, `most` of them at most."""
        start, entries = self.cursor & self._mask, self._mask + 1
        count = max(0, min(most, entries, self.head() - self.cursor, len(_STEPS)))
        # The numbers first: what is copied after its number was seen is whole.
        ahead = self._published(start, min(count, entries - start), 0)
        if WEAK:
            full_barrier()
        first = (self._base + start) * _BYTES
        copied = bytearray(self._bytes[first:first + ahead * _BYTES])
        if entries - start == ahead < count:  # around the end of the ring
            behind = self._published(0, count - ahead, ahead)
            if WEAK:
                full_barrier()
            first = self._base * _BYTES
            copied += self._bytes[first:first + behind * _BYTES]
        return _frombuffer(copied, _DESCRIPTOR)

    def _published(self, start: int, count: int, gone: int) -> int:
        """Return how many of the places from one on are published, `gone` behind the cursor."""
        wrong = self._published_numbers[start:start + count] != \
            _STEPS[gone:gone + count] + np.uint64(self.cursor)
        return int(wrong.argmax()) if wrong.any() else count

    def _known(self, found: np.ndarray) -> np.ndarray:
        """Return those of `found` whose slots exist: somebody may have scribbled over them."""
        slots = found['slot']
        total = len(self.memory.released)
        return found if not len(found) or slots.max() < total else found[slots < total]


class OwnerPlaces(Places):
    """
    The owner's: it tells the program where it stands, that it lives, and what it gives back.

    `single` is what `give_back` needs of a descriptor that was taken alone, else None.
    """

    def __init__(self, memory: PoolMemory, ring: int, generation: int, cursor: int) -> None:
        """Begin a lease of a ring."""
        super().__init__(memory, ring, cursor)
        self.generation = generation
        self.single: tuple[int, int] | None = None
        self._released, self._small = memory.released_words, memory.slots[layout.SMALL]
        self.beat()

    def ready(self) -> bool:
        """Return whether the next descriptor is there: one load."""
        cursor = self.cursor
        return self._numbers[(self._base + (cursor & self._mask)) * _WORDS] == cursor + 1

    def beat(self) -> None:
        """Renew the heartbeat, and the cursor: a late owner before us may have written its own."""
        words, first = self._words, self._first
        words[first + _CURSOR] = self.cursor
        words[first + _HEARTBEAT] = _monotonic_ns()

    def take(self, most: int) -> np.ndarray:
        """Return a copy of what is there; go past it, publish that, and beat."""
        if most == 1 or self._next_alone():
            copied = self._copy_one()
            found = _frombuffer(copied, _DESCRIPTOR)
            # Of the copy: what stands in the ring may be scribbled over meanwhile.
            sequence, slot = _SINGLE(copied)
            self.single = slot, sequence
        else:
            found, self.single = self._copy(most), None
        if WEAK:
            full_barrier()  # the places may be used again once the cursor is seen
        self.cursor += len(found)
        words, first = self._words, self._first
        words[first + _CURSOR] = self.cursor
        words[first + _HEARTBEAT] = _monotonic_ns()
        return found

    def holds(self) -> bool:
        """Return whether the lease is still ours; asked after the cursor was published."""
        return self._words[self._first + _GENERATION] == self.generation

    def counted(self) -> int:
        """Return up to where a lease that was revoked counted, of a node that is gone; else 0."""
        if self._words[self._first + _GENERATION] != self.generation + 1:
            return 0
        return max(0, self._words[self._first + _REVOKED_AT] - 1)

    def fresh(self, found: np.ndarray) -> np.ndarray:
        """Return those of `found` whose slots the watchdog has not freed meanwhile."""
        if self.single:
            slot, sequence = self.single
            if slot < len(self._released) and self._released[slot] < sequence:
                return found
        found = self._known(found)
        held = self._held(found['slot'], found['sequence'])
        return found if held is None else found[held]

    def give_back(self, found: np.ndarray, single: tuple[int, int] | None) -> int:
        """Give the slots of descriptors back; return how many were ours to give."""
        words, counts = self._words, self._first + _RELEASED
        if WEAK:
            full_barrier()  # the payloads were read before the slots are used again
        if single:
            slot, sequence = single
            if self._released[slot] < sequence:
                counts += slot >= self._small
                words[counts] = words[counts] + 1 & _WORD
                self._released[slot] = sequence
                return 1
        slots, sequences = found['slot'], found['sequence']
        held = self._held(slots, sequences)
        if held is not None:
            slots, sequences = slots[held], sequences[held]
        small = int(np.count_nonzero(slots < self._small))
        # Counted first: killed in between, the pool looks a little emptier than it is.
        words[counts] = words[counts] + small & _WORD
        words[counts + 1] = words[counts + 1] + len(slots) - small & _WORD
        self.memory.released[slots] = sequences
        return len(slots)

    def _held(self, slots: np.ndarray, sequences: np.ndarray) -> np.ndarray | None:
        """Return which slots are ours still, None where all are."""
        released = self.memory.released[slots]
        held = released < sequences
        if held.all():
            return None
        # Freed in our place, and perhaps given to another; or somebody scribbled over the word.
        return held | ((released != sequences) & (self.memory.sequences(slots) == sequences))

    def ask_to_wake(self, watermark: int = 1) -> None:
        """Ask the program for a wake-up once so many are ready; full_barrier() has to follow."""
        self._words[self._first + _OWNER_WAKE] = watermark

    def awake(self) -> None:
        """Take the wish back."""
        self._words[self._first + _OWNER_WAKE] = 0


class ObserverPlaces(Places):
    """An observer's: its cursor is its own affair."""

    def __init__(self, memory: PoolMemory, ring: int) -> None:
        """Start at the ring's end."""
        super().__init__(memory, ring)
        self.missed = 0

    def ready(self) -> bool:
        """Return whether the next descriptor is there, or was overwritten already."""
        cursor = self.cursor
        # The head as well: somebody may have scribbled over a place that nobody uses.
        return self._numbers[(self._base + (cursor & self._mask)) * _WORDS] > cursor \
            and self._words[self._first + _HEAD] > cursor

    def take(self, most: int) -> np.ndarray:
        """Return a copy of what is there, and go past it; `missed` counts what was overwritten."""
        entries, start = self._mask + 1, self.cursor
        ahead = self.head() - start
        if not 0 <= ahead < _SENSELESS:
            self.skip()
            return np.empty(0, _DESCRIPTOR)
        if ahead > entries:
            # Somewhat more than was overwritten, or the sender overtakes us at once again.
            behind = ahead - entries * 7 // 8
            self.missed += behind
            self.cursor = start = start + behind
        found = _frombuffer(self._copy_one(), _DESCRIPTOR) \
            if most == 1 or self._next_alone() else self._copy(most)
        count = len(found)
        if count == 1 and found['number'][0] != start + 1:
            found, count = found[:0], 0
        # A place is reserved before it is overwritten: those that were, meanwhile, are no good.
        if WEAK:
            full_barrier()
        overtaken = self.head() - entries - start
        if overtaken > 0:
            lost = min(overtaken, count)
            found, self.missed = found[lost:], self.missed + lost
        elif not count and self._numbers[self.watch()[0]] > start + 1:
            self.missed, count = self.missed + 1, 1  # somebody scribbled over it
        self.cursor = start + count
        return self._known(found)

    def beat(self) -> None:
        """Go back to the ring's end where somebody scribbled over the head."""
        if self.head() < self.cursor:
            self.skip()

    def ask_to_wake(self, _watermark: int = 1) -> None:
        """Ask the program for a wake-up at the next descriptor; full_barrier() has to follow."""
        self._words[self._first + _OBSERVER_WAKE] = 1

    def awake(self) -> None:
        """Leave the wish: another observer may sleep."""
