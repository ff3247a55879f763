"""
The memory of a pool, mapped into this process as numpy arrays.

The backing is either BPF arrays that a kernel program writes (`from_descriptors`, `from_pins`)
or one file in /dev/shm of the same layout that the trace path writes (`from_file`); consumers do
not see the difference.
"""

import errno
import mmap
import os
from pathlib import Path
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool import layout
import numpy as np

#: Seconds to wait for a pool that is being made.
PATIENCE = 2.0
# What never changes in a header, at its start.
_STATIC_BYTES = layout.HEADER.fields['slots_used'][1]


class PoolMemory:
    """
    The parts of a pool.

    header       one record of layout.HEADER
    headers      slot headers by class: two arrays of layout.SLOT_HEADER, strided
    data         memoryviews of the slots by class, headers included
    released     uint64 a slot, small ones first: what its owner gave back last; also as
                 released_words, a memoryview
    rings        array of layout.RING
    descriptors  array of layout.DESCRIPTOR, shape (rings, ring_entries)
    """

    def __init__(self, parts):
        """Take {part: writable buffer}; raises PoolError where it is no pool of this version."""
        self._parts = parts
        self.header = np.frombuffer(parts['pool_header'], layout.HEADER, 1)[0:1]
        _check(self.header[0])
        self.slots = tuple(int(number) for number in self.header[0]['slots'])
        rings = int(self.header[0]['rings'])
        self.ring_entries = int(self.header[0]['ring_entries'])
        self.data = tuple(memoryview(parts[name]).cast('B')
                          for name in ('small_slots', 'large_slots'))
        self.headers = tuple(
            np.ndarray((count,), layout.SLOT_HEADER, data, strides=(size,))
            for count, data, size in zip(self.slots, self.data, layout.SLOT, strict=True))
        self._readable = tuple(data.toreadonly() for data in self.data)
        self._static = bytes(memoryview(parts['pool_header']).cast('B')[:_STATIC_BYTES])
        self.released = np.frombuffer(parts['released'], '<u8', sum(self.slots))
        self.released_words = memoryview(parts['released']).cast('B').cast('Q')
        self.rings = np.frombuffer(parts['rings'], layout.RING, rings)
        self.descriptors = np.frombuffer(
            parts['descriptors'], layout.DESCRIPTOR, rings * self.ring_entries).reshape(
                rings, self.ring_entries)
        #: The words of all rings and of all descriptors, for single loads and stores.
        self.ring_words = memoryview(parts['rings']).cast('B').cast('Q')
        self.descriptor_bytes = memoryview(parts['descriptors']).cast('B')
        self.descriptor_words = self.descriptor_bytes.cast('Q')

    @classmethod
    def from_descriptors(cls, descriptors):
        """Map BPF arrays, {part: file descriptor}; the descriptors stay the caller's."""
        header = _wait_for_header(lambda: map_shared(descriptors['pool_header'], mmap.PAGESIZE))
        sizes = layout.part_bytes(header['slots'].tolist(), int(header['rings']),
                                  int(header['ring_entries']))
        return cls({name: map_shared(descriptors[name], sizes[name]) for name in layout.PARTS})

    @classmethod
    def from_pins(cls, directory, identifier=None):
        """
        Map the arrays that a node pinned in a folder; raises PoolError.

        :param identifier: the kernel's id of the map pool_header, where it has to be that one
        """
        descriptors = {}
        try:
            for name in layout.PARTS:
                descriptors[name] = syscall.obj_get(str(Path(directory, name)))
            if identifier is not None and \
                    syscall.map_info(descriptors['pool_header']).id != identifier:
                raise PoolError(f'open the pins in {directory}', "they are another node's")
            return cls.from_descriptors(descriptors)
        except OSError as error:
            raise PoolError(f'open the pins in {directory}', errno=error.errno or 0,
                            next_step="run as a member of the node's pool_group") from error
        finally:
            for fd in descriptors.values():
                os.close(fd)

    @classmethod
    def from_file(cls, path):
        """Map a file in /dev/shm; raises PoolError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise PoolError(f'open the pool {path}', errno=error.errno,
                            next_step='is the node running, and are you in its pool_group?'
                            ) from error
        try:
            return cls.from_file_descriptor(fd)
        finally:
            os.close(fd)

    @classmethod
    def from_file_descriptor(cls, fd):
        """Map an open file of the same layout; the descriptor stays the caller's."""
        header = _wait_for_header(lambda: map_shared(fd, mmap.PAGESIZE))
        places = file_places(header['slots'].tolist(), int(header['rings']),
                             int(header['ring_entries']))
        if os.fstat(fd).st_size < places['end'][0]:
            raise PoolError('map the pool', 'the file is shorter than its header says',
                            next_step='start the node again')
        whole = memoryview(map_shared(fd, places['end'][0]))
        return cls({name: whole[start:start + size] for name, (start, size) in places.items()
                    if name != 'end'})

    @classmethod
    def create_file(cls, path, slots, rings, *, mode=0o600, group=-1):
        """Make a file backing of (small, large) slots and return it mapped, header written."""
        path = Path(path)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                     0o600)
        try:
            os.fchown(fd, -1, group)
            os.fchmod(fd, mode)
            return cls.create_in(fd, slots, rings)
        finally:
            os.close(fd)

    @classmethod
    def create_in(cls, fd, slots, rings):
        """
        Make a pool in an empty file, which stays the caller's; raises PoolError.

        Its memory is there from now on: who writes to it later is not killed for lack of it.
        """
        entries = layout.entries_for(slots)
        places = file_places(slots, rings, entries)
        try:
            os.posix_fallocate(fd, 0, places['end'][0])
        except OSError as error:
            raise PoolError(f"take {places['end'][0]} bytes of shared memory for the pool",
                            errno=error.errno, next_step='make pool_size smaller') from error
        whole = memoryview(map_shared(fd, places['end'][0]))
        parts = {name: whole[start:start + size] for name, (start, size) in places.items()
                 if name != 'end'}
        write_header(np.frombuffer(parts['pool_header'], layout.HEADER, 1), slots, rings, entries)
        return cls(parts)

    @property
    def part_names(self):
        """Return the names of the parts that are mapped."""
        return tuple(self._parts)

    def payload(self, slot, length):
        """Return a read-only memoryview of the first bytes of a slot, by its global index."""
        small = slot < self.slots[layout.SMALL]
        kind = layout.SMALL if small else layout.LARGE
        number = slot if small else slot - self.slots[layout.SMALL]
        start = number * layout.SLOT[kind] + layout.SLOT_HEADER.itemsize
        # Descriptors can be scribbled over: no more than the slot, whatever they say.
        return self._readable[kind][start:start + min(length, layout.SLOT_DATA[kind])]

    def sequences(self, slots):
        """Return the sequence numbers that stand in slots now, a uint64 array."""
        slots = np.asarray(slots, dtype=np.int64)
        found = np.empty(len(slots), dtype=np.uint64)
        small = slots < self.slots[layout.SMALL]
        found[small] = self.headers[layout.SMALL]['sequence'][slots[small]]
        if not small.all():
            found[~small] = self.headers[layout.LARGE]['sequence'][
                slots[~small] - self.slots[layout.SMALL]]
        return found

    def repair_header(self):
        """Write again what is fixed in the header, where a consumer scribbled over it."""
        header = memoryview(self._parts['pool_header']).cast('B')
        if header[:_STATIC_BYTES] != self._static:
            header[:_STATIC_BYTES] = self._static


def write_header(header, slots, rings, entries, tick_ms=250):
    """Write a pool's header, its version last, so that a reader never sees half of it."""
    header['version'] = 0
    header['magic'] = layout.MAGIC
    header['header_bytes'] = layout.HEADER.itemsize
    header['slot_header_bytes'] = layout.SLOT_HEADER.itemsize
    header['slot_data_bytes'] = layout.SLOT_DATA
    header['slots'] = slots
    header['rings'] = rings
    header['ring_entries'] = entries
    header['descriptor_bytes'] = layout.DESCRIPTOR.itemsize
    header['tick_ms'] = tick_ms
    header['version'] = layout.VERSION


def file_places(slots, rings, entries):
    """Return {part: (first byte, bytes)} of a file backing, on pages, and 'end': (bytes, 0)."""
    places, at = {}, 0
    for name, size in layout.part_bytes(slots, rings, entries).items():
        places[name] = at, size
        at += (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
    places['end'] = at, 0
    return places


def map_shared(fd, size):
    """Return so many bytes of a file or of a BPF array, mapped to read and write."""
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise PoolError('map the pool', errno=getattr(error, 'errno', None) or errno.EINVAL,
                        next_step='start the node again, and this process after it') from error


def _wait_for_header(open_header):
    """Return a copy of the header once its version is written."""
    deadline = time.monotonic() + PATIENCE
    header = np.frombuffer(open_header(), layout.HEADER, 1)
    while header[0]['version'] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    _check(header[0])
    return header[0].copy()


def _check(header):
    """Raise PoolError where a header is not one that this process knows."""
    if header['version'] != layout.VERSION or header['magic'] != layout.MAGIC:
        raise PoolError(
            'use the pool', f"it says magic {int(header['magic']):#x} version "
            f"{int(header['version'])}, this process knows {layout.MAGIC:#x} version "
            f'{layout.VERSION}', next_step='start the node and this process from one installation')
    entries = int(header['ring_entries'])
    known = {'header_bytes': layout.HEADER.itemsize,
             'descriptor_bytes': layout.DESCRIPTOR.itemsize,
             'slot_header_bytes': layout.SLOT_HEADER.itemsize}
    if any(header[name] != size for name, size in known.items()) or \
            header['slot_data_bytes'].tolist() != list(layout.SLOT_DATA) or \
            entries & (entries - 1) or not entries or not header['rings'] or \
            not header['slots'].all():
        raise PoolError('use the pool', 'its header makes no sense',
                        next_step='start the node again')
