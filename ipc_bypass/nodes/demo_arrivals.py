"""What has arrived of a stream: its rate, its delay, and what is lost, doubled or out of order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
import math

from ipc_bypass.nodes.demo_streams import Identity

#: Missing numbers that are remembered to tell a late message from a doubled one.
_MOST_MISSING = 100_000
#: A delay is kept to 1 %: by the logarithm of its nanoseconds, in hundredths.
_STEPS = 100


@dataclass
class _Session:
    """One run of a talker, from the first message of it that arrived."""

    first: int
    total: int
    next_number: int
    missing: set[int] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Return whether the last message of a talker that ends has come."""
        return bool(self.total) and self.next_number >= self.total and not self.missing


class Arrivals:
    """
    The record of one stream, over all talkers of it.

    Numbers are counted from the first message of a session on: whoever joins late has lost
    nothing. `period()` tells of the time since the last one, `summary()` of all.
    """

    def __init__(self) -> None:
        self.received = self.lost = self.out_of_order = self.doubled = self.damaged = 0
        self.foreign = 0
        self.bytes = 0
        self._sessions: dict[str, _Session] = {}
        self._delays: Counter[int] = Counter()
        self._recent: list[int] = []
        self._before = (0, 0)

    def note(self, identity: Identity | None, delay_ns: int, size: int, intact: bool) -> None:
        """
        Count a message.

        :param identity: None for one that no demo talker sent
        :param delay_ns: from its sending to now, in nanoseconds
        :param size: bytes
        :param intact: whether its content is right
        """
        if identity is None:
            self.foreign += 1
            return
        self.received += 1
        self.bytes += size
        self.damaged += not intact
        self._recent.append(delay_ns)
        self._delays[round(math.log(max(delay_ns, 1)) * _STEPS)] += 1
        self._count(identity)

    def _count(self, identity: Identity) -> None:
        number = identity.sequence
        session = self._sessions.setdefault(
            identity.session, _Session(number, identity.total, number))
        session.total = session.total or identity.total
        if number >= session.next_number:
            gap = range(session.next_number, number)
            self.lost += len(gap)
            session.missing.update(gap[:_MOST_MISSING - len(session.missing)])
            session.next_number = number + 1
        elif number in session.missing:
            session.missing.remove(number)
            self.lost -= 1
            self.out_of_order += 1
        elif number < session.first:
            self.out_of_order += 1
        else:
            self.doubled += 1

    @property
    def complete(self) -> bool:
        """Return whether all that the talkers announced has come, of one at least."""
        return bool(self._sessions) and all(
            session.complete for session in self._sessions.values())

    @property
    def faultless(self) -> bool:
        """Return whether nothing was lost, doubled, damaged or out of order."""
        return not (self.lost or self.out_of_order or self.doubled or self.damaged)

    def period(self, seconds: float) -> dict:
        """Return what came since the last call, `seconds` ago, and the faults of all time."""
        messages, size = self.received - self._before[0], self.bytes - self._before[1]
        self._before = self.received, self.bytes
        recent, self._recent = sorted(self._recent), []
        return {'rate_hz': messages / seconds, 'bytes_per_second': size / seconds,
                'p50_us': _quantile(recent, 0.50) / 1e3, 'p99_us': _quantile(recent, 0.99) / 1e3,
                'sessions': len(self._sessions), **self._faults()}

    def summary(self) -> dict:
        """Return the sums of all time; delays to 1 %."""
        # The first session's: where it is not 0, the listener came late.
        first = next((session.first for session in self._sessions.values()), None)
        return {'received': self.received, 'bytes': self.bytes, 'first_sequence': first,
                'sessions': len(self._sessions), 'complete': self.complete,
                'p50_us': self._delay(0.50), 'p99_us': self._delay(0.99),
                'max_us': self._delay(1.0), **self._faults()}

    def _faults(self) -> dict[str, int]:
        return {'lost': self.lost, 'out_of_order': self.out_of_order, 'doubled': self.doubled,
                'damaged': self.damaged, 'foreign': self.foreign}

    def _delay(self, part: float) -> float:
        """Return the delay, in microseconds, that this part of all messages did not exceed."""
        wanted = math.ceil(part * sum(self._delays.values()))
        for step in sorted(self._delays):
            wanted -= self._delays[step]
            if wanted <= 0:
                return math.exp(step / _STEPS) / 1e3
        return 0.0


def _quantile(ordered: list[int], part: float) -> int:
    """Return the value that this part of a sorted list does not exceed, 0 for an empty one."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0
