"""UMEM: the memory that AF_XDP sockets put packets into, in frames of one size."""

from __future__ import annotations

import mmap

from ipc_bypass.kernel.errors import BypassError
import numpy as np


class Umem:
    """
    Frames of packet memory, and the stack of those that are free.

    A frame is named by the address of its first byte within the memory; a packet's address lies
    within its frame. Not thread-safe: a UMEM and its sockets belong to one thread.

    frames      uint8, shape (frames, frame_size): the memory itself
    view        the same as one memoryview of bytes
    """

    def __init__(self, frames: int, frame_size: int) -> None:
        """Take the memory, with every frame free; raises BypassError."""
        self.count, self.frame_size = frames, frame_size
        size = frames * frame_size
        try:
            # Shared, so that a fork does not part us from the pages that the kernel writes.
            self._memory = mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
                                     | mmap.MAP_POPULATE)
        except (OSError, ValueError) as error:
            raise BypassError(f'take {size} bytes for the UMEM', str(error),
                              errno=getattr(error, 'errno', 0) or 0,
                              next_step='use fewer frames') from error
        self.view = memoryview(self._memory)
        self.bytes = np.frombuffer(self._memory, np.uint8)
        self.frames = self.bytes.reshape(frames, frame_size)
        self.size = size
        self._records: dict = {}
        # From an address to its frame.
        self.mask = np.uint64(~(frame_size - 1) & (1 << 64) - 1)
        self._free = np.arange(frames, dtype=np.uint64) * np.uint64(frame_size)
        self._count = frames

    @property
    def address(self) -> int:
        """Return where the memory is in this process."""
        return self.bytes.ctypes.data

    @property
    def free(self) -> int:
        """Return how many frames are free."""
        return self._count

    def records(self, dtype: np.dtype, offset: int) -> np.ndarray:
        """Return the memory as one record a frame, each `offset` bytes into its frame."""
        key = dtype, offset
        found = self._records.get(key)
        if found is None:
            if offset + dtype.itemsize > self.frame_size:
                raise ValueError(f'{dtype.itemsize} bytes at {offset} leave the frame')
            found = self._records[key] = np.ndarray(
                (self.count,), dtype, self._memory, offset, (self.frame_size,))
        return found

    def take(self, most: int) -> np.ndarray:
        """Return the addresses (uint64) of up to so many free frames, which are then not free."""
        left = max(self._count - most, 0)
        found = self._free[left:self._count].copy()
        self._count = left
        return found

    def give_back(self, addresses: np.ndarray) -> None:
        """Make the frames free in which these addresses lie."""
        after = self._count + len(addresses)
        np.bitwise_and(addresses, self.mask, out=self._free[self._count:after])
        self._count = after

    def free_frames(self) -> np.ndarray:
        """Return the addresses of the free frames, a copy."""
        return self._free[:self._count].copy()

    def frame_numbers(self, addresses: np.ndarray) -> np.ndarray:
        """Return the rows of `frames` in which addresses lie."""
        return (addresses // np.uint64(self.frame_size)).astype(np.int64)

    def close(self) -> None:
        """Let the memory go, as soon as nobody looks at it any more."""
        self.bytes = self.frames = self.view = None
        self._records.clear()
        self._memory = None
