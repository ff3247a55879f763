#!/usr/bin/env python3
"""
Measure what a graph is to gain: round trips, a stream of images, one host, Cyclone, many nodes.

Each part prints its figures beside what they are to be. Parts are `roundtrip`, `stream`, `host`,
`cyclonedds`, `participants` and `participants-cyclonedds`; without a name all of them run, which
takes about ten minutes. To be run as root, with ROS 2 sourced (scripts/activate).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
import json
import os
from pathlib import Path
from statistics import median
import sys
import tempfile
import time

from ipc_bypass.bench import containers
from ipc_bypass.bench.bypass import Bypass, statistics_lines
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.compare import measure, ways
from ipc_bypass.compare.messages import budget_bytes, Message
from ipc_bypass.compare.pair import Pair
from ipc_bypass.compare.places import both
from ipc_bypass.compare.process import PairError, Process
from ipc_bypass.compare.table import table
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.profiles import folder, kinds, run_with_port, settings
from rich.console import Console

_IMAGE = Message(1 << 20, 30.0)
_LARGE = Message(6 << 20, 30.0)
_PERIOD_US = 1e6 / 30
_ROUNDS, _ROUND_SECONDS = 5, 2.0
_STREAM_SECONDS = 60.0
_PLAIN_SHARED_MEMORY = 'shared memory - malloc'
_PARTICIPANTS, _IDLE_SECONDS, _DISCOVERY_SECONDS = 40, 20.0, 120.0


def roundtrip(where: Path) -> None:
    """1 MB there and back between two containers, the ways in turn."""
    with ExitStack() as stack:
        places = stack.enter_context(both(ways.CONTAINERS))
        made = ways.make('fastdds', ways.CONTAINERS, _addresses(places), where / 'roundtrip')
        found = _in_turn(stack, made, places)
    _target('round trip of 1 MB, default over redirected',
            found[ways.DEFAULT] / found[ways.REDIRECTED], at_least=8)


def stream(where: Path) -> None:
    """6 MB at 30 Hz for 60 s between two containers."""
    costs, totals = {}, {}
    with ExitStack() as stack:
        places = stack.enter_context(both(ways.CONTAINERS))
        for way in ways.make('fastdds', ways.CONTAINERS, _addresses(places), where / 'stream'):
            if way.name not in (ways.DEFAULT, ways.REDIRECTED):
                continue
            with Pair(way, places, 'rclpy', [_LARGE]) as pair:
                pair.ready()
                found = pair.stream(_LARGE, _LARGE.rate, _STREAM_SECONDS, 2.0)
            costs[way.name] = found['cpu_ms_per_megabyte']
            totals[way.name] = found['cpu_s']
            _say(f'{way.name}: sent {found["sent"]}, lost {found["lost"]}, one way p50 '
                 f'{found["p50_us"]:,.0f} µs, p99 {found["p99_us"]:,.0f} µs, CPU '
                 f'{found["cpu_s"]:.1f} s, {found["cpu_ms_per_megabyte"]:.2f} ms/MB')
    _target('6 MB at 30 Hz redirected: messages lost', found['lost'], at_most=0)
    _target('6 MB at 30 Hz redirected: p99 one way, in periods', found['p99_us'] / _PERIOD_US,
            at_most=1)
    _target('6 MB at 30 Hz: CPU in all, redirected of default',
            totals[ways.REDIRECTED] / totals[ways.DEFAULT], at_most=0.6)
    _target('6 MB at 30 Hz: CPU for what arrives, redirected of default',
            costs[ways.REDIRECTED] / costs[ways.DEFAULT], at_most=0.6)


def host(where: Path) -> None:
    """1 MB there and back on one host with one /dev/shm, with and without the allocator's room."""
    with ExitStack() as stack:
        places = stack.enter_context(both(ways.SAME_HOST))
        made = {way.name: way for way in ways.make(
            'fastdds', ways.SAME_HOST, _addresses(places), where / 'host')}
        shared, default = made[ways.SHARED_MEMORY], made[ways.DEFAULT]
        found = _in_turn(stack, [
            default,
            replace(default, name='default + malloc',
                    environment=_domain(default, 20) | kinds.ALLOCATOR),
            shared, replace(shared, name=_PLAIN_SHARED_MEMORY, environment=_domain(shared, 21),
                            prefix=_without_allocator(where / 'plain')),
            made[ways.TCP], made[ways.REDIRECTED]], places)
    _target('same host, 1 MB: redirected of default', found[ways.REDIRECTED] / found[ways.DEFAULT],
            at_most=1)
    _target('same host, 1 MB: redirected of shared memory with 64 MB',
            found[ways.REDIRECTED] / found[ways.SHARED_MEMORY], at_most=1.3)
    _target("same host, 1 MB: redirected of shared memory with 64 MB, without the allocator's "
            'variables there', found[ways.REDIRECTED] / found[_PLAIN_SHARED_MEMORY],
            at_most=1.3)


def cyclonedds(_where: Path) -> None:
    """Measure what `ipc-bypass demo` does, by way of a comparison."""
    wanted = [Message(1 << 10, 1000.0), Message(16 << 10, 1000.0), _IMAGE]
    plan = measure.plan('cyclonedds', [ways.CONTAINERS], wanted)
    measured = measure.measure(replace(plan, seconds=(2.0, 0.0, 2.0)), begin=lambda text: None)
    for failure in measured.failures:
        _say(f'failed: {failure}')
    rows = measure.rows_of(plan, measured)
    Console(width=110).print(table('Cyclone DDS, containers', rows, plan.ways[ways.CONTAINERS]))
    figures = {(row.path, row.workload, row.size, row.metric): row.value for row in rows}
    for size, work, metric, least in ((1 << 20, measure.ROUNDTRIP, 'p50_us', 5),
                                      (1 << 20, measure.FLAT_OUT, 'messages_per_s', 6),
                                      (1 << 10, measure.ROUNDTRIP, 'p50_us', 1 / 0.95)):
        before, value = (figures.get((way, work, size, metric))
                         for way in (ways.DEFAULT, ways.REDIRECTED))
        if before and value:
            _target(f'Cyclone, {size} B {work} {metric}, gain over the default',
                    before / value if metric == 'p50_us' else value / before, at_least=least)


def participants(where: Path) -> None:
    """Time and CPU of 40 nodes on one host that find each other, and then do nothing."""
    command = (sys.executable, '-m', 'ipc_bypass.compare.participant', str(_PARTICIPANTS),
               str(_DISCOVERY_SECONDS))

    def found(process: Process) -> int:
        return json.loads(process.line(_DISCOVERY_SECONDS + 60))['found']

    _many('fastdds', where / 'many', command, found)


def participants_cyclonedds(where: Path) -> None:
    """Do the same with 40 ddsperf."""
    def found(process: Process) -> int:
        names, deadline = set(), time.monotonic() + _DISCOVERY_SECONDS
        while len(names) < _PARTICIPANTS and time.monotonic() < deadline:
            line = process.line(_DISCOVERY_SECONDS)
            if ' new' in line and 'participant' in line:
                names.add(line.partition('participant')[2].split(':')[0] + line.split(':')[1])
        return len(names)

    _many('cyclonedds', where / 'many-cyclonedds', ('stdbuf', '-oL', 'ddsperf', 'sub'), found)


def _many(kind: str, where: Path, command: tuple[str, ...],
          found: Callable[[Process], int]) -> None:
    """Measure many processes of a kind, by default and with the profile."""
    idle, complete = {}, {}
    address = '127.0.0.1' if kind == 'cyclonedds' else ''
    written = folder.write(kind, settings.settings(0, address=address), where)
    clean = ways.clean(dict(os.environ))
    if kind == 'cyclonedds':
        clean.pop('LD_LIBRARY_PATH', None)
    for name, prefix in (('default', ()), ('profile', written.command_prefix)):
        with ExitStack() as stack:
            place, _ = stack.enter_context(both(ways.SAME_HOST))
            begin = time.monotonic()
            processes = [stack.enter_context(Process(
                f'{name}, {number}', place.command(*prefix, *command),
                {**clean, 'ROS_DOMAIN_ID': '0'})) for number in range(_PARTICIPANTS)]
            complete[name] = sum(found(process) >= _PARTICIPANTS for process in processes)
            took = time.monotonic() - begin
            time.sleep(5)
            before = [process.cpu() for process in processes]
            time.sleep(_IDLE_SECONDS)
            idle[name] = sum(process.cpu() for process in processes) - sum(before)
        _say(f'{kind}, {name}: {complete[name]} of {_PARTICIPANTS} found all in {took:.0f} s '
             f'from their start; idle {idle[name]:.2f} s of CPU time in {_IDLE_SECONDS:.0f} s')
    _target(f'{kind}: participants that found all, with the profile', complete['profile'],
            at_least=_PARTICIPANTS)
    _target(f'{kind}: CPU at idle, profile of default', idle['profile'] / idle['default'],
            at_most=1)


def _in_turn(stack: ExitStack, made: list[ways.Way], places) -> dict[str, float]:
    """Return the median over rounds of the median round trip of each way, in µs."""
    pairs = [stack.enter_context(Pair(way, places, 'rclpy', [_IMAGE])) for way in made]
    for pair in pairs:
        pair.ready()
    seen: dict[str, list[dict[str, float]]] = {pair.way.name: [] for pair in pairs}
    for _ in range(_ROUNDS):
        for pair in pairs:
            seen[pair.way.name].append(pair.roundtrip(_IMAGE, _ROUND_SECONDS))
    for name, found in seen.items():
        p50, p99 = (median(each[metric] for each in found) for metric in ('p50_us', 'p99_us'))
        _say(f'{name}: round trip of 1 MB p50 {p50:,.0f} µs, p99 {p99:,.0f} µs; p50 by round '
             + ' '.join(f'{each["p50_us"]:,.0f}' for each in found))
    return {name: median(each['p50_us'] for each in found) for name, found in seen.items()}


def _without_allocator(where: Path) -> tuple[str, ...]:
    """Write the profile with shared memory and without the allocator's variables."""
    written = folder.write('fastdds', settings.settings(
        21, ports=ways.PLAIN_PORTS, shared_memory=True), where)
    path = written.folder / run_with_port.DESCRIPTION
    described = json.loads(path.read_text())
    for name in kinds.ALLOCATOR:
        del described['environment'][name]
    path.write_text(json.dumps(described))
    return written.command_prefix


def _domain(way: ways.Way, domain: int) -> dict[str, str]:
    return way.environment | {'ROS_DOMAIN_ID': str(domain)}


def _addresses(places) -> tuple[str, str]:
    return places[0].address, places[1].address


def _target(what: str, value: float, *, at_least: float | None = None,
            at_most: float | None = None) -> None:
    met = value >= at_least if at_least is not None else value <= at_most
    bound = f'at least {at_least:g}' if at_least is not None else f'at most {at_most:g}'
    _say(f'TARGET {what}: {value:.2f}, {bound}: {"met" if met else "not met"}')


def _say(text: str) -> None:
    print(f'{text} [load {os.getloadavg()[0]:.1f}]', flush=True)


PARTS = {'roundtrip': roundtrip, 'stream': stream, 'host': host, 'cyclonedds': cyclonedds,
         'participants': participants, 'participants-cyclonedds': participants_cyclonedds}


def main(words: list[str] | None = None) -> int:
    """Measure the parts that are named, all of them without a name."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', metavar='PART', choices=[*PARTS, []])
    chosen = parser.parse_args(words).parts or list(PARTS)
    failed = False
    with unwinding(), tempfile.TemporaryDirectory(prefix='ipc_bypass_') as where:
        containers.remove_leftovers()
        try:
            with Bypass(ways.RULE_PORTS, domains=[], udp_path='loopback',
                        budget_bytes=budget_bytes([_LARGE])) as bypass:
                for name in chosen:
                    print(f'--- {name}: {PARTS[name].__doc__.splitlines()[0]}', flush=True)
                    try:
                        PARTS[name](Path(where))
                    except PairError as error:
                        _say(f'failed: {error}')
                        failed = True
                for line in statistics_lines(bypass.statistics()):
                    print(line)
        finally:
            containers.remove_own()
    return 1 if failed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except BypassError as error:
        sys.exit(f'graph_targets: {error}')
