"""
Which consumer owns which rules, by which ring: one table, changed under one lock.

A lease is revoked in this order, so that each datagram is taken once, by the consumer or here:
its rules name no ring any more; programs that run have ended; the ring's generation changes; a
barrier on every thread; then the owner's cursor counts. A consumer publishes its cursor before
it looks at the generation, so that either it sees the change (and asks how far it counts), or
its cursor is seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import os
import threading
import time

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool import layout

_WORD = (1 << 64) - 1


@dataclass
class Lease:
    """
    One consumer's right to rules.

    `spans` are (first port, last port, action's name or ''); `first` is the ring's place at which
    it began: before that, nothing is this consumer's; `diverted` whether it had rules that
    suppress the send, which it may have lost since.
    """

    ring: int
    generation: int
    name: str
    pid: int
    spans: list = field(default_factory=list)
    claims: list = field(default_factory=list)
    fallback: bool = False
    rules: list = field(default_factory=list)
    first: int = 0
    diverted: bool = False

    def covers(self, rule):
        """Return whether this lease asked for a rule."""
        if self.fallback:
            return rule.action != layout.ACTIONS[layout.DIVERT]
        return not self.spans or any(
            first <= rule.port_first and rule.port_last <= last and action in ('', rule.action)
            for first, last, action in self.spans)


class Leases:
    """The leases of one pool; every method may be called from any thread."""

    def __init__(self, memory, *, apply: Callable, wait: Callable, settle: Callable):
        """
        Begin with every ring free.

        :param apply: called with [(Rule, ring or None)] whenever that changes
        :param wait: returns when no program runs that began before, with a barrier everywhere
        :param settle: called with (ring, first place, place after the last one) of descriptors
            that nobody will take
        """
        self._memory, self._apply, self._wait, self._settle = memory, apply, wait, settle
        self.lock = threading.RLock()
        self._leases, self._ending, self._rules = [], [], []
        self._revoked = {}  # (ring, generation): the cursor that counted
        self._generations = [0] * len(memory.rings)
        self._order = list(range(len(memory.rings)))  # the ring that was free longest is first

    def all(self):  # noqa: A003
        """Return the leases, the oldest first."""
        with self.lock:
            return list(self._leases)

    def set_rules(self, rules):
        """Make these Rules the ones that are shared out."""
        with self.lock:
            self._rules = list(rules)
            self._share()

    def open(self, *, name, pid, spans=(), claims=(), fallback=False):  # noqa: A003
        """
        Return a new Lease; raises PoolError where others own every rule that is asked for.

        Rules that are enrolled later come to the lease as they are.
        """
        with self.lock:
            ring = next((ring for ring in self._order
                         if all(lease.ring != ring for lease in self._leases)), None)
            if ring is None:
                raise PoolError('lease rules', f'all {len(self._order)} rings are taken',
                                next_step='end a consumer, or raise max_consumers')
            lease = Lease(ring, 0, name, pid, list(spans), list(claims), fallback)
            self._refuse_if_owned(lease)
            record = self._memory.rings[ring]
            # Odd, and never one that there was: not even where a consumer scribbled over it.
            self._generations[ring] += 2
            lease.generation = self._generations[ring] - 1
            lease.first = int(record['head'])
            record['cursor'] = lease.first
            record['owner_wake'] = 0
            record['heartbeat_ns'] = time.monotonic_ns()  # it asked just now
            record['owner_pid'], record['node_pid'] = pid, os.getpid()
            record['generation'] = lease.generation
            self._leases.append(lease)
            self._share()
            return lease

    def revoke(self, lease):
        """End a lease; what its consumer had not taken is handed to `settle`."""
        with self.lock:
            if lease not in self._leases:
                return
            self._leases.remove(lease)
            self._order.remove(lease.ring)
            self._order.append(lease.ring)
            self._ending = [lease]  # its claims hold for what is settled
            try:
                try:
                    self._share()
                finally:
                    self._end(lease)
            finally:
                self._ending = []
                if lease.claims:
                    self._share()

    def _end(self, lease):
        """Find out what counts, and have the rest settled."""
        self._wait()
        record = self._memory.rings[lease.ring]
        record['revoked_at'] = 0
        record['generation'] = lease.generation + 1
        self._wait()
        cursor, head = self.pending(lease)
        self._revoked[lease.ring, lease.generation] = cursor
        record['revoked_at'] = cursor + 1 & _WORD  # for when this process is gone
        record['owner_pid'] = 0
        try:
            self._settle(lease.ring, cursor, head)
        finally:
            record['cursor'] = head

    def revoked_at(self, ring, generation):
        """Return the cursor that counted when a lease ended; None where it did not end."""
        with self.lock:
            return self._revoked.get((ring, generation))

    def forget(self, ring, generation):
        """Forget a lease that ended and whose consumer is gone."""
        with self.lock:
            self._revoked.pop((ring, generation), None)

    def pending(self, lease):
        """Return (first place, place after the last one) that the consumer has yet to take."""
        record = self._memory.rings[lease.ring]
        head = int(record['head'])
        # The consumer wrote it: it may be anything.
        cursor = min(max(int(record['cursor']), lease.first), head)
        return max(cursor, head - self._memory.ring_entries), head

    @property
    def fallback_ring(self):
        """Return the ring of the node's own lease, None where there is none."""
        return next((lease.ring for lease in self._leases if lease.fallback), None)

    def rules(self):
        """Return the texts of the rules that are shared out."""
        return [str(rule) for rule in self._rules]

    def waits_for(self, rule):
        """Return what a rule waits for: a consumer; '' when one holds its lease."""
        if any(rule in lease.rules for lease in self.all()):
            return ''
        return 'no consumer holds its lease: start one (docs/pool.md)'

    def shown(self):
        """Return the leases as dicts of name, pid, ring, rules (texts) and pending."""
        answer = []
        for lease in self.all():
            answer.append({'name': lease.name, 'pid': lease.pid, 'ring': lease.ring,
                           'rules': [str(rule) for rule in lease.rules],
                           'pending': self.waiting(lease)})
        return answer

    def waiting(self, lease):
        """Return how many descriptors the consumer has yet to take."""
        first, after = self.pending(lease)
        return after - first

    def _refuse_if_owned(self, lease):
        wanted = [rule for rule in self._rules if lease.covers(rule)]
        owners = [self._owner(rule) for rule in wanted]
        if wanted and not lease.fallback and all(o and not o.fallback for o in owners):
            raise PoolError(f'lease {wanted[0]}', f"'{owners[0].name}' (pid {owners[0].pid}) "
                            'owns it', next_step='observe it, or end that consumer')

    def _owner(self, rule):
        found = [lease for lease in self._leases if lease.covers(rule)]
        return min(found, key=lambda lease: lease.fallback, default=None)

    def _share(self):
        shared = [(rule, self._owner(rule)) for rule in self._rules]
        for lease in self._leases:
            lease.rules = [rule for rule, owner in shared if owner is lease]
            lease.diverted = lease.diverted or diverts(lease)
        self._apply([(rule, None if owner is None else owner.ring) for rule, owner in shared])

    @property
    def claims(self):
        """Return {lease's ring: claimed prefixes}, until all that it took is settled."""
        with self.lock:
            return {lease.ring: lease.claims for lease in (*self._leases, *self._ending)
                    if lease.claims}


def diverts(lease):
    """Return whether a lease has rules that suppress the send."""
    return any(rule.action == layout.ACTIONS[layout.DIVERT] for rule in lease.rules)
