"""Counters that come and go, as a bounded number of series that never count anything twice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

#: The key under which everything is counted that has no series of its own.
OTHER = 'other'
# How much of the smoothed growth is that of the last update.
_NEWEST = 0.1
# A newcomer takes a series over where it grows so many times as fast as the slowest one.
_MARGIN = 2.0


@dataclass(frozen=True)
class Source:
    """
    What one counting thing says now: a flow, or an endpoint.

    `series` names the series that it is counted in, `values` are its counters since it began,
    `new` says that it began since the last update, so that all of it is growth.
    """

    series: Hashable
    values: Sequence[int]
    new: bool = False


@dataclass
class _Series:
    values: list[int]
    speed: float = 0.0


@dataclass
class Ledger:
    """
    Sums the growth of many sources in at most `limit` series, and in one for all others.

    Every piece of growth is added to exactly one series, at the update that shows it. So a
    rate over all series is right, whichever series come and go; a series is as old as the time
    since when it is among the `limit` fastest. Growth is weighed by the first value.

    :param width: counters of a source
    :param limit: most series beside OTHER
    """

    width: int
    limit: int
    _series: dict = field(default_factory=dict)
    _last: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin to count what has no series of its own."""
        self._other = [0] * self.width

    def update(self, sources: Mapping[Hashable, Source]) -> None:
        """Add what grew since the last update; `sources` are all there are now, by identity."""
        growth: dict[Hashable, list[int]] = {}
        for identity, source in sources.items():
            before = self._last.get(identity, (0,) * self.width if source.new else source.values)
            sums = growth.setdefault(source.series, [0] * self.width)
            for place, (now, then) in enumerate(zip(source.values, before, strict=True)):
                # Less than before: another thing under an old name, which began at 0.
                sums[place] += now - then if now >= then else now
        self._last = {identity: tuple(source.values) for identity, source in sources.items()}
        for name, series in self._series.items():
            latest = growth.get(name, (0,))[0]
            series.speed += _NEWEST * (latest - series.speed)
        # First who has a series, then what is added: nothing is added to one that goes.
        # What goes does not come back in the same update: it would seem to have grown less.
        newcomers = [(sums[0], name) for name, sums in growth.items() if name not in self._series]
        for speed, name in sorted(newcomers, key=lambda newcomer: -newcomer[0]):
            if not self._make_room(speed):
                break  # the others are slower still
            self._series[name] = _Series([0] * self.width, float(speed))
        for name, sums in growth.items():
            series = self._series.get(name)
            kept = self._other if series is None else series.values
            for place, value in enumerate(sums):
                kept[place] += value

    def _make_room(self, speed: float) -> bool:
        """Return whether there is room for a series that grew so much in this update."""
        if len(self._series) < self.limit:
            return True
        slowest = min(self._series, key=lambda name: self._series[name].speed, default=None)
        if slowest is None or speed <= _MARGIN * self._series[slowest].speed:
            return False
        del self._series[slowest]
        return True

    def rows(self) -> dict[Hashable, tuple[int, ...]]:
        """Return {series: sums}, with OTHER where anything was counted there."""
        found = {name: tuple(series.values) for name, series in self._series.items()}
        if any(self._other):
            found[OTHER] = tuple(self._other)
        return found

    def forget(self) -> None:
        """Take what comes next as a new beginning of the sources; the sums stay."""
        self._last = {}
