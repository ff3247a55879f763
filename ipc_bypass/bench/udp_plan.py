"""What the UDP bench measures, in which order, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ipc_bypass.bench.rows import Cell, Row, value_of
from ipc_bypass.bench.udp_capture import DIVERT, MIRROR, PATHS, UDP
from ipc_bypass.kernel.errors import BypassError

LOOPBACK, CYCLONE, NUMPY, NODE = 'loopback', 'cyclonedds', 'numpy', 'node'
ONE_WAY, SEND, WAKE, THROUGHPUT, DRAIN, EXACT, IDLE = WORKLOADS = (
    'oneway', 'send', 'wake', 'throughput', 'drain', 'exact', 'idle')
KB = 1024
#: Bytes of payload; a sendto() of 64 KB is as large as UDP over IPv4 has it.
ONE_WAY_SIZES = (64, 256, KB, 4 * KB)
SEND_SIZES = (64, KB, 65507)
THROUGHPUT_SIZES = (KB, 64 * KB)
WAKE_SIZE = DRAIN_SIZE = 64
#: Datagrams of `exact`, by default and quick.
DATAGRAMS, QUICK_DATAGRAMS = 1_000_000, 200_000


@dataclass(frozen=True)
class Target:
    """
    What a path is to reach, in the same run.

    :param baseline: the path that the bound is a ratio to; '' where it is the value's own
    :param at_most: bound of the value or the ratio, or None
    :param at_least: the same from below, or None
    """

    path: str
    workload: str
    size: int
    metric: str
    baseline: str = UDP
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A target and what was reached: a ratio, or the value where there is no baseline."""

    target: Target
    reached: float
    met: bool


TARGETS = (
    *(Target(path, ONE_WAY, size, 'p50_us', at_most=bound)
      for size in ONE_WAY_SIZES for path, bound in ((MIRROR, 0.65), (DIVERT, 0.55))),
    Target(MIRROR, SEND, KB, 'p50_us', at_most=1.25),
    *(Target(path, WAKE, WAKE_SIZE, 'p50_us', at_most=1.1) for path in (MIRROR, DIVERT)),
    *(Target(MIRROR, THROUGHPUT, size, 'samples_per_s', at_least=0.9)
      for size in THROUGHPUT_SIZES),
    Target(MIRROR, DRAIN, DRAIN_SIZE, 'descriptors_per_s', '', at_least=1e6),
    *(Target(DIVERT, EXACT, 0, metric, '', at_most=0)
      for metric in ('unaccounted', 'untaken', 'torn')),
    Target(MIRROR, IDLE, 0, 'cpu_percent', '', at_most=1),
)


@dataclass(frozen=True)
class Plan:
    """
    What is measured, and how much of it.

    :param cells: in the order of measuring; the paths of one workload follow each other
    :param repeats: how often all cells are gone through; EXACT and IDLE once
    :param count: datagrams of one exchange; a tenth of it with readers that sleep
    :param seconds: of ddsperf that count
    :param drop: seconds of ddsperf with traffic before
    :param datagrams: of EXACT
    :param idle_seconds: of IDLE
    """

    cells: tuple[Cell, ...]
    repeats: int
    count: int = 10_000
    seconds: int = 2
    drop: int = 1
    datagrams: int = DATAGRAMS
    idle_seconds: float = 10

    @property
    def steps(self) -> list[Cell]:
        """Return every run's cell, in order."""
        return [cell for repeat in range(self.repeats) for cell in self.cells
                if not repeat or cell.workload not in (EXACT, IDLE)]


@dataclass
class Measured:
    """
    What came of a plan.

    :param runs: cell -> runs -> parts -> metric -> value
    :param failures: one line for each run that gave nothing
    """

    runs: dict[Cell, list[list[dict[str, float]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def plan(*, quick: bool = False, repeats: int | None = None, datagrams: int | None = None,
         workloads: Sequence[str] = (), language: str = 'c') -> Plan:
    """
    Return the plan.

    :param quick: everything once and briefly
    :param repeats: how often each cell is measured; by default 3 times, quick once
    :param datagrams: of EXACT, from two senders
    :param workloads: some of WORKLOADS; by default all that the language has
    """
    wanted = workloads or WORKLOADS
    cells = [Cell(LOOPBACK, language, path, ONE_WAY, size)
             for size in ONE_WAY_SIZES for path in PATHS]
    cells += [Cell(LOOPBACK, language, path, SEND, size)
              for size in SEND_SIZES for path in (UDP, MIRROR)]
    cells += [Cell(LOOPBACK, language, path, WAKE, WAKE_SIZE) for path in PATHS]
    cells += [Cell(LOOPBACK, CYCLONE, path, THROUGHPUT, size)
              for size in THROUGHPUT_SIZES for path in (UDP, MIRROR)]
    cells += [Cell(LOOPBACK, NUMPY, MIRROR, DRAIN, DRAIN_SIZE)]
    if language == 'c':
        # In Python the senders would not be fast enough to be a test.
        cells += [Cell(LOOPBACK, language, DIVERT, EXACT, 0)]
    cells += [Cell(LOOPBACK, NODE, MIRROR, IDLE, 0)]
    cells = tuple(cell for cell in cells if cell.workload in wanted)
    if quick:
        return Plan(cells, repeats or 1, 4_000, 1, 0, datagrams or QUICK_DATAGRAMS, 3)
    return Plan(cells, repeats or 3, datagrams=datagrams or DATAGRAMS)


def measure(what: Plan, run: Callable[[Cell, Plan], list[dict[str, float]]], *,
            begin: Callable[[Cell], None] = lambda cell: None) -> Measured:
    """
    Measure a plan; a run that fails is noted, and the rest goes on.

    :param run: returns the parts of one run of a cell: metric -> value
    :param begin: called before each run
    """
    measured = Measured({cell: [] for cell in what.cells})
    for cell in what.steps:
        begin(cell)
        try:
            measured.runs[cell].append(run(cell, what))
        except BypassError as error:
            measured.failures.append(f'{describe(cell)}: {error}')
    return measured


def describe(cell: Cell) -> str:
    """Return a cell in words, for progress and messages."""
    return f'{cell.workload}, {cell.path}' + (f', {cell.size} B' if cell.size else '')


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return what was reached of each target whose figures were all measured."""
    found = []
    for target in TARGETS:
        where = LOOPBACK, target.workload, target.size, target.metric
        reached = value_of(rows, target.path, *where)
        if target.baseline and reached is not None:
            baseline = value_of(rows, target.baseline, *where)
            reached = reached / baseline if baseline else None
        if reached is not None:
            found.append(Outcome(target, reached, (
                reached <= target.at_most if target.at_most is not None
                else reached >= target.at_least)))
    return found
