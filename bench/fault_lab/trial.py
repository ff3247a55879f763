"""One trial of a fault: what the streams saw of it, and what was not as it has to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import time

from fault_lab.lab import Lab
from fault_lab.node import Node
from fault_lab.script import ScriptError
from fault_lab.streams import Interval, RATE, Streams
from ipc_bypass.kernel.errors import BypassError


@dataclass
class Trial:
    """
    One trial; `problems` are what was not as it has to be, one line each.

    `plain_s` is how long an open connection went by plain TCP, `new_plain_s` how long a new one
    would have, `gap_s` the longest time that a reader got nothing, `took_s` all of it.
    """

    fault: str
    took_s: float = 0.0
    plain_s: float = 0.0
    new_plain_s: float = 0.0
    gap_s: float = 0.0
    sent_bytes: int = 0
    lost_bytes: int = 0
    told: str = ''
    problems: list[str] = field(default_factory=list)

    def add(self, interval: Interval) -> None:
        """Take what the streams saw."""
        self.plain_s += interval.plain_s
        self.gap_s = max(self.gap_s, interval.gap_s)
        self.sent_bytes += interval.sent
        self.lost_bytes += interval.lost
        self.problems += interval.faults

    def as_dict(self) -> dict:
        """Return it for a report."""
        return asdict(self)


def attempt(name: str, work: Callable[[Trial], None]) -> Trial:
    """Return the Trial that `work` fills; what it raises is a problem."""
    trial, begin = Trial(name), time.monotonic()
    try:
        work(trial)
    except (BypassError, OSError) as error:
        trial.problems.append(' '.join(f'{type(error).__name__}: {error}'.split()))
    trial.took_s = time.monotonic() - begin
    return trial


class Rig:
    """
    A node with streams that outlive its faults.

    A fault is a function of (rig, trial) that does harm and sees to it that the node is active
    again; `rig.node` is then the node that is.
    """

    def __init__(self, lab: Lab, *, pairs: int = 1, rate: float = RATE,
                 environment: dict | None = None, **parameters: object) -> None:
        self.lab, self.parameters, self.environment = lab, parameters, environment
        self._pairs, self._rate = pairs, rate
        self.node: Node = lab.active(environment=environment, **parameters)
        self.streams = self._new_streams()

    def _new_streams(self) -> Streams:
        streams = self.lab.streams(self._pairs, rate=self._rate)
        if self._pairs:
            streams.wait()
        return streams

    def replace_streams(self) -> Interval:
        """End the streams and begin others; return what came of the ended ones."""
        found = self.streams.finish()
        self.streams = self._new_streams()
        return found

    def start_again(self) -> None:
        """Put a new node in place of one that has ended."""
        self.node.kill()
        self.node = self.lab.active(environment=self.environment, **self.parameters)

    def run(self, name: str, fault: Callable[[Rig, Trial], None], *,
            errors: bool = False) -> Trial:
        """
        Return the Trial of a fault: afterwards everything has to be as it was.

        :param errors: whether the node may say lines of level error
        """
        def work(trial: Trial) -> None:
            self.streams.mark()
            fault(self, trial)
            trial.add(self.streams.wait())
            said = self.node.errors()
            if said and not errors:
                trial.problems.append(f'the node said {said}')
            for pair in self.streams.pairs:
                probe = pair.probe()
                trial.problems += probe['faults']
                if probe['plain_share']:
                    trial.problems.append(
                        f"a new connection went by TCP for {probe['plain_share']:.0%}")
        return attempt(name, work)

    def finish(self) -> Trial:
        """End the streams and the node; return the Trial that says what was lost or is left."""
        def work(trial: Trial) -> None:
            trial.add(self.streams.finish())
            self.lab.note(self.node)
            code = self.node.end()
            if code:
                trial.problems.append(f'the node ended with exit code {code}')
            trial.problems += [f'left: {line}' for line in self.lab.left()]
        return attempt('end', work)


__all__ = ['attempt', 'Rig', 'ScriptError', 'Trial']
