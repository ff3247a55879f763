"""
Run ddsperf, the bench of Cyclone DDS, and read what it prints each second.

The forms are those of Cyclone DDS 0.10 (src/tools/ddsperf/ddsperf.c of eclipse-cyclonedds,
latencystat_print and print_stats).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
import os
import re
import select
import subprocess
import time

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.kernel.errors import BypassError

ROUNDTRIP = 'roundtrip'
THROUGHPUT = 'throughput'

# (what is measured at, what it talks to): ddsperf's modes by workload.
_MODES = {ROUNDTRIP: ('ping', 'pong'), THROUGHPUT: ('sub', 'pub')}

_LATENCY = re.compile(
    r'^\[\d+\]\s+(?P<time>[\d.]+)\s+\S+ size (?P<size>\d+) mean (?P<mean>[\d.]+)us '
    r'min [\d.]+us 50% (?P<p50>[\d.]+)us 90% [\d.]+us 99% (?P<p99>[\d.]+)us '
    r'max [\d.]+us cnt (?P<count>\d+)$')
_RATE = re.compile(
    r'^\[\d+\]\s+(?P<time>[\d.]+)\s+size (?P<size>\d+) total \d+ lost \d+ '
    r'delta (?P<delta>\d+) lost (?P<lost>\d+) rate ')
_STARTED = re.compile(r'^\[\d+\] participant \S+: new \(self\)$')

_TIMEOUT = 15.0


class DdsperfError(BypassError):
    """A ddsperf ended early or measured nothing; the reason holds what it said."""


@dataclass(frozen=True)
class Second:
    """
    What ddsperf printed for about one second.

    :param time: end of the second, in seconds since the process began
    :param size: payload size in bytes, 0 where nothing came
    :param values: metric -> value; p50_us, p99_us and mean_us of the whole round trip (ddsperf
        prints half of it), or count, the samples received
    :param lost: samples lost in this second
    """

    time: float
    size: int
    values: dict[str, float]
    lost: int = 0


@dataclass(frozen=True)
class Peer:
    """Where a ddsperf runs, and its CYCLONEDDS_URI ('' for Cyclone's defaults)."""

    place: Namespace
    uri: str


def parse(line: str) -> Second | None:
    """
    Return what a line of ddsperf says of one second; None for any other line.

    ddsperf halves a round trip before it prints it (process_pong); here it is whole again.
    """
    found = _LATENCY.match(line)
    if found:
        return Second(float(found['time']), int(found['size']),
                      {f'{name}_us': 2 * float(found[name]) for name in ('p50', 'p99', 'mean')})
    found = _RATE.match(line)
    if found:
        return Second(float(found['time']), int(found['size']),
                      {'count': float(found['delta'])}, int(found['lost']))
    return None


def measured(seconds: list[Second], drop: int = 1) -> list[dict[str, float]]:
    """
    Return the metrics of every second but the first `drop` ones with traffic.

    A count becomes samples_per_s, by the time since the second before; the first of these is
    always dropped, since its traffic began somewhere within it.
    """
    begin = next((i for i, second in enumerate(seconds) if second.size), len(seconds))
    metrics = []
    for number in range(begin, len(seconds)):
        second = seconds[number]
        if number - begin < max(drop, 'count' in second.values):
            continue
        if 'count' in second.values:
            elapsed = second.time - seconds[number - 1].time
            metrics.append({'samples_per_s': second.values['count'] / elapsed})
        else:
            metrics.append(second.values)
    return metrics


def run(workload: str, size: int, here: Peer, there: Peer, *, seconds: int, drop: int = 1,
        tick: Callable[[], None] = lambda: None) -> list[dict[str, float]]:
    """
    Run two ddsperf against each other and return the metrics of `seconds` seconds.

    What comes before is dropped: the second in which they find each other (ddsperf pings from
    the next one on), and the first `drop` seconds with traffic.

    :param workload: ROUNDTRIP or THROUGHPUT
    :param size: payload in bytes, at least 12
    :param here: the peer that measures: it pings, or subscribes
    :param there: the peer that answers, or publishes
    :param seconds: how many seconds to measure
    :param drop: seconds with traffic to leave out before
    :param tick: called about four times a second meanwhile
    :raises DdsperfError: a peer ended early, lost samples or measured too little in time
    """
    mode_here, mode_there = _MODES[workload]
    # ddsperf's size is that of the sender's samples.
    sized = ('size', str(size))
    argv_here = ('-1', 'sub') if mode_here == 'sub' else ('ping', *sized)
    argv_there = (mode_there, *sized) if mode_there == 'pub' else (mode_there,)
    # The end that waits for the other comes first: pong before ping, sub before pub.
    order = [(there, argv_there), (here, argv_here)]
    if workload == THROUGHPUT:
        order.reverse()
    with ExitStack() as stack:
        processes = {}
        for peer, argv in order:
            process = stack.enter_context(_Process(peer, argv))
            process.wait_for_start(tick)
            processes[argv] = process
        return _collect(processes[argv_here], processes[argv_there], seconds, drop, tick)


def _collect(here: _Process, there: _Process, wanted: int, drop: int,
             tick: Callable[[], None]) -> list[dict[str, float]]:
    """Read the measuring process until it has said enough."""
    seen: list[Second] = []
    deadline = time.monotonic() + _TIMEOUT + wanted
    while time.monotonic() < deadline:
        second = parse(here.read_line(0.25) or '')
        tick()
        if second is not None:
            if second.lost:
                raise DdsperfError(here.command, f'{second.lost} samples lost')
            seen.append(second)
            metrics = measured(seen, drop)
            if len(metrics) >= wanted:
                return metrics
        for process in (here, there):
            process.check()
    raise DdsperfError(
        here.command, f'too little in {_TIMEOUT + wanted:.0f} s; it said {here.said()!r}, and '
        f'{there.command} {there.said()!r}')


class _Process:
    """One ddsperf: a context manager that ends it."""

    def __init__(self, peer: Peer, argv: tuple[str, ...]) -> None:
        self.command = ' '.join(('ddsperf', *argv))
        self._argv = ('ddsperf', *argv)
        self._peer = peer
        self._rest = b''
        self._said: list[str] = []
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> _Process:
        # A ROS 2 in LD_LIBRARY_PATH may bring a Cyclone of another version.
        environment = {name: value for name, value in os.environ.items()
                       if name not in ('CYCLONEDDS_URI', 'LD_LIBRARY_PATH')}
        if self._peer.uri:
            environment['CYCLONEDDS_URI'] = self._peer.uri
        # Into a pipe it would say nothing before its first second is over, hence stdbuf. Its few
        # lines fit into the pipe, also where nobody reads them.
        self._process = subprocess.Popen(
            self._peer.place.command('stdbuf', '-oL', *self._argv), env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)
        os.set_blocking(self._process.stdout.fileno(), False)
        return self

    def __exit__(self, *_exception) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def read_line(self, timeout: float) -> str | None:
        """Return the next line; None where none came within `timeout` seconds or at the end."""
        deadline = time.monotonic() + timeout
        while b'\n' not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                time.sleep(min(left, 0.05))
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b'\n')
        text = line.decode(errors='replace').strip()
        self._said = [*self._said[-7:], text]
        return text

    def wait_for_start(self, tick: Callable[[], None]) -> None:
        """Return when its participant is made, so that the other end finds it at once."""
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            if _STARTED.match(self.read_line(0.25) or ''):
                return
            tick()
            self.check()
        raise DdsperfError(self.command, f'no start within {_TIMEOUT:.0f} s; it said '
                           f'{self.said()!r}')

    def check(self) -> None:
        """Raise DdsperfError where the process has ended."""
        status = self._process.poll()
        if status is not None:
            while self.read_line(0.1) is not None:
                pass
            raise DdsperfError(self.command, f'it ended with status {status}; it said '
                               f'{self.said()!r}')

    def said(self) -> str:
        """Return its last lines, as one line."""
        return ' / '.join(self._said)
