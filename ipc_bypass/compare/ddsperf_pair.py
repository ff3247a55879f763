"""
Two ddsperf, the bench of Cyclone DDS, measured against each other.

It says what it saw once a second. It gives no latency one way, so that there are round trips, what
arrives at a rate and what it costs, and what goes flat out.
"""

from __future__ import annotations

from contextlib import contextmanager
import math
import os
from statistics import median
import time

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.ddsperf import parse, Second
from ipc_bypass.compare.messages import Message
from ipc_bypass.compare.process import PairError, Process
from ipc_bypass.compare.ways import clean, Way

_TIMEOUT = 12.0
_STARTED = 'new (self)'


class DdsperfPair:
    """
    Has the methods of pair.Pair; each of them starts two processes and ends them.

    :param way: of the kind 'cyclonedds'
    """

    def __init__(self, way: Way, places: tuple[Namespace, Namespace]) -> None:
        self.way, self._places = way, places

    def __enter__(self) -> DdsperfPair:
        return self

    def __exit__(self, *_exception) -> None:
        pass

    def ready(self) -> None:
        """Do nothing: there is no process yet."""

    def roundtrip(self, message: Message, seconds: float) -> dict[str, float]:
        """Return p50_us and p99_us of round trips; raises PairError."""
        with self._running(('ping', 'size', str(message.size)), ('pong',)) as (ping, _):
            found = [second for second, _ in self._seconds(ping, (), seconds)]
        return {name: median(second.values[name] for second in found)
                for name in ('p50_us', 'p99_us')}

    def at_rate(self, message: Message, seconds: float) -> dict[str, float]:
        """Send at the message's rate; return lost and cpu_ms_per_megabyte; raises PairError."""
        found = self._stream(message, (f'{message.rate:g}Hz',), seconds)
        return {name: found[name] for name in ('lost', 'cpu_ms_per_megabyte')}

    def flat_out(self, message: Message, seconds: float) -> dict[str, float]:
        """Send as fast as it goes; return messages_per_s of those that arrived."""
        found = self._stream(message, (), seconds)
        return {'messages_per_s': found['messages_per_s']}

    def _stream(self, message: Message, rate: tuple[str, ...],
                seconds: float) -> dict[str, float]:
        sending = ('pub', *rate, 'size', str(message.size))
        with self._running(sending, ('-1', 'sub')) as (publisher, subscriber):
            # The traffic began somewhere within the first second that is said.
            found = self._seconds(subscriber, (publisher, subscriber), seconds + 1)
        (first, cpu_first), (last, cpu_last) = found[0], found[-1]
        count = sum(second.values['count'] for second, _ in found[1:])
        if not count:
            raise PairError(f'measure {self.way.name}', 'nothing arrived any more')
        return {'messages_per_s': count / (last.time - first.time),
                'lost': sum(second.lost for second, _ in found),
                'cpu_ms_per_megabyte': 1e9 * (cpu_last - cpu_first) / (count * message.size)}

    @contextmanager
    def _running(self, sending: tuple[str, ...], waiting: tuple[str, ...]):
        """Start the end that waits for the other, in the second place, and then that other one."""
        place, other = self._places
        with self._process(other, waiting) as second:
            _wait_for_start(second)
            with self._process(place, sending) as first:
                yield first, second

    def _process(self, place: Namespace, argv: tuple[str, ...]) -> Process:
        # A ROS 2 in LD_LIBRARY_PATH may bring a Cyclone of another version. Into a pipe ddsperf
        # would say nothing before its first second is over, hence stdbuf.
        environment = {name: value for name, value in clean(dict(os.environ)).items()
                       if name != 'LD_LIBRARY_PATH'}
        return Process(f'{self.way.name}, ddsperf {" ".join(argv)}', place.command(
            *self.way.command(place.address, 'stdbuf', '-oL', 'ddsperf', *argv)),
            {**environment, **self.way.environment})

    @staticmethod
    def _seconds(process: Process, costing: tuple[Process, ...],
                 wanted: float) -> list[tuple[Second, float]]:
        """Return what is said of the seconds with traffic, with the CPU time until then."""
        found: list[tuple[Second, float]] = []
        deadline = time.monotonic() + _TIMEOUT + wanted
        while len(found) < math.ceil(wanted):
            if time.monotonic() > deadline:
                raise process.failed(f'too little in {_TIMEOUT + wanted:.0f} s')
            second = parse(process.line(_TIMEOUT))
            if second is not None and (second.size or found):
                found.append((second, sum(each.cpu() for each in costing)))
        return found


def _wait_for_start(process: Process) -> None:
    """Return when its participant is made, so that the other end finds it at once."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        if process.line(_TIMEOUT).endswith(_STARTED):
            return
    raise process.failed('it did not start')
