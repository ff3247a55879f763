"""What a comparison measures, and in which order: the ways of one message in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
import tempfile

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.rows import Row
from ipc_bypass.compare import ways
from ipc_bypass.compare.ddsperf_pair import DdsperfPair
from ipc_bypass.compare.messages import Message
from ipc_bypass.compare.pair import Pair
from ipc_bypass.compare.places import both
from ipc_bypass.compare.process import PairError

ROUNDTRIP = 'round trip'
FLAT_OUT = 'flat out'
#: At a rate at least so many messages are sent, for at most so many seconds.
_FEWEST, _LONGEST = 4, 6.0
#: So often a way may fail: each time takes up to a time-out.
_FAILURES = 2


@dataclass(frozen=True)
class Plan:
    """
    What is measured, and for how long.

    :param kind: of ways.KINDS
    :param placements: of ways.PLACEMENTS
    :param messages: each of them on each way
    :param repeats: how often all is gone through
    :param seconds: (round trips, at the rate, flat out); 0 leaves one out
    :param left_out: ways that cannot be measured here, and why
    """

    kind: str
    placements: tuple[str, ...]
    messages: tuple[Message, ...]
    repeats: int
    seconds: tuple[float, float, float]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def ways(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the ways that are measured, by placement."""
        return {placement: tuple(name for name in ways.names(self.kind, placement)
                                 if name not in self.left_out) for placement in self.placements}

    @property
    def steps(self) -> int:
        """Return how often a message goes over a way."""
        return self.repeats * len(self.messages) * sum(map(len, self.ways.values()))

    @property
    def duration(self) -> float:
        """Return about how long it takes, in seconds."""
        if self.kind == 'cyclonedds':
            each = sum(seconds + 1.4 for seconds in self.seconds if seconds)
            return self.steps * each + 4
        each = 1.25 * self.seconds[0] + self.seconds[1] + self.seconds[2] + 0.4
        return self.steps * each + 5 + 1.2 * sum(map(len, self.ways.values()))


@dataclass
class Measured:
    """
    What came of a plan.

    :param runs: (placement, way, workload, message) -> metrics of each repeat
    :param failures: one line for each thing that could not be measured
    """

    runs: dict[tuple[str, str, str, Message], list[dict[str, float]]] = field(
        default_factory=dict)
    failures: list[str] = field(default_factory=list)


def plan(kind: str, placements: Sequence[str], messages: Sequence[Message], *,
         quick: bool = False, repeats: int | None = None,
         left_out: dict[str, str] | None = None) -> Plan:
    """Return the plan; a quick one is done in 45 s, and so has fewer messages (`of_quick`)."""
    messages = of_quick(kind, messages) if quick else tuple(messages)
    left_out = dict(left_out or {})
    if kind == 'cyclonedds':
        if quick:
            left_out.setdefault(ways.TCP, 'a quick comparison has no time for it')
        # ddsperf speaks once a second, and takes another one to start.
        seconds = (1.0, 1.0, 0.0) if quick else (2.0, 2.0, 2.0)
    else:
        seconds = (0.25, 0.3, 0.2) if quick else (2.0, 3.0, 1.0)
    return Plan(kind, tuple(placements), messages, repeats or (1 if quick else 3), seconds,
                left_out)


def of_quick(kind: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return what a quick plan keeps: the message with most bytes, and the most frequent one."""
    heaviest = max(messages, key=lambda message: message.size * message.rate)
    if kind == 'cyclonedds':
        return (heaviest,)
    return tuple(dict.fromkeys((heaviest, max(messages, key=lambda message: message.rate))))


def workload_of(message: Message) -> str:
    """Return the name of the work of sending a message at its rate."""
    return f'at {message.rate:g} Hz'


def rate_of(workload: str) -> float:
    """Return the rate of such a work in Hz, 0 for any other work."""
    words = workload.split()
    return float(words[1]) if words[:1] == ['at'] else 0.0


def measure(what: Plan, *, begin: Callable[[str], None] = lambda text: None) -> Measured:
    """
    Measure a plan; the node must accelerate ways.RULE_PORTS for the redirected way.

    All pairs live from the beginning, so that the ways of one message are measured within seconds
    of each other. What fails is noted, and the rest goes on.

    :param begin: called before each step with a description
    :raises NamespaceError: the places could not be made
    :raises ProfileError: the profiles could not be written
    """
    measured = Measured()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='ipc_bypass_')))
        # Other users' processes read it, where a container has them.
        folder.chmod(0o755)
        runners = []
        for placement in what.placements:
            places = stack.enter_context(both(placement))
            made = ways.make(what.kind, placement, (places[0].address, places[1].address), folder)
            runners += [stack.enter_context(_Runner(what, placement, way, places))
                        for way in made if way.name in what.ways[placement]]
        for _ in range(what.repeats):
            for message in what.messages:
                for runner in runners:
                    begin(f'{runner.placement}, {runner.name}, {message}')
                    runner.run(message, measured)
    return measured


def rows_of(what: Plan, measured: Measured) -> list[Row]:
    """Return the rows: the medians over repeats, and of `lost` the sum."""
    rows = []
    for (placement, way, workload, message), runs in measured.runs.items():
        for metric in dict.fromkeys(name for run in runs for name in run):
            values = [run[metric] for run in runs if metric in run]
            value = sum(values) if metric == 'lost' else median(values)
            rows.append(Row(placement, what.kind, way, workload, message.size, metric,
                            round(value, 3)))
    # By message, as a reader wants them, and not by way, as they were measured.
    order = {message.size: number for number, message in enumerate(what.messages)}
    works = {ROUNDTRIP: 0, FLAT_OUT: 2}
    return sorted(rows, key=lambda row: (what.placements.index(row.scenario), order[row.size],
                                         works.get(row.workload, 1), row.workload))


class _Runner:
    """The pair of one way, started anew after a failure."""

    def __init__(self, what: Plan, placement: str, way: ways.Way,
                 places: tuple[Namespace, Namespace]) -> None:
        self.placement, self.name = placement, way.name
        self._what, self._way, self._places = what, way, places
        self._pair = None
        self._ready = False
        self._failures = 0

    def __enter__(self) -> _Runner:
        if self._what.kind == 'cyclonedds':
            pair = DdsperfPair(self._way, self._places)
        else:
            backend = 'zenoh' if self._what.kind == 'zenoh' else 'rclpy'
            pair = Pair(self._way, self._places, backend, self._what.messages)
        self._pair, self._ready = pair.__enter__(), False
        return self

    def __exit__(self, *exception) -> None:
        if self._pair is not None:
            self._pair.__exit__(*exception)
            self._pair = None

    def run(self, message: Message, measured: Measured) -> None:
        """Measure one message, and note what came of it; a way that fails twice is given up."""
        roundtrip, rate, flat_out = self._what.seconds
        rate = max(rate, min(_LONGEST, _FEWEST / message.rate)) if rate else 0.0
        if message != next(each for each in self._what.messages if each.size == message.size):
            # Without a rate, messages of one size are alike.
            roundtrip = flat_out = 0.0
        for workload, seconds in ((ROUNDTRIP, roundtrip), (workload_of(message), rate),
                                  (FLAT_OUT, flat_out)):
            if not seconds or self._failures >= _FAILURES:
                continue
            try:
                if self._pair is None:
                    self.__enter__()
                if not self._ready:
                    self._pair.ready()
                    self._ready = True
                work = {ROUNDTRIP: self._pair.roundtrip, FLAT_OUT: self._pair.flat_out}.get(
                    workload, self._pair.at_rate)
                found = work(message, seconds)
            except PairError as error:
                measured.failures.append(
                    f'{self.placement}, {self.name}, {message}, {workload}: {error}')
                self.__exit__(None, None, None)
                self._failures += 1
                continue
            measured.runs.setdefault(
                (self.placement, self.name, workload, message), []).append(found)
