"""
The bench of an unmodified DDS graph: Cyclone DDS over UDP, over TCP, and over TCP with our path.

Two scenarios: between two containers on a bridge, and on one host over the loopback interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, field

from ipc_bypass.bench import profiles
from ipc_bypass.bench.containers import Containers, Namespace
from ipc_bypass.bench.ddsperf import DdsperfError, Peer, ROUNDTRIP, run, THROUGHPUT
from ipc_bypass.bench.rows import Cell, Target

CONTAINERS = 'containers'
LOOPBACK = 'loopback'
SCENARIOS = (CONTAINERS, LOOPBACK)

UDP = 'udp'
TCP = 'tcp'
BYPASS = 'tcp+bypass'
PATHS = (UDP, TCP, BYPASS)

PEER = 'cyclonedds'
KB = 1024
MB = 1024 * KB

ROUNDTRIP_SIZES = (KB, MB)
THROUGHPUT_SIZES = {
    CONTAINERS: (16 * KB, MB),
    LOOPBACK: (64, KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB),
}
QUICK_THROUGHPUT_SIZES = {CONTAINERS: (16 * KB, MB), LOOPBACK: (16 * KB,)}

TARGETS = (
    Target(CONTAINERS, ROUNDTRIP, MB, 'p50_us', UDP, at_least=5),
    Target(CONTAINERS, THROUGHPUT, MB, 'samples_per_s', UDP, at_least=6),
    Target(CONTAINERS, ROUNDTRIP, KB, 'p50_us', UDP, at_most=0.95),
    Target(LOOPBACK, THROUGHPUT, 16 * KB, 'samples_per_s', TCP, at_least=8),
    Target(LOOPBACK, ROUNDTRIP, KB, 'mean_us', TCP, at_least=50),
    Target(LOOPBACK, ROUNDTRIP, MB, 'p50_us', UDP, at_most=0.7),
    *(Target(LOOPBACK, THROUGHPUT, size, 'samples_per_s', UDP, at_least=0.95)
      for size in THROUGHPUT_SIZES[LOOPBACK]),
)


@dataclass(frozen=True)
class Plan:
    """
    What is measured, and for how long.

    :param cells: in the order of measuring; the paths of one workload follow each other, so that
        a drift of the machine hits all alike
    :param repeats: how often all cells are gone through
    :param seconds: measured seconds of one run
    :param drop: seconds with traffic that are left out before
    """

    cells: tuple[Cell, ...]
    repeats: int
    seconds: int
    drop: int

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return len(self.cells) * self.repeats

    @property
    def duration(self) -> float:
        """Return about how long it takes, in seconds."""
        # ddsperf pings from its second second on; it prints rates from its first one.
        each = [self.seconds + (1.2 + self.drop if cell.workload == ROUNDTRIP else 1.15)
                for cell in self.cells]
        return self.repeats * sum(each) + 5


@dataclass
class Measured:
    """
    What came of a plan.

    :param runs: cell -> runs -> seconds -> metric -> value
    :param failures: one line for each run that gave nothing
    """

    runs: dict[Cell, list[list[dict[str, float]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def plan(scenarios: Sequence[str], *, quick: bool = False, repeats: int | None = None,
         sizes: Sequence[int] = ()) -> Plan:
    """
    Return the plan for some scenarios.

    :param quick: each cell once and briefly; of several scenarios only what targets compare
    :param repeats: how often each cell is measured; by default 3 times, quick once
    :param sizes: payloads of the throughput, in bytes; by default the scenario's own
    """
    by_default = QUICK_THROUGHPUT_SIZES if quick else THROUGHPUT_SIZES
    # Both scenarios in full would take longer than quick may.
    compared = quick and len(scenarios) > 1
    cells = []
    for scenario in scenarios:
        work = [(ROUNDTRIP, size) for size in ROUNDTRIP_SIZES]
        work += [(THROUGHPUT, size) for size in sizes or by_default[scenario]]
        for workload, size in work:
            wanted = {path for target in TARGETS for path in (target.baseline, BYPASS)
                      if (target.scenario, target.workload, target.size) ==
                      (scenario, workload, size)}
            cells += [Cell(scenario, PEER, path, workload, size) for path in PATHS
                      if path in wanted or not compared]
    return Plan(tuple(cells), repeats or (1 if quick else 3), 1 if quick else 2,
                0 if quick else 1)


def measure(what: Plan, *, begin: Callable[[Cell, int], None] = lambda cell, repeat: None,
            tick: Callable[[], None] = lambda: None) -> Measured:
    """
    Measure a plan; the path must be on for profiles.BYPASS_PORTS.

    A run that fails is noted, and the rest goes on.

    :param begin: called before each run with the cell and the number of the repeat, from 0
    :param tick: called about four times a second
    :raises NamespaceError: the places could not be made
    """
    measured = Measured({cell: [] for cell in what.cells})
    with ExitStack() as stack:
        places = {scenario: stack.enter_context(_places(scenario))
                  for scenario in dict.fromkeys(cell.scenario for cell in what.cells)}
        for repeat in range(what.repeats):
            for cell in what.cells:
                begin(cell, repeat)
                try:
                    measured.runs[cell].append(run(
                        cell.workload, cell.size, *_peers(cell, *places[cell.scenario]),
                        seconds=what.seconds, drop=what.drop, tick=tick))
                except DdsperfError as error:
                    measured.failures.append(f'{describe(cell)}: {error}')
    return measured


def describe(cell: Cell) -> str:
    """Return a cell in words, for progress and messages."""
    return f'{cell.scenario}, {cell.path}, {cell.workload}, {cell.size} B'


@contextmanager
def _places(scenario: str):
    """Give the two places of a scenario; on one host they are one and the same."""
    if scenario == CONTAINERS:
        with Containers() as both:
            yield both
    else:
        with Namespace('host') as place:
            yield place, place


def _peers(cell: Cell, place: Namespace, other: Namespace) -> tuple[Peer, Peer]:
    """Return the peer that measures and the one that it talks to."""
    if cell.path != UDP:
        first, second = (profiles.PLAIN_PORTS if cell.path == TCP else profiles.BYPASS_PORTS)[:2]
        return (Peer(place, profiles.tcp(place.address, first, other.address, second)),
                Peer(other, profiles.tcp(other.address, second, place.address, first)))
    uri = profiles.default_udp() if cell.scenario == CONTAINERS else profiles.loopback_udp()
    return Peer(place, uri), Peer(other, uri)
