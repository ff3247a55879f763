"""Sleep until the writer of the pool says that there is something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import mmap
import os
import select


class Waking:
    """
    The wake-up descriptors of rings, in one epoll.

    They are BPF ring buffers (or eventfds, of a file backing), looked at edge-triggered: each
    wake-up ends a wait once, whatever was read. A ring buffer's records are not of interest, but
    somebody has to make room. The last one is left in it always: a ring that seems empty ends no
    wait.
    """

    def __init__(self, wakes: Mapping[int, int], control: int, ring: bool = True) -> None:
        """Take {ring number: descriptor} (duplicated), and the control socket's descriptor."""
        self._wakes = {number: os.dup(fd) for number, fd in wakes.items()}
        self._epoll, self._control = select.epoll(), control
        self._epoll.register(control, select.EPOLLIN | select.EPOLLRDHUP)
        self._room = {}
        self._is_ring = ring
        self.choose(wakes)

    def choose(self, numbers: Iterable[int]) -> None:
        """Wait for these rings from now on, and no others; nobody may have asked to be woken."""
        for fd in self._wakes.values():
            try:
                self._epoll.unregister(fd)
            except FileNotFoundError:
                pass
        for number in numbers:
            fd = self._wakes[number]
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            if self._is_ring and fd not in self._room:
                self._room[fd] = _Room(fd)
        # A ring that was woken by before is ready once when it is registered.
        self._epoll.poll(0)

    def wait(self, seconds: float) -> tuple[bool, bool]:
        """Wait; return (whether a ring woke us, whether the control socket has news)."""
        events = self._epoll.poll(seconds)
        ended = any(fd == self._control for fd, _ in events)
        for room in self._room.values():
            room.make()
        return len(events) > ended, ended

    def close(self) -> None:
        """Close the duplicates."""
        self._epoll.close()
        for room in self._room.values():
            room.close()
        for fd in self._wakes.values():
            os.close(fd)
        self._wakes, self._room = {}, {}


class _Room:
    """Makes room in a BPF ring buffer of one page (uapi/linux/bpf.h, BPF_RINGBUF_*)."""

    _RECORD = 16

    def __init__(self, fd):
        page = mmap.PAGESIZE
        self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._theirs = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = memoryview(self._ours).cast('Q')
        self._produced = memoryview(self._theirs).cast('Q')

    def make(self):
        # Others that sleep here write it too, and one that was stopped in between an old number.
        produced = self._produced[0]
        while not 0 <= produced - self._consumed[0] <= mmap.PAGESIZE // 2:
            self._consumed[0] = max(0, produced - self._RECORD)
            produced = self._produced[0]

    def close(self):
        self._consumed.release()
        self._produced.release()
        self._ours.close()
        self._theirs.close()
