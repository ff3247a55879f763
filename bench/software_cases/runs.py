"""Leads each case's traffic by plain TCP and over an enrolled port, in turn, and compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
import time

from ipc_bypass.rules.table import Rule
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings

from software_cases.place import Case, Outcome, Place, Wrong

PLAIN, OURS = 'tcp', 'tcp+bypass'
_SETTLE = 5.0
_COUNTED = ('redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages')


@dataclass
class Found:
    """
    What a case gave.

    :param figures: {(metric, way): median over the runs}
    :param counted: what the path counted of the runs over the enrolled port, by counter
    :param connections: ends that were entered in them
    :param fault: why it failed; '' where all was as it has to be
    """

    case: type[Case]
    figures: dict[tuple[str, str], float] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    connections: int = 0
    runs: int = 0
    fault: str = ''

    @property
    def share(self) -> float:
        """Return which part of the bytes was redirected, 0 to 1."""
        total = self.counted['redirected_bytes'] + self.counted['passed_bytes']
        return self.counted['redirected_bytes'] / total if total else 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """Return how many messages passed, by reason."""
        return {name.removeprefix('passed_'): count for name, count in self.counted.items()
                if name.startswith('passed_') and name not in _COUNTED and count}


@contextmanager
def steered(ports: range) -> Iterator[TcpPath]:
    """Give an active path with a rule for these ports."""
    path = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory=''))
    path.configure()
    try:
        path.set_rules([Rule('tcp', ports[0], ports[-1], 'accelerate', 1)])
        path.activate()
        yield path
    finally:
        path.cleanup()


def lead(kind: type[Case], path: TcpPath, plain_port: int, enrolled_port: int, *,
         repeats: int = 1, quick: bool = False) -> Found:
    """
    Run a case by both ways in turn, and hold what it gave against what has to be.

    :raises Wrong: when content differs between the ways, or the path did not do its part
    :raises RuntimeError: where a program cannot be had
    """
    found = Found(kind)
    figures: dict[tuple[str, str], list[float]] = {}
    with Place(quick) as place:
        case = kind(place)
        case.prepare()
        ways = {PLAIN: plain_port, OURS: enrolled_port}
        for port in ways.values():
            case.serve(port)
        contents = []
        for number in range(repeats):
            # Every other time backwards: what else goes on hits both alike.
            for way in list(ways)[::-1 if number % 2 else 1]:
                before = _idle(path)
                outcome = case.measure(ways[way])
                after = _idle(path)
                delta = {name: after[name] - before[name] for name in after}
                _check(kind, way, outcome, delta)
                contents.append(outcome.content)
                for metric, value in outcome.figures.items():
                    figures.setdefault((metric, way), []).append(value)
                if way == OURS:
                    found.runs += 1
                    found.connections += delta['ends_enrolled']
                    for name, value in delta.items():
                        found.counted[name] = found.counted.get(name, 0) + value
        if any(content != contents[0] for content in contents):
            raise Wrong(f'compare the runs of {kind.name}', 'they gave different content')
    found.figures = {key: median(values) for key, values in figures.items()}
    return found


def _idle(path: TcpPath) -> dict[str, int]:
    """Return the counters, once closed connections are gone, or after a while."""
    end = time.monotonic() + _SETTLE
    before = path.counters()
    while time.monotonic() < end:
        time.sleep(0.05)
        now = path.counters()
        if now == before:
            return now
        before = now
    return before


def _check(kind: type[Case], way: str, outcome: Outcome, delta: dict[str, int]) -> None:
    """Raise Wrong where the path did not see what it should have."""
    what = f'lead {kind.name} by {way}'
    seen = delta['redirected_bytes'] + delta['passed_bytes']
    if way == PLAIN:
        if seen or delta['ends_enrolled']:
            raise Wrong(what, f'the path saw {seen} bytes of a port without a rule')
        return
    if kind.excluded:
        if delta['redirected_bytes']:
            raise Wrong(what, f'{delta["redirected_bytes"]} bytes were redirected to a program '
                        'that is left out')
        return
    if not delta['redirected_bytes']:
        raise Wrong(what, 'nothing was redirected')
    if seen < outcome.least_bytes or (outcome.most_bytes and seen > outcome.most_bytes):
        raise Wrong(what, f'the path saw {seen:,} bytes; there were {outcome.least_bytes:,} to '
                    f'{outcome.most_bytes or 0:,}')
