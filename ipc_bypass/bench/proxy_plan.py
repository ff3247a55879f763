"""What the proxy bench measures, in which order, and what is to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ipc_bypass.bench.rows import Cell, less_is_better, Row, value_of

LOCAL, REMOTE = SCENARIOS = ('local', 'remote')
DIRECT, HAPROXY, NGINX, SPLICE, SK_SKB, OURS = PATHS = (
    'direct', 'haproxy', 'nginx', 'ours splice', 'ours sk_skb', 'ours')
BULK, REQUEST = 'bulk', 'request'
KB, MB = 1 << 10, 1 << 20
PEER = 'c'
#: Numbers of connections with a request each under way.
CONNECTIONS = (1, 100, 1000)
#: Descriptors that a proxy has for anything but its connections, which take two each.
SPARE_DESCRIPTORS = 200
#: What a path is compared with: the best of these.
BEST, THEIRS = 'best', 'theirs'
RIVALS = {BEST: (HAPROXY, NGINX, SPLICE), THEIRS: (HAPROXY, NGINX), DIRECT: (DIRECT,)}


def request(connections: int) -> str:
    """Return the name of the workload with a request on each of so many connections."""
    return f'{REQUEST}_{connections}'


@dataclass(frozen=True)
class Target:
    """
    What a path is to reach in the same run.

    :param against: a name of RIVALS
    :param at_most: bound of the value over that of the best rival, or None
    :param at_least: the same from below, or None
    """

    path: str
    scenario: str
    workload: str
    metric: str
    against: str
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A target and the ratio that was reached."""

    target: Target
    ratio: float
    met: bool


TARGETS = (
    Target(OURS, LOCAL, BULK, 'gbit_per_second', BEST, at_least=3),
    Target(OURS, LOCAL, BULK, 'cpu_seconds_per_gigabyte', BEST, at_most=0.4),
    *(Target(OURS, LOCAL, request(number), 'requests_per_second', DIRECT, at_least=0.9)
      for number in CONNECTIONS),
    # Splicing in user space is one of the best, and is held against the others alone.
    *(Target(path, REMOTE, workload, metric, against, at_most=bound)
      for workload, metric, bound in ((request(100), 'p99_us', 0.8),
                                      (BULK, 'cpu_seconds_per_gigabyte', 0.7))
      for path, against in ((SK_SKB, BEST), (SK_SKB, THEIRS), (SPLICE, THEIRS))),
)


@dataclass(frozen=True)
class Plan:
    """
    What is measured, and how much of it.

    :param cells: in the order of the table
    :param connections: numbers of connections
    :param repeats: how often all paths of a scenario are gone through
    :param seconds: of one run that count
    """

    cells: tuple[Cell, ...]
    connections: tuple[int, ...]
    repeats: int
    seconds: float

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Return the scenarios, in order."""
        return tuple(dict.fromkeys(cell.scenario for cell in self.cells))

    def turns(self, scenario: str) -> Iterator[tuple[str, list[Cell]]]:
        """Yield paths and their cells as they take turns, every other time backwards."""
        paths = list(dict.fromkeys(
            cell.path for cell in self.cells if cell.scenario == scenario))
        for repeat in range(self.repeats):
            for path in reversed(paths) if repeat % 2 else paths:
                yield path, [cell for cell in self.cells
                             if (cell.scenario, cell.path) == (scenario, path)]

    @property
    def steps(self) -> int:
        """Return the number of runs."""
        return self.repeats * len(self.cells)


@dataclass
class Measured:
    """
    What came of a plan.

    :param runs: cell -> runs -> parts -> metric -> value
    :param failures: one line for each run that gave nothing
    :param notes: by what they are of, what the gateway said of its kernel path
    :param remote: the path that `auto` takes where a far end is elsewhere, or ''
    """

    runs: dict[Cell, list[list[dict[str, float]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    remote: str = ''


def plan(*, quick: bool = False, repeats: int | None = None, connections: int | None = None,
         scenarios: Sequence[str] = SCENARIOS, without: Sequence[str] = ()) -> Plan:
    """
    Return the plan.

    :param quick: everything once and briefly, but for the most connections elsewhere
    :param repeats: how often each cell is measured; by default 3 times, quick once
    :param connections: another number of them
    :param without: paths that cannot be measured here
    """
    numbers = sorted({*CONNECTIONS, *([connections] if connections else [])})
    workloads = [(BULK, MB), *((request(number), KB) for number in numbers)]
    cells = tuple(
        Cell(scenario, PEER, path, workload, size)
        for scenario in scenarios for workload, size in workloads for path in PATHS
        # Elsewhere there are no far ends to be brought together.
        if path not in without and not (scenario == REMOTE and path == OURS)
        and not (quick and (scenario, workload) == (REMOTE, request(max(CONNECTIONS)))))
    return Plan(cells, tuple(numbers), repeats or (1 if quick else 3), 0.4 if quick else 2)


def connections_of(cell: Cell) -> int:
    """Return the number of connections of a cell."""
    return 1 if cell.workload == BULK else int(cell.workload.rpartition('_')[2])


def metrics_of(cell: Cell, found: dict) -> dict[str, float]:
    """Return the metrics of a run, from what the client found; nothing if it did nothing."""
    count = found['bytes'] if cell.workload == BULK else found['requests']
    if not count:
        return {}
    if cell.workload == BULK:
        return {'gbit_per_second': count * 8e-9 / found['seconds'],
                'cpu_seconds_per_gigabyte': found['busy_seconds'] * 1e9 / count,
                'switches_per_megabyte': found['switches'] * 1e6 / count}
    return {'requests_per_second': count / found['seconds'],
            'p50_us': found['p50_us'], 'p99_us': found['p99_us'],
            'cpu_us_per_request': found['busy_seconds'] * 1e6 / count,
            'switches_per_request': found['switches'] / count}


def describe(cell: Cell) -> str:
    """Return a cell in words, for progress and messages."""
    return f'{cell.scenario}, {cell.workload}: {cell.path}'


def best(rows: Sequence[Row], against: str, scenario: str, workload: str, size: int,
         metric: str) -> float | None:
    """Return the best value of the rivals that were measured, None where none was."""
    found = [value for path in RIVALS[against] if (value := value_of(
        rows, path, scenario, workload, size, metric)) is not None]
    return (min if less_is_better(metric) else max)(found, default=None)


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return what was reached of each target whose figures were measured."""
    found = []
    for target in TARGETS:
        where = (target.scenario, target.workload, MB if target.workload == BULK else KB,
                 target.metric)
        value, rival = value_of(rows, target.path, *where), best(rows, target.against, *where)
        if value is None or not rival:
            continue
        ratio = value / rival
        found.append(Outcome(target, ratio, (
            ratio <= target.at_most if target.at_most is not None else ratio >= target.at_least)))
    return found
