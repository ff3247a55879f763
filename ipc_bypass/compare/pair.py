"""Two processes with a session each, measured against each other (ipc_bypass.compare.endpoint)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
import json
import os
import sys
import time

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.compare.messages import Message
from ipc_bypass.compare.process import PairError, Process
from ipc_bypass.compare.ways import clean, Way

_START_TIMEOUT = 45.0
#: What a request may take beside the time that it measures.
_ANSWER_TIMEOUT = 12.0
#: How long the receiver waits after the last message for more: where all should arrive, and where
#: some never will.
_QUIET, _QUIET_FLAT_OUT = 1.0, 0.25


class Pair:
    """
    Two processes on one way, in two places; a context manager that ends them.

    :param backend: 'rclpy' or 'zenoh'
    :param messages: that it will be asked for
    :param environment: of both, beside that of the way
    """

    def __init__(self, way: Way, places: tuple[Namespace, Namespace], backend: str,
                 messages: Sequence[Message], environment: dict[str, str] | None = None) -> None:
        self.way = way
        sizes = [str(message.size) for message in messages]
        self._messages = tuple(messages)
        self._stack = ExitStack()
        self._ends = [
            Process(f'{way.name}, end {end}', place.command(*way.command(
                place.address, sys.executable, '-m', 'ipc_bypass.compare.endpoint', backend, end,
                *sizes)), {**clean(dict(os.environ)), **way.environment, **(environment or {})})
            for end, place in zip('ab', places, strict=True)]

    def __enter__(self) -> Pair:
        with ExitStack() as stack:
            for end in self._ends:
                stack.enter_context(end)
                _request(end, 'matched', timeout=_START_TIMEOUT / 2)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    def ready(self) -> None:
        """Return when the two have found each other; raises PairError."""
        for end in self._ends:
            _answer(end, _START_TIMEOUT)
        for end in self._ends:
            if not _answer(end, _START_TIMEOUT)['matched']:
                raise PairError(f'measure {self.way.name}', 'the two ends do not find each other')

    def roundtrip(self, message: Message, seconds: float) -> dict[str, float]:
        """Return p50_us, p99_us and lost of round trips; raises PairError."""
        first = self._ends[0]
        _request(first, 'roundtrip', message=self._messages.index(message), seconds=seconds,
                 warm=min(0.5, seconds / 4))
        found = _answer(first, 1.5 * seconds + _ANSWER_TIMEOUT)
        if not found['times']:
            raise PairError(f'measure {self.way.name}', 'no round trip was completed')
        return {**_quantiles(found['times']), 'lost': found['lost']}

    def at_rate(self, message: Message, seconds: float) -> dict[str, float]:
        """Send at the message's rate; return latencies one way, lost and cpu_ms_per_megabyte."""
        found = self.stream(message, message.rate, seconds, _QUIET)
        return {name: found[name] for name in ('p50_us', 'p99_us', 'lost', 'cpu_ms_per_megabyte')}

    def flat_out(self, message: Message, seconds: float) -> dict[str, float]:
        """Send as fast as it goes; return messages_per_s of those that arrived."""
        found = self.stream(message, 0.0, seconds, _QUIET_FLAT_OUT)
        return {'messages_per_s': found['messages_per_s']}

    def stream(self, message: Message, rate: float, seconds: float,
               quiet: float) -> dict[str, float]:
        """
        Send for some seconds at a rate in Hz, 0 for as fast as it goes; raises PairError.

        :param quiet: how long to wait for more, in s
        :returns: p50_us and p99_us one way, messages_per_s, sent, lost, cpu_s and
            cpu_ms_per_megabyte of both processes, for what arrived
        """
        first, second = self._ends
        _request(second, 'receive')
        _answer(second, _ANSWER_TIMEOUT)
        _request(first, 'send', message=self._messages.index(message), rate=rate, seconds=seconds)
        sent = _answer(first, 1.5 * seconds + _ANSWER_TIMEOUT)
        _request(second, 'report', expected=sent['sent'], quiet=quiet)
        came = _answer(second, seconds + 2 * _ANSWER_TIMEOUT)
        received, took = came['received'], came['seconds']
        if not received:
            raise PairError(f'measure {self.way.name}',
                            f'none of {sent["sent"]} messages arrived')
        cpu = sent['cpu'] + came['cpu']
        return {**_quantiles(came['latencies']), 'sent': sent['sent'],
                'lost': sent['sent'] - received,
                'messages_per_s': (received - 1) / took if took else 0.0,
                'cpu_s': cpu, 'cpu_ms_per_megabyte': 1e9 * cpu / (received * message.size)}


def _request(end: Process, what: str, **values) -> None:
    end.write(json.dumps({'do': what, **values}))


def _answer(end: Process, timeout: float) -> dict:
    """Return the next answer; a library may print other lines."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return json.loads(end.line(max(0.1, deadline - time.monotonic())))
        except ValueError:
            continue


def _quantiles(times: list[int]) -> dict[str, float]:
    """Return the median and the 99th percentile of times in ns, in µs."""
    ordered = sorted(times)
    return {f'{name}_us': ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1000
            for name, share in (('p50', 0.5), ('p99', 0.99))}
