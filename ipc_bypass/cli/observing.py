"""What `record` and `tap` share: how they reach the pool, when they end, what they missed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import signal
import sys
import time

from ipc_bypass.cli.arguments import positive, seconds
from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.pool.channel import DEFAULT_SOCKET
from ipc_bypass.rules.table import parse

#: Seconds of one wait: a signal is noticed after that at the latest.
LOOK_EVERY = 0.25
#: Seconds without a datagram after which the reason is guessed at, once.
SILENCE = 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_observing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which datagrams, and how many."""
    parser.add_argument('--rule', action='append', default=[], metavar='udp:PORTS', type=_rule,
                        help='only what goes to these ports, of rules that are enrolled; may be '
                        'given again (default: all)')
    parser.add_argument('--count', type=positive, metavar='N', help='end after N datagrams')
    parser.add_argument('--duration', type=seconds, metavar='S', help='end after S seconds')
    parser.add_argument('--control-socket', default=DEFAULT_SOCKET, metavar='PATH',
                        help="the node's socket (default %(default)s)")


def open_observer(args: argparse.Namespace, name: str):
    """
    Return a Consumer that observes what `args` ask for; `name` is shown by the node.

    :raises PoolError: no node runs, or it lets nobody of this user's groups in
    """
    from ipc_bypass.pool.consumer import Consumer
    return Consumer(args.rule, observe=True, control=args.control_socket, name=name)


class Ending:
    """
    When to stop: a signal came, enough was seen, or the time is up.

    :param count: most datagrams, None for no limit
    :param duration: seconds, None for no limit
    """

    def __init__(self, count: int | None = None, duration: float | None = None,
                 clock=time.monotonic) -> None:
        self._left, self._clock = count, clock
        self._deadline = None if duration is None else clock() + duration
        self.signal = 0

    @contextmanager
    def on_signals(self, *more: int) -> Iterator[None]:
        """Have SIGINT, SIGTERM, SIGHUP and `more` signals end what runs within."""
        def note(number, _frame):
            self.signal = number
        before = {number: signal.signal(number, note) for number in (*_SIGNALS, *more)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def reached(self) -> bool:
        """Return whether to stop now."""
        return bool(self.signal) or self._left == 0 or self.wait == 0.0

    @property
    def wait(self) -> float:
        """Return for how many seconds to wait for the next datagram."""
        if self._deadline is None:
            return LOOK_EVERY
        return max(0.0, min(LOOK_EVERY, self._deadline - self._clock()))

    def most(self, wanted: int) -> int:
        """Return how many of so many datagrams to take."""
        return wanted if self._left is None else min(wanted, self._left)

    def count(self, taken: int) -> None:
        """Note that so many were taken."""
        if self._left is not None:
            self._left -= taken


class Hints:
    """Says once, on standard error, why nothing may come."""

    def __init__(self, command: str, consumer, *, out=None, clock=time.monotonic) -> None:
        self._command, self._consumer, self._out, self._clock = command, consumer, out, clock
        self._silent_since: float | None = clock()
        self._connected = True
        if getattr(consumer, 'rules', None) == []:
            self._say('no UDP rule is enrolled; enrol one: ros2 service call '
                      '/ipc_bypass/enroll_port, or rules in the parameter file of the node')
            self._silent_since = None

    def saw(self, datagrams: int) -> None:
        """Note what a read brought, 0 for nothing."""
        connected = getattr(self._consumer, 'connected', True)
        if connected != self._connected:
            self._connected = connected
            self._say('a node is there again' if connected
                      else 'the node is gone; waiting for the next one')
        if datagrams:
            self._silent_since = None
        elif self._silent_since is not None and self._clock() - self._silent_since >= SILENCE:
            self._silent_since = None
            self._say('nothing was captured so far; `ipc-bypass status` shows whether a udp rule '
                      'covers the destination port and why datagrams pass')

    def _say(self, text: str) -> None:
        print(f'ipc-bypass {self._command}: {text}', file=self._out or sys.stderr, flush=True)


class PassedCounts:
    """
    Counts what the kernel program did not capture since the beginning, by reason.

    Of the whole node. Where the consumer cannot tell reasons, there is one sum, 'not_captured',
    which is as old as the node's last tick.
    """

    def __init__(self, consumer) -> None:
        """Begin to count now."""
        self._consumer = consumer
        self._source, self._begin = self._look()
        self._before: dict[str, int] = {}
        self._sums: dict[str, int] = {}

    def update(self) -> dict[str, int]:
        """Return {reason: datagrams}, without those that are 0."""
        source, counters = self._look()
        if source is not self._source:
            # Another node, whose counters began when it did.
            self._before = self._sums
            self._source, self._begin = source, {}
        self._sums = {
            name: self._before.get(name, 0) + counters.get(name, 0) - self._begin.get(name, 0)
            for name in {**self._before, **counters}}
        return {name: count for name, count in self._sums.items() if count > 0}

    def _look(self):
        """Return (what tells them apart between nodes, {reason: count since the node began})."""
        memory = getattr(self._consumer, 'memory', None)
        ask = getattr(self._consumer, 'passed_by_reason', None)
        if ask is not None:
            return memory, dict(ask())
        if memory is None:
            return None, {}
        return memory, {'not_captured': int(memory.header[0]['passed'])}


def _rule(text: str) -> str:
    """Return the text of a UDP rule, 'udp:7400-7500' for '7400-7500'."""
    whole = text if ':' in text else f'udp:{text}'
    try:
        rule = parse(whole)
    except RuleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if rule.transport != 'udp':
        raise argparse.ArgumentTypeError(f"'{text}' is no UDP rule: write udp:PORT[-PORT]")
    return whole
