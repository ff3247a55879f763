"""
Which way to use: a rule on the rows of a comparison, and the reason in figures.

A way is worth a change where all of this holds against the default:

- it was measured for all that the default was measured for;
- at the given rates it lost no message, or no more than the default where that loses too;
- no latency is worse: a median by more than TOLERANCE and MEDIAN_FLOOR_US, a 99th percentile by
  more than TAIL_TOLERANCE and TAIL_FLOOR_US (it rests on few messages, and so varies more);
- the CPU time of all messages together, at their rates, is not worse by more than TOLERANCE;
- no throughput is worse by more than TOLERANCE, but for one of HEADROOM times the rate or more;
- some median, or the CPU time of all together, is better by GAIN or more.

Of several such ways the one with the largest mean gain is taken. One that stands before it in
ORDER, since it takes less to use it, is taken in its place where it is within TIE of that. Where
no way is worth it, things stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from ipc_bypass.bench.report import figure, size_text
from ipc_bypass.bench.rows import gain, Row
from ipc_bypass.compare.measure import rate_of, ROUNDTRIP
from ipc_bypass.compare.ways import DEFAULT, REDIRECTED, SHARED_MEMORY, TCP, UDP

GAIN = 1.10
TOLERANCE = 1.10
TAIL_TOLERANCE = 1.5
TIE = 1.10
#: In µs. Less than that is how long a process takes to wake up, more or less.
MEDIAN_FLOOR_US = 100.0
TAIL_FLOOR_US = 1000.0
HEADROOM = 2.0
#: From what takes least: a variable, a profile, a profile and the node.
ORDER = (UDP, SHARED_MEMORY, TCP, REDIRECTED)

_MEDIAN, _TAIL, _CPU = 'p50_us', 'p99_us', 'cpu_ms_per_megabyte'
_RATE, _LOST = 'messages_per_s', 'lost'
#: metric -> (name, tolerance, floor in its unit)
_LATENCIES = {_MEDIAN: ('median', TOLERANCE, MEDIAN_FLOOR_US),
              _TAIL: ('99th percentile', TAIL_TOLERANCE, TAIL_FLOOR_US)}

#: (workload, size, metric) -> value
_Figures = dict[tuple[str, int, str], float]


@dataclass(frozen=True)
class Recommendation:
    """
    What to do for one kind in one placement.

    :param way: DEFAULT for a graph that should stay as it is
    :param text: one or two sentences, with figures
    :param refused: a line for each other way, and why it is not taken
    """

    kind: str
    placement: str
    way: str
    text: str
    refused: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Return whether there is anything to do."""
        return self.way != DEFAULT


def recommend(rows: Sequence[Row], kind: str, placement: str) -> Recommendation:
    """Return what the rows of one kind in one placement say."""
    figures: dict[str, _Figures] = {}
    for row in rows:
        if (row.scenario, row.peer) == (placement, kind):
            figures.setdefault(row.path, {})[row.workload, row.size, row.metric] = row.value
    baseline = figures.pop(DEFAULT, None)
    if not baseline:
        return Recommendation(kind, placement, DEFAULT, 'Leave things as they are: the default '
                              'could not be measured, so that there is nothing to compare with.')
    worth, refused = {}, []
    for way in sorted(figures, key=_rank):
        reason = _against(figures[way], baseline)
        if reason:
            refused.append(f'{way}: {reason}')
        else:
            worth[way] = _mean_gain(figures[way], baseline)
    if not worth:
        return Recommendation(kind, placement, DEFAULT, 'Leave things as they are: no other way '
                              'is better without being worse elsewhere.', tuple(refused))
    best = max(worth.values())
    chosen = next(way for way in worth if worth[way] * TIE >= best)
    others = [f'{way}: its mean gain is {value:.2f}, that of {chosen} {worth[chosen]:.2f}'
              + (', which takes less to use' if value > worth[chosen] else '')
              for way, value in worth.items() if way != chosen]
    return Recommendation(kind, placement, chosen, f'Use {chosen}: '
                          + _reason(figures[chosen], baseline), (*refused, *others))


def _rank(way: str) -> int:
    return ORDER.index(way) if way in ORDER else len(ORDER)


def _against(figures: _Figures, baseline: _Figures) -> str:
    """Return what speaks against a way, '' where it is worth a change."""
    missing = next((key for key in baseline if key not in figures), None)
    if missing:
        return f'{_what(missing)} could not be measured'
    wanted: dict[int, float] = {}
    for workload, size, _ in baseline:
        wanted[size] = max(wanted.get(size, 0.0), rate_of(workload))
    for key, before in baseline.items():
        if _is_worse(key, figures[key], before, wanted.get(key[1], 0.0)):
            name = _LATENCIES.get(key[2], (key[2].replace('_per_s', '/s'),))[0]
            value, usual = ((f'{each:g}' if key[2] == _LOST else figure(each))
                            for each in (figures[key], before))
            return f'{_what(key)}: {name} {value}, which is worse than the {usual} of the default'
    cpu, cpu_before = _cpu(figures), _cpu(baseline)
    if cpu > cpu_before * TOLERANCE:
        return (f'all messages together take {figure(cpu)} ms of CPU time a second, by default '
                f'{figure(cpu_before)}')
    if max(_gains(figures, baseline), default=1.0) < GAIN:
        return f'no median and no CPU time is better by {GAIN - 1:.0%}'
    return ''


def _is_worse(key: tuple[str, int, str], value: float, before: float, rate: float) -> bool:
    """Return whether a figure speaks against a way, for messages of a given rate in Hz."""
    metric = key[2]
    if metric == _LOST:
        return value > before
    if metric in _LATENCIES:
        _, tolerance, floor = _LATENCIES[metric]
        return value > before * tolerance and value > before + floor
    return metric == _RATE and value * TOLERANCE < before and value < HEADROOM * rate


def _what(key: tuple[str, int, str]) -> str:
    return f'{size_text(key[1])} {key[0]}'


def _cpu(figures: _Figures) -> float:
    """Return the CPU time of all messages at their rates, in ms for each second."""
    return sum(value * size * rate_of(workload) / 1e6
               for (workload, size, metric), value in figures.items() if metric == _CPU)


def _gains(figures: _Figures, baseline: _Figures) -> list[float]:
    """Return how many times better the medians are, and the CPU time of all together."""
    pairs = [(figures[key], before) for key, before in baseline.items()
             if key[2] == _MEDIAN and key in figures]
    pairs.append((_cpu(figures), _cpu(baseline)))
    return [before / value for value, before in pairs if value and before]


def _mean_gain(figures: _Figures, baseline: _Figures) -> float:
    """Return the geometric mean of the gains."""
    gains = _gains(figures, baseline)
    return exp(sum(map(log, gains)) / len(gains)) if gains else 1.0


def _reason(figures: _Figures, baseline: _Figures) -> str:
    """Return the largest gain of a latency, that of CPU time, and what was lost."""
    parts = []
    medians = [key for key, value in baseline.items() if key[2] == _MEDIAN and value]
    if medians:
        key = max(medians, key=lambda key: gain(_MEDIAN, figures[key], baseline[key]))
        better = gain(_MEDIAN, figures[key], baseline[key])
        if better >= GAIN:
            way = 'round trip' if key[0] == ROUNDTRIP else 'way'
            parts.append(f'a {way} of {size_text(key[1])} takes {figure(figures[key])} µs in '
                         f'place of {figure(baseline[key])} µs ({better:.1f} times shorter)')
    cpu, cpu_before = _cpu(figures), _cpu(baseline)
    if cpu_before:
        parts.append(f'all messages together take {figure(cpu)} ms of CPU time a second, by '
                     f'default {figure(cpu_before)}')
    lost = sum(value for key, value in figures.items() if key[2] == _LOST)
    parts.append('nothing was lost' if not lost else f'{lost:g} messages were lost, by default '
                 'as many or more')
    return '; '.join(parts) + '.'
