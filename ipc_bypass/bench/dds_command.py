"""
Measure Cyclone DDS with ddsperf: over UDP, over TCP, and over TCP with our path.

In two containers on a bridge, where UDP is as Cyclone has it by default, and on one host over the
loopback interface, where UDP and TCP have the same fragment size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import platform
import sys
import time

from ipc_bypass.bench import containers, dds, profiles, report, rows, session
from ipc_bypass.bench.bypass import Bypass, statistics_lines
from ipc_bypass.bench.signals import unwinding
from rich.console import Console

SUMMARY = 'Cyclone DDS over UDP, TCP and TCP with our path'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    session.add_common_arguments(parser)
    parser.add_argument('--scenario', choices=(*dds.SCENARIOS, 'all'), default='all',
                        help='where the peers are (default %(default)s)')
    parser.add_argument('--sizes', type=session.payload, nargs='+', default=(), metavar='SIZE',
                        help='sizes for the throughput, such as 64 16k 1M (default: those of the '
                             'scenario)')
    parser.add_argument('--chart', type=Path, metavar='FILE',
                        default=Path('results/bench_dds.png'),
                        help='write the chart to FILE, a PNG (default %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Run the bench and return the exit status."""
    scenarios = dds.SCENARIOS if args.scenario == 'all' else (args.scenario,)
    return measure_and_report(
        dds.plan(scenarios, quick=args.quick, repeats=args.repeat, sizes=args.sizes),
        title='Cyclone DDS: ' + ' and '.join(scenarios), json_file=args.json, chart=args.chart)


def measure_and_report(plan: dds.Plan, *, title: str, json_file: Path | None,
                       chart: Path) -> int:
    """
    Measure a plan with the node running, print the table and the statistics, write the files.

    Returns 0 where every figure was measured, else 1; whether targets were met does not count.
    """
    session.need('ddsperf', program=True, package='cyclonedds-tools')
    session.need('matplotlib', package='python3-matplotlib')
    console = session.console()
    started = time.monotonic()
    with unwinding():
        try:
            measured, statistics = _measure(console, plan)
        finally:
            containers.remove_own()
    figures = rows.rows_of(measured.runs)
    if figures:
        _show(console, title, plan, figures, statistics)
        _write_chart(chart, title, figures)
        console.print(f'Chart: {chart}')
    if json_file is not None:
        rows.write_json(json_file, figures)
        console.print(f'Figures: {json_file}')
    for failure in measured.failures:
        print(f'failed: {failure}', file=sys.stderr)
    console.print(f'Took {time.monotonic() - started:.0f} s')
    return 0 if all(measured.runs.values()) else 1


def _measure(console: Console, plan: dds.Plan) -> tuple[dds.Measured, dict]:
    """Measure a plan with the node running; return the figures and the node's statistics."""
    left = containers.remove_leftovers()
    if left:
        console.print(f'Removed what a killed run had left: {", ".join(left)}')
    console.print(f'{plan.runs} runs of ddsperf, about {plan.duration:.0f} s; '
                  f'starting the node, with rules for TCP ports {profiles.BYPASS_PORTS[0]} to '
                  f'{profiles.BYPASS_PORTS[-1]}')
    reporter = session.Reporter(console, plan.runs)
    with Bypass(profiles.BYPASS_PORTS) as bypass:
        with reporter.shown():
            measured = dds.measure(
                plan, begin=lambda cell, repeat: reporter.step(dds.describe(cell)))
        return measured, bypass.statistics()


def _show(console: Console, title: str, plan: dds.Plan, figures: Sequence[rows.Row],
          statistics: dict) -> None:
    """Print the table and what the node's topic says."""
    console.print()
    console.print(report.table(title, figures, dds.PATHS, dds.TARGETS))
    console.print(
        f'Medians of {plan.repeats} runs each, of {plan.seconds} s measured, one path after the '
        'other in turn; a round trip is there and back (ddsperf prints half of it). Kernel '
        f'{platform.release()}, {_cpus()}.')
    console.print()
    for line in statistics_lines(statistics):
        console.print(line)


def _write_chart(chart: Path, title: str, figures: Sequence[rows.Row]) -> None:
    """Draw the chart; the import, of a second or so, comes when the measuring is over."""
    from ipc_bypass.bench.chart import write_chart
    write_chart(chart, title, figures, dds.PATHS, ('p50_us', 'samples_per_s'))


def _cpus() -> str:
    """Return how many CPUs may be used, in words."""
    number = len(os.sched_getaffinity(0))
    return '1 CPU' if number == 1 else f'{number} CPUs'
