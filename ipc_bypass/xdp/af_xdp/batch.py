"""What a handler of packets is given, and what it may answer."""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import operator

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.umem import Umem
import numpy as np

#: A handler's verdicts: forget a packet, send it out by AF_XDP, give it to the reinjector.
DROP, TRANSMIT, REINJECT = 0, 1, 2


class Batch:
    """
    Packets that came on one queue, in the UMEM; valid until the handler returns.

    interface   name of the interface
    queue       number of the queue
    umem        the Umem, for work on the memory itself

    `addresses` and `lengths` are arrays of shape (packets,), for work on many packets at once;
    `packet`, `length` and `set_length` are quicker for a few.
    """

    __slots__ = ('interface', 'queue', 'umem', '_addresses', '_lengths', '_starts', '_sizes')

    def __init__(self, umem: Umem, interface: str, queue: int, *,
                 descriptors: np.ndarray | None = None, starts: list[int] | None = None,
                 sizes: list[int] | None = None) -> None:
        """Take records of uapi.DESCRIPTOR, or two lists; the other form is made when asked for."""
        self.umem, self.interface, self.queue = umem, interface, queue
        self._starts, self._sizes = starts, sizes
        self._addresses = self._lengths = None
        if descriptors is not None:
            self._addresses, self._lengths = descriptors['address'], descriptors['length']
            self._addresses.flags.writeable = False

    @property
    def addresses(self) -> np.ndarray:
        """Return where each packet begins in the UMEM, uint64, read-only."""
        if self._addresses is None:
            self._addresses = np.array(self._starts, np.uint64)
            self._addresses.flags.writeable = False
        return self._addresses

    @property
    def lengths(self) -> np.ndarray:
        """Return the bytes of each packet, uint32; a handler writes new ones here."""
        if self._lengths is None:
            self._lengths = np.array(self._sizes, np.uint32)
        return self._lengths

    def __len__(self) -> int:
        """Return how many packets there are."""
        return len(self._sizes if self._lengths is None else self._lengths)

    def length(self, number: int) -> int:
        """Return the bytes of one packet."""
        return self._sizes[number] if self._lengths is None else int(self._lengths[number])

    def set_length(self, number: int, length: int) -> None:
        """
        Make a packet longer or shorter; the same as writing into `lengths`.

        What no frame can have, a negative number as well, becomes 0: too short to be sent.
        """
        length = operator.index(length)
        if not 0 <= length <= self.umem.frame_size:
            length = 0
        (self._sizes if self._lengths is None else self._lengths)[number] = length

    def packet(self, number: int) -> memoryview:
        """Return the bytes of a packet, from its Ethernet header on; writable, not copied."""
        start = self._start(number)
        return self.umem.view[start:start + self.length(number)]

    def packets(self) -> Iterator[memoryview]:
        """Yield the bytes of each packet."""
        for number in range(len(self)):
            yield self.packet(number)

    def space(self, number: int) -> memoryview:
        """Return the memory from a packet's start to the end of its frame, for a longer one."""
        start, size = self._start(number), self.umem.frame_size
        return self.umem.view[start:start + size - start % size]

    def sizes(self) -> list[int]:
        """Return the bytes of each packet as integers."""
        return self._sizes if self._lengths is None else self._lengths.tolist()

    def _start(self, number):
        if self._starts is None:
            self._starts = self._addresses.tolist()
        return self._starts[number]

    def headers(self, dtype: np.dtype, places: np.ndarray | None = None) -> np.ndarray:
        """
        Return the first bytes of packets as records of a dtype, copied.

        What lies behind the end of a short packet is of no meaning: look at `lengths` first.

        :param places: which packets, their numbers; all when left out
        """
        addresses = self.addresses if places is None else self.addresses[places]
        rows, offset = self._rows(addresses)
        if offset is not None:
            return self.umem.records(dtype, offset)[rows]
        found = np.empty(len(addresses), dtype)
        for offset, chosen in self._by_offset(addresses):
            found[chosen] = self.umem.records(dtype, offset)[rows[chosen]]
        return found

    def write_headers(self, records: np.ndarray, places: np.ndarray | None = None) -> None:
        """Write records over the first bytes of packets, one each, as `headers` returned them."""
        addresses = self.addresses if places is None else self.addresses[places]
        rows, offset = self._rows(addresses)
        if offset is not None:
            self.umem.records(records.dtype, offset)[rows] = records
            return
        for offset, chosen in self._by_offset(addresses):
            self.umem.records(records.dtype, offset)[rows[chosen]] = records[chosen]

    def _rows(self, addresses):
        """Return the frames of packets, and where all of them begin in theirs, None if mixed."""
        rows = self.umem.frame_numbers(addresses)
        offsets = addresses & ~self.umem.mask
        if not len(offsets):
            return rows, 0
        first = int(offsets[0])
        return rows, first if (offsets == offsets[0]).all() else None

    def _by_offset(self, addresses):
        offsets = addresses & ~self.umem.mask
        for offset in np.unique(offsets).tolist():
            yield offset, np.flatnonzero(offsets == np.uint64(offset))


def load_handler(name: str):
    """
    Return the callable that 'module:function' names; raises BypassError.

    A class is called once, without arguments, and what it gives is the handler.
    """
    what = f'load the handler {name}'
    module_name, _, attribute = name.partition(':')
    if not module_name or not attribute:
        raise BypassError(what, 'no module and function',
                          next_step='write it as module:function')
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split('.'):
            found = getattr(found, part)
        handler = found() if isinstance(found, type) else found
    except Exception as error:
        raise BypassError(what, f'{type(error).__name__}: {error}',
                          next_step='is it on PYTHONPATH, and does it import?') from error
    if not callable(handler):
        raise BypassError(what, 'it cannot be called', next_step='name a function of one Batch')
    return handler
