"""
Read a BPF ring buffer (BPF_MAP_TYPE_RINGBUF) by its shared pages.

A program writes a record's length, then the producer's position, and at last clears the record's
flag: they are read the other way round.
"""

from __future__ import annotations

import mmap

from ipc_bypass.kernel.ordering import full_barrier, WEAK

# Records begin with their length and two flags, uapi/linux/bpf.h, BPF_RINGBUF_*.
_BUSY, _DISCARDED, _HEADER = 1 << 31, 1 << 30, 8
_LENGTH = _DISCARDED - 1


class RingBuffer:
    """
    The reading end of a ring buffer; there must be one only.

    Records that wait to be read may be left where they are: what comes when there is no more
    room is lost for the program that wanted to write it, which notices.

    What cannot be a record is skipped with all that was written by then, and counted as one of
    `resynchronised`.

    :param fd: the map; it is for poll(2), too, and is not closed here
    :param size: bytes, as the map's max_entries
    :param least: bytes of the shortest record
    :param most: bytes of the longest one
    :raises OSError: when it cannot be mapped
    """

    def __init__(self, fd: int, size: int, *, least: int = 0, most: int = _LENGTH) -> None:
        page = mmap.PAGESIZE
        self._lengths, self.resynchronised = range(least, most + 1), 0
        self.fd, self._size = fd, size
        self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The data stand there twice, so that no record is cut by the end.
        self._theirs = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ,
                                 offset=page)
        self._consumed = memoryview(self._ours).cast('Q')
        self._produced = memoryview(self._theirs)[:8].cast('Q')
        self._words = memoryview(self._theirs)[page:].cast('I')
        self._data = memoryview(self._theirs)[page:]
        self._place = self._consumed[0]

    def read(self, most: int) -> list[bytes]:
        """Take out up to `most` records and return copies of them; never waits."""
        found: list[bytes] = []
        place, end = self._place, self._produced[0]
        while place < end and len(found) < most:
            if place % 8 or end - place > self._size:
                place = self._resynchronise(end)
                break
            start = place % self._size
            if WEAK:
                full_barrier()
            head = self._words[start // 4]
            if head & _BUSY:
                break
            if WEAK:
                full_barrier()
            length = head & _LENGTH
            if length not in self._lengths or place + length + _HEADER > end:
                place = self._resynchronise(end)
                break
            if not head & _DISCARDED:
                start += _HEADER
                found.append(bytes(self._data[start:start + length]))
            place += length + _HEADER + 7 & ~7
        self._move(place)
        return found

    def skip(self) -> None:
        """Let go of all that waits to be read."""
        self._place = self._consumed[0]
        while self._place < self._produced[0]:
            before = self._place
            self.read(1 << 16)
            if self._place == before:
                return  # a record that is being written

    def close(self) -> None:
        """Unmap it; the map stays open."""
        for view in (self._consumed, self._produced, self._words, self._data):
            view.release()
        self._ours.close()
        self._theirs.close()

    def _resynchronise(self, end: int) -> int:
        """Return where to go on: whatever stands before is not read."""
        self.resynchronised += 1
        return end

    def _move(self, place: int) -> None:
        if place != self._place:
            if WEAK:
                full_barrier()  # what was read is copied before its place is used again
            self._place = self._consumed[0] = place
