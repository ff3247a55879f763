"""Some datagrams of the pool, as a consumer was given them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ipc_bypass.kernel.ordering import full_barrier, WEAK
import numpy as np


@dataclass
class Statistics:
    """What a consumer did, in datagrams unless said otherwise."""

    taken: int = 0
    released: int = 0
    #: Overwritten before an observer came to them.
    missed: int = 0
    #: Overwritten while they were read, as far as `Batch.intact` was asked.
    torn: int = 0
    #: Freed by the watchdog before an owner came to them.
    expired: int = 0
    #: Sent on by the node, for a lease was revoked when they were taken.
    revoked: int = 0
    #: Leases that were lost, a number of times.
    leases_lost: int = 0
    #: Sleeps that a wake-up ended, a number of times.
    wakes: int = 0


class Batch:
    """
    Datagrams in the order in which they were captured.

    `descriptors` is a structured array of layout.DESCRIPTOR, a copy of our own; payloads are
    looked at where they stand. An owner has to give the slots back: `release()`, or a `with`
    block. An observer may be overtaken: `intact()`, asked after reading, says which payloads
    were still what the descriptor says.
    """

    __slots__ = ('_memory', '_places', '_single', '_statistics', '_torn', 'descriptors')

    def __init__(self, descriptors: np.ndarray, memory, places=None, statistics=None,
                 single=None) -> None:
        """
        Make a batch of a PoolMemory.

        :param places: OwnerPlaces, which gives the slots back
        :param statistics: Statistics to count in
        :param single: `places.single` when this was taken
        """
        self.descriptors, self._memory, self._places = descriptors, memory, places
        self._statistics, self._single, self._torn = statistics, single, 0

    def __len__(self) -> int:
        """Return how many datagrams there are."""
        return len(self.descriptors)

    def payload(self, number: int) -> memoryview:
        """Return the payload of one as a read-only memoryview of the slot, without a copy."""
        descriptor = self.descriptors[number]
        return self._memory.payload(int(descriptor['slot']), int(descriptor['length']))

    def payloads(self) -> Iterator[memoryview]:
        """Yield every payload."""
        for slot, length in zip(self.descriptors['slot'].tolist(),
                                self.descriptors['length'].tolist(), strict=True):
            yield self._memory.payload(slot, length)

    def intact(self) -> np.ndarray:
        """Return a bool array: which slots still hold the datagram of the descriptor."""
        if WEAK:
            full_barrier()  # the payloads were read before
        whole = self._memory.sequences(self.descriptors['slot']) == self.descriptors['sequence']
        if self._statistics is not None:
            torn = len(whole) - int(np.count_nonzero(whole))
            self._statistics.torn += torn - self._torn
            self._torn = torn
        return whole

    def release(self) -> None:
        """Give the slots back; a second time does nothing."""
        places, self._places = self._places, None
        if places is not None:
            self._statistics.released += places.give_back(self.descriptors, self._single)

    def __enter__(self) -> Batch:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Release."""
        self.release()
