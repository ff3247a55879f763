"""
All floods in turn at the TCP path: `flood_lab.py [CONNECTIONS [CHURN [SYNS [MAX_CONNECTIONS]]]]`.

Prints what each did to the path's maps, to its process's memory, and to bystanders; raises where
a bound does not hold. In a network namespace of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import resource
import sys
import time

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from floods import Bystander, churn, resident, scan, syn_flood  # noqa: E402
from isolation import isolate  # noqa: E402
from support.leaks import PIN_PREFIX  # noqa: E402
from support.processes import PathProcess, Script  # noqa: E402

FIRST, LAST = 23900, 23999
_BY, _SYN, _CHURN, _HOLD, _PLAIN = FIRST, FIRST + 1, FIRST + 2, FIRST + 10, LAST + 500
#: Connections of one process, two descriptors each.
_EACH = 5000
#: Bytes by which the path's process may grow, whatever comes.
_GROWTH = 32 << 20
_SETTLED = 1.5


class Holder(Script):
    """A process that holds connections."""

    def __init__(self, port, count):
        super().__init__('../hostile/flood_process.py', str(port), str(count))


class Lab:
    """The path, who stands by, and what was measured."""

    def __init__(self, path, bystander):
        self._path, self._bystander = path, bystander
        time.sleep(_SETTLED)
        self._before = bystander.medians()
        self._resident, self.steps = resident(path.process.pid), []

    def measure(self, name, **figures):
        """Note what a flood did; raises AssertionError where a bound does not hold."""
        counters, medians = self._path.ask('counters'), self._bystander.medians()
        flows = len(self._path.ask('flows'))
        grown = resident(self._path.process.pid) - self._resident
        assert not self._bystander.failed, self._bystander.failed
        assert grown < _GROWTH, f'{name}: the process grew by {grown} bytes'
        limit = 2 * self._path.settings['max_connections']
        assert flows <= limit, (name, flows, limit)
        self.steps.append({
            'flood': name, **figures, 'flows': flows, 'grown_kib': grown >> 10,
            'left_out_table_full': counters.get('left_out_table_full', 0),
            'ratios': [round(now / before, 2) if before else 0.0
                       for now, before in zip(medians, self._before, strict=True)]})
        return counters


def run(connections, churned, syns, max_connections):
    """
    Do all of it; return a list of dicts, one a flood.

    `ratios` are the bystanders' median round trips over those before: enrolled, not enrolled.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    pins = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_flood'
    settings = {'pin_directory': pins, 'max_connections': max_connections}
    with PathProcess([[FIRST, LAST]], **settings) as path:
        try:
            with Bystander((_BY, _PLAIN)) as bystander:
                lab = Lab(path, bystander)
                _flood(lab, path, connections, churned, syns, max_connections)
        finally:
            path.ask('cleanup')  # with no connection left that would keep the pins
    assert not os.path.exists(f'{pins}/tcp')
    return lab.steps


def _flood(lab, path, connections, churned, syns, max_connections):
    assert scan(FIRST - 100, LAST + 100) == 1
    lab.measure('port scan', ports=LAST - FIRST + 201)
    with contextlib.closing(_listener(_SYN)):
        taken = syn_flood(_SYN, syns)
    lab.measure('SYN flood', segments=taken)
    _hold(lab, connections, max_connections)
    churn(_CHURN, churned)
    _settle(path)
    counters = lab.measure('churn', connections=churned)
    assert counters['ends_enrolled'] - counters['ends_closed'] <= 4, counters


def _listener(port):
    import socket
    return socket.create_server(('127.0.0.1', port), backlog=16)


def _hold(lab, connections, max_connections):
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(Holder(_HOLD + number, min(
            _EACH, connections - number * _EACH)))
            for number in range((connections + _EACH - 1) // _EACH)]
        held = sum(holder.answer(600) for holder in holders)
        assert held == 2 * connections
        counters = lab.measure('connections', connections=connections)
        enrolled = counters['ends_enrolled'] - counters['ends_closed']
        assert enrolled <= 2 * max_connections + 2
        if connections > 2 * max_connections:
            assert counters['left_out_table_full'] > 0
        for holder in holders:
            holder.tell('release')
            holder.answer(600)


def _settle(path):
    """Wait until the path has looked at what ended."""
    time.sleep(_SETTLED)
    path.ask('flows')


def main():
    """Run it and print a line a flood."""
    numbers = [int(word) for word in sys.argv[1:]]
    isolate()
    for step in run(*(numbers + [20_000, 50_000, 100_000, 1024][len(numbers):])):
        print(json.dumps(step), flush=True)


if __name__ == '__main__':
    main()
