"""Every quarter of a second: slots that nobody gave back, leases whose owner does not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import threading
import time

from ipc_bypass.pool import layout
from ipc_bypass.pool.counting import count
from ipc_bypass.pool.memory import PoolMemory
import numpy as np

_MILLISECOND_NS = 1_000_000
#: Ticks over which the count of slots in use must be wrong before it is put right under load.
_TICKS = 8
#: Ticks for which a descriptor may be reserved and not written.
_WRITING_TICKS = 3
_ONE, _WORD = np.uint64(1), 1 << 64


class Watchdog:
    """
    Looks after one pool.

    `freed` counts slots given back in an owner's place, by the owner's name; `revoked` leases
    taken away, by name; `problems` ticks that failed, by the reason.

    What consumers can write is not trusted: how long a slot is held is seen from `claims` alone.
    """

    def __init__(self, memory: PoolMemory, claims: np.ndarray, leases, counts, *,
                 slot_ttl_ms: float, heartbeat_ms: float, watchdog_ms: float,
                 refresh: Callable | None = None) -> None:
        """
        Look after a PoolMemory.

        :param claims: uint64 a slot: the sequence number of the last datagram in it, times two,
            plus one while it is being written
        :param leases: Leases
        :param counts: allocator counts: .used_by_count() -> int64 by class, .give_back(kind, n)
        :param refresh: called at each tick with the slots in use by class
        """
        self._memory, self._claims, self._leases, self._counts = memory, claims, leases, counts
        self._first_large = memory.slots[layout.SMALL]
        self.set(slot_ttl_ms=slot_ttl_ms, heartbeat_ms=heartbeat_ms, watchdog_ms=watchdog_ms)
        self._refresh = refresh
        self.freed, self.revoked, self.problems = Counter(), Counter(), Counter()
        self._errors = [[], []]
        self._seen = claims.copy()
        self._since = np.full(len(claims), time.monotonic_ns(), dtype=np.int64)
        self._waited = {}  # (ring, generation): (the place that is waited for, ticks)
        self._end, self._thread = threading.Event(), None

    def set(self, *, slot_ttl_ms: float, heartbeat_ms: float,  # noqa: A003
            watchdog_ms: float) -> None:
        """Change how long a slot may be held, how old a heartbeat may be, how often to tick."""
        self._ttl_ns = int(slot_ttl_ms * _MILLISECOND_NS)
        self._heartbeat_ns = int(heartbeat_ms * _MILLISECOND_NS)
        self._seconds = watchdog_ms / 1000

    def start(self) -> None:
        """Start ticking."""
        # Not made before: a thread that never runs holds this, and so the pool, in a circle.
        thread = threading.Thread(target=self._run, name='pool-watchdog', daemon=True)
        thread.start()
        self._thread = thread  # one that could not start cannot be joined

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread:
            self._thread.join()

    def tick(self) -> None:
        """Do what is due now."""
        now = time.monotonic_ns()
        self._memory.repair_header()
        leases = self._leases.all()
        if self._waited:
            held = {(lease.ring, lease.generation) for lease in leases}
            self._waited = {key: found for key, found in self._waited.items() if key in held}
        for lease in leases:
            self._look_at(lease, now)
        self._free_old(now, leases)
        used = self._correct()
        if self._refresh:
            self._refresh(used)

    def free(self, slots: np.ndarray, sequences: np.ndarray) -> int:
        """
        Give slots back in their owner's place; return how many were not given back before.

        Only those that still hold the datagrams of these sequence numbers.
        """
        still = (self._claims[slots] == sequences << _ONE) \
            & (self._memory.released[slots] != sequences)
        slots, sequences = slots[still], sequences[still]
        small = int(np.count_nonzero(slots < self._first_large))
        self._counts.give_back(layout.SMALL, small)
        self._counts.give_back(layout.LARGE, len(slots) - small)
        self._memory.released[slots] = sequences
        return len(slots)

    def _run(self):
        while not self._end.wait(self._seconds):
            try:
                self.tick()
            except Exception as error:  # the next tick has to come
                count(self.problems, f'{type(error).__name__}: {error}')

    def _look_at(self, lease, now):
        """Revoke the lease of an owner that leaves diverted datagrams lying, or of a torn ring."""
        if self._is_damaged(lease) or (lease.diverted and self._is_late(lease, now)):
            count(self.revoked, lease.name)
            self._leases.revoke(lease)

    def _is_late(self, lease, now):
        first, after = self._leases.pending(lease)
        if first == after:
            return False
        oldest = self._memory.descriptors[lease.ring, first & (self._memory.ring_entries - 1)]
        if oldest['number'] == first + 1 and \
                now - int(oldest['capture_ns']) > \
                self._ttl_ns - min(self._heartbeat_ns, self._ttl_ns // 2):
            return True
        age = now - int(self._memory.rings[lease.ring]['heartbeat_ns'])
        return not -self._heartbeat_ns <= age <= self._heartbeat_ns

    def _is_damaged(self, lease):
        """
        Return whether a ring cannot go on: somebody scribbled over it.

        The consumer asks for another lease then, and gets a ring that begins anew.
        """
        record = self._memory.rings[lease.ring]
        if record['generation'] != lease.generation:
            return True
        cursor, head = int(record['cursor']), int(record['head'])
        entries, key = self._memory.ring_entries, (lease.ring, lease.generation)
        first = cursor & (entries - 1)
        if not 0 <= head - cursor <= entries:
            where = None  # in the next moment the owner writes its cursor again
        elif cursor < head and \
                self._memory.descriptors[lease.ring, first]['number'] != cursor + 1:
            where = cursor
        else:
            self._waited.pop(key, None)
            return False
        before, ticks = self._waited.get(key, (where, 0))
        ticks = ticks + 1 if before == where else 1
        self._waited[key] = where, ticks
        if ticks <= _WRITING_TICKS or ticks * self._seconds * 1e9 < self._heartbeat_ns:
            return False
        del self._waited[key]
        return True

    def _free_old(self, now, leases):
        """Free what has been held for too long."""
        claims = self._claims.copy()
        changed = np.flatnonzero(claims != self._seen)
        if len(changed):
            self._since[changed] = now
            self._seen = claims
        busy = claims >> _ONE != self._memory.released
        if not busy.any():
            return
        old = np.flatnonzero(busy & (claims & _ONE == 0) & (now - self._since > self._ttl_ns))
        if not len(old):
            return
        large = old >= self._first_large
        rings = np.empty(len(old), dtype=np.uint32)
        rings[~large] = self._memory.headers[layout.SMALL]['ring'][old[~large]]
        rings[large] = self._memory.headers[layout.LARGE]['ring'][old[large] - self._first_large]
        names = {lease.ring: lease.name for lease in leases}
        for ring, slots in zip(*np.unique(rings, return_counts=True), strict=True):
            count(self.freed, names.get(int(ring), 'an owner that is gone'), int(slots))
        self.free(old, claims[old] >> _ONE)

    def _correct(self):
        """Put the count of slots in use right, where killed owners made it wrong; return it."""
        before = self._counts.used_by_count()
        busy = self._claims >> _ONE != self._memory.released
        small = int(np.count_nonzero(busy[:self._first_large]))
        used = small, int(np.count_nonzero(busy)) - small
        after = self._counts.used_by_count()
        for kind in (layout.SMALL, layout.LARGE):
            low, high = sorted((_signed(before[kind] - used[kind]),
                                _signed(after[kind] - used[kind])))
            if low == high:
                error = low
                self._errors[kind].clear()
            else:
                # Under load the two counts are not of one moment: only what stays wrong is.
                errors = self._errors[kind]
                errors.append((low, high))
                if len(errors) < _TICKS:
                    continue
                error = max(0, min(pair[0] for pair in errors)) + \
                    min(0, max(pair[1] for pair in errors))
                errors.clear()
            if error:
                self._counts.give_back(kind, error)
        return used


def _signed(number):
    """Return a number as 64 bits hold it: the counts wrap where somebody scribbled."""
    return (number + _WORD // 2) % _WORD - _WORD // 2
