"""
Measure what capture into the pool gains and costs, on the loopback interface.

`udp` is a datagram to a socket, without our program; `mirror` is one that is copied to the pool
and delivered as well, `divert` one that goes to the pool alone. Senders and readers are of one
language on both sides, and the paths take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
import os
from pathlib import Path
import platform
import sys
import time

from ipc_bypass.bench import containers, rows, session, udp_exchange, udp_graph, udp_plan
from ipc_bypass.bench.report import figure, metric_text, size_text
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.bench.udp_capture import Capture, DIVERT, MIRROR, PATHS, UDP
from ipc_bypass.bench.udp_peers import LANGUAGES, peers
from rich.box import SIMPLE_HEAD
from rich.table import Table

SUMMARY = 'UDP: capture into the pool against the socket'
#: workload -> what its figure is, for the table.
_TITLES = {
    udp_plan.ONE_WAY: 'one way, spinning', udp_plan.SEND: 'sendto()',
    udp_plan.WAKE: 'one way, sleeping', udp_plan.THROUGHPUT: 'ddsperf, sleeping',
    udp_plan.DRAIN: 'numpy, full pool', udp_plan.EXACT: '2 senders, checked',
    udp_plan.IDLE: 'idle node'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    session.add_common_arguments(parser)
    parser.add_argument('--language', choices=LANGUAGES, default=LANGUAGES[0],
                        help='of senders and readers (default %(default)s)')
    parser.add_argument('--only', choices=udp_plan.WORKLOADS, nargs='+', default=(),
                        metavar='WORKLOAD',
                        help=f"some of {', '.join(udp_plan.WORKLOADS)} (default: all)")
    parser.add_argument('--datagrams', type=_datagrams, metavar='N',
                        help=f'datagrams of exact (default {udp_plan.DATAGRAMS}, quick '
                             f'{udp_plan.QUICK_DATAGRAMS})')
    parser.add_argument('--chart', type=Path, metavar='FILE',
                        default=Path('results/bench_udp.png'),
                        help='write the chart to FILE, a PNG (default %(default)s)')


def run(args: argparse.Namespace) -> int:
    """
    Run the bench and return the exit status.

    0 where every figure was measured, else 1; whether targets were met does not count.
    """
    plan = udp_plan.plan(quick=args.quick, repeats=args.repeat, datagrams=args.datagrams,
                         workloads=args.only, language=args.language)
    if any(cell.workload == udp_plan.THROUGHPUT for cell in plan.cells):
        session.need('ddsperf', program=True, package='cyclonedds-tools')
    session.need('matplotlib', package='python3-matplotlib')
    console = session.console()
    started = time.monotonic()
    with unwinding():
        try:
            measured = _measure(console, plan, args.language)
        finally:
            containers.remove_own()
    figures = rows.rows_of(measured.runs)
    if figures:
        console.print()
        console.print(table(figures))
        console.print(
            f'Medians of {plan.repeats} runs each, one path after the other in turn. Kernel '
            f'{platform.release()}, {len(os.sched_getaffinity(0))} CPUs.')
        if _write_chart(args.chart, figures):
            console.print(f'Chart: {args.chart}')
    if args.json is not None:
        rows.write_json(args.json, figures)
        console.print(f'Figures: {args.json}')
    for failure in measured.failures:
        print(f'failed: {failure}', file=sys.stderr)
    console.print(f'Took {time.monotonic() - started:.0f} s')
    return 0 if all(measured.runs.values()) else 1


def table(figures: Sequence[rows.Row]) -> Table:
    """Return one table of all rows: a column a path, its ratio to udp, and the targets."""
    result = Table(title='UDP: the socket, and the pool', title_justify='left',
                   caption_justify='left', box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                   caption=(
                       '/udp: the figure over that of udp in the same run; spinning, sleeping: '
                       'what the reader does'))
    result.add_column('', no_wrap=True)
    for path in PATHS:
        result.add_column(path, justify='right', no_wrap=True)
    for path in (MIRROR, DIVERT):
        result.add_column(f'{path}/udp', justify='right', no_wrap=True)
    result.add_column('target: reached', no_wrap=True)
    reached, group = udp_plan.outcomes(figures), None
    for workload, size, metric in dict.fromkeys(
            (row.workload, row.size, row.metric) for row in figures):
        if workload != group:
            group = workload
            result.add_section()
            result.add_row(f'[bold]{_TITLES[workload]}')
        values = {path: rows.value_of(figures, path, udp_plan.LOOPBACK, workload, size, metric)
                  for path in PATHS}
        result.add_row(
            f"{size_text(size) if size else ''} {metric_text(metric)}".strip(),
            *(_figure(value) for value in values.values()),
            *(_ratio(values[path], values[UDP]) for path in (MIRROR, DIVERT)),
            '\n'.join(_outcome_text(outcome) for outcome in reached if (
                outcome.target.workload, outcome.target.size, outcome.target.metric) ==
                (workload, size, metric)))
    return result


def _measure(console, plan: udp_plan.Plan, language: str) -> udp_plan.Measured:
    """Measure a plan in a network namespace of its own."""
    left = containers.remove_leftovers()
    if left:
        console.print(f'Removed what a killed run had left: {", ".join(left)}')
    reporter = session.Reporter(console, len(plan.steps))
    with ExitStack() as stack:
        place = stack.enter_context(containers.Namespace('host'))
        pair = stack.enter_context(peers(place, language))
        capture = stack.enter_context(Capture())
        stack.enter_context(reporter.shown())

        def run_cell(cell: rows.Cell, what: udp_plan.Plan) -> list[dict[str, float]]:
            if cell.workload == udp_plan.THROUGHPUT:
                return udp_graph.throughput(capture, pair, place, cell, seconds=what.seconds,
                                            drop=what.drop)
            if cell.workload == udp_plan.IDLE:
                return [udp_graph.idle(what.idle_seconds)]
            return [_EXCHANGES[cell.workload](capture, pair, cell, _count(cell, what))]

        return udp_plan.measure(plan, run_cell,
                                begin=lambda cell: reporter.step(udp_plan.describe(cell)))


_EXCHANGES = {udp_plan.ONE_WAY: udp_exchange.one_way, udp_plan.SEND: udp_exchange.send,
              udp_plan.WAKE: udp_exchange.wake, udp_plan.DRAIN: udp_exchange.drain,
              udp_plan.EXACT: udp_exchange.exact}


def _count(cell: rows.Cell, what: udp_plan.Plan) -> int:
    """Return how many datagrams a run of a cell sends."""
    if cell.workload == udp_plan.EXACT:
        return what.datagrams
    if cell.workload == udp_plan.DRAIN:
        return udp_exchange.DRAIN_COUNT
    # Their pause is longer.
    seldom = cell.workload == udp_plan.WAKE or cell.size > udp_exchange.LARGE
    return max(1, what.count // 5 if seldom else what.count)


def _write_chart(chart: Path, figures: Sequence[rows.Row]) -> bool:
    """Draw what has a figure for udp, if anything has; return whether there is a chart."""
    compared = [row for row in figures if rows.value_of(
        figures, UDP, row.scenario, row.workload, row.size, row.metric)]
    if compared:
        # The import, of a second or so, comes when the measuring is over.
        from ipc_bypass.bench.chart import write_chart
        write_chart(chart, 'UDP: the socket, and the pool', compared, PATHS,
                    ('p50_us', 'samples_per_s'))
    return bool(compared)


def _outcome_text(outcome: udp_plan.Outcome) -> str:
    """Return a target and what was reached, in rich's mark-up: 'divert ≤ 0.55: 0.5 met'."""
    target = outcome.target
    low = target.at_most is None
    bound = target.at_least if low else target.at_most
    # A value that stands alone is in the same line already.
    reached = f'{outcome.reached:.2f} ' if target.baseline else ''
    word = '[green]met' if outcome.met else '[red]not met'
    return f'{target.path} {"≥" if low else "≤"} {bound:,.10g}: {reached}{word}[/]'


def _figure(value: float | None) -> str:
    """Return a value as `report.figure` does, a whole number without decimals."""
    return f'{value:,.0f}' if value is not None and value == int(value) else figure(value)


def _ratio(value: float | None, baseline: float | None) -> str:
    return '-' if value is None or not baseline else f'{value / baseline:.2f}'


def _datagrams(text: str) -> int:
    """Return a number of datagrams; raises ArgumentTypeError."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 2 <= number <= 10 ** 9 or number % 2:
        raise argparse.ArgumentTypeError(f'{text!r} is not an even number from 2 to 1000000000')
    return number
