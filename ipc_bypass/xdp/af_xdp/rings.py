"""
The rings between an AF_XDP socket and the kernel, as numpy arrays over mmap.

One side writes entries and then the producer's number, the other reads them and then writes the
consumer's: in this order, which some machines have to be told (kernel/ordering.py). Words are read
in this processor's order, the low half first.
"""

from __future__ import annotations

import mmap

from ipc_bypass.kernel.ordering import full_barrier, WEAK
from ipc_bypass.xdp.af_xdp.uapi import NEED_WAKEUP
import numpy as np

_WORD = (1 << 32) - 1


class Ring:
    """
    What both kinds of rings have in common.

    Single words are read by memoryviews: numpy takes several times as long for one.
    """

    def __init__(self, fd: int, page_offset: int, offsets: tuple[int, int, int, int],
                 entries: int, dtype: np.dtype) -> None:
        """
        Map the ring of a socket; raises OSError.

        :param page_offset: one of uapi.PageOffset
        :param offsets: of producer, consumer, entries and flags, bytes
        :param entries: a power of two
        """
        producer, consumer, first, flags = offsets
        self.entries, self._mask = entries, entries - 1
        memory = mmap.mmap(fd, first + entries * dtype.itemsize,
                           mmap.MAP_SHARED | mmap.MAP_POPULATE,
                           mmap.PROT_READ | mmap.PROT_WRITE, offset=page_offset)
        self._memory = memoryview(memory)
        self._words = self._memory.cast('I')
        # The entries as words of 8 bytes, for a few of them.
        self._long = self._memory[first:first + entries * dtype.itemsize].cast('Q')
        self._array = np.frombuffer(memory, dtype, entries, first)
        self._producer_at, self._consumer_at, self._flags_at = (
            producer // 4, consumer // 4, flags // 4)

    @property
    def waiting(self) -> int:
        """Return how many entries are in the ring."""
        return (self._words[self._producer_at] - self._words[self._consumer_at]) & _WORD

    @property
    def needs_wakeup(self) -> bool:
        """Return whether the kernel asked to be woken."""
        return bool(self._words[self._flags_at] & NEED_WAKEUP)

    def content(self) -> np.ndarray:
        """Return a copy of what is in the ring."""
        return self._copy(self._words[self._consumer_at], self.waiting)

    def close(self) -> None:
        """Let the memory go; the socket lives as long as a ring of it is mapped."""
        self._array = None
        for view in (self._words, self._long, self._memory):
            view.release()

    def _copy(self, begin, count):
        first = begin & self._mask
        end = first + count
        if end <= self.entries:
            return self._array[first:end].copy()
        return np.concatenate((self._array[first:], self._array[:end - self.entries]))


class ProducerRing(Ring):
    """A ring that this process fills: fill and tx."""

    def __init__(self, *arguments) -> None:
        """Map it, empty as the kernel made it."""
        super().__init__(*arguments)
        self._producer = self._words[self._producer_at]

    @property
    def room(self) -> int:
        """Return how many entries can be put in."""
        return self.entries - self.held

    @property
    def held(self) -> int:
        """Return how many entries the kernel has not taken out yet."""
        return (self._producer - self._words[self._consumer_at]) & _WORD

    def put(self, entries: np.ndarray) -> None:
        """Put entries in, for which there must be room, and show them to the kernel."""
        count = len(entries)
        first = self._producer & self._mask
        end = first + count
        if end <= self.entries:
            self._array[first:end] = entries
        else:
            split = self.entries - first
            self._array[first:] = entries[:split]
            self._array[:end - self.entries] = entries[split:]
        self._publish(count)

    def put_packets(self, addresses: np.ndarray, lengths: np.ndarray) -> None:
        """Put packets in, for which there must be room, and show them to the kernel."""
        packets = np.zeros(len(addresses), self._array.dtype)
        packets['address'], packets['length'] = addresses, lengths
        self.put(packets)

    def put_few(self, addresses: list[int], lengths: list[int] | None = None) -> None:
        """Put a few entries in, as `put` does or, with lengths, as `put_packets`."""
        place, mask, words = self._producer, self._mask, self._long
        if lengths is None:
            for address in addresses:
                words[place & mask] = address
                place += 1
        else:
            for address, length in zip(addresses, lengths):  # noqa: B905
                at = (place & mask) * 2
                words[at], words[at + 1] = address, length
                place += 1
        if WEAK:
            full_barrier()
        self._producer = self._words[self._producer_at] = place & _WORD

    def _publish(self, count):
        if WEAK:
            full_barrier()
        self._producer = (self._producer + count) & _WORD
        self._words[self._producer_at] = self._producer


class ConsumerRing(Ring):
    """A ring that the kernel fills: rx and completion."""

    def __init__(self, *arguments) -> None:
        """Map it, empty as the kernel made it."""
        super().__init__(*arguments)
        self._consumer = self._words[self._consumer_at]
        self._nothing = self._array[:0]

    def take(self, most: int) -> np.ndarray:
        """Return a copy of up to so many entries, whose places the kernel may use again."""
        begin = self._consumer
        count = (self._words[self._producer_at] - begin) & _WORD
        if not count:
            return self._nothing
        if count > most:
            count = most
        if WEAK:
            full_barrier()
        found = self._copy(begin, count)
        if WEAK:
            full_barrier()
        self._consumer = self._words[self._consumer_at] = (begin + count) & _WORD
        return found

    def take_few(self, count: int) -> tuple[list[int], list[int]]:
        """Return (addresses, lengths) of packets; there must be so many."""
        place, mask, words = self._consumer, self._mask, self._long
        addresses, lengths = [], []
        if WEAK:
            full_barrier()
        for _ in range(count):
            at = (place & mask) * 2
            addresses.append(words[at])
            lengths.append(words[at + 1] & _WORD)
            place += 1
        if WEAK:
            full_barrier()
        self._consumer = self._words[self._consumer_at] = place & _WORD
        return addresses, lengths

    @property
    def ready(self) -> int:
        """Return how many entries there are."""
        return (self._words[self._producer_at] - self._consumer) & _WORD

    def close(self) -> None:
        """Let the memory go."""
        self._nothing = None
        super().close()
