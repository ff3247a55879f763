"""
Measure a TCP gateway: ours on each of its paths, other proxies, and no proxy at all.

Clients and backends are the same for all, and the paths take turns. `local` has both ends on the
host of the proxy, `remote` each in a network namespace of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import platform
import sys
import tempfile
import time

from ipc_bypass.bench import containers, proxy_lab, proxy_plan, proxy_rivals, rows, session
from ipc_bypass.bench.proxy_plan import BEST, BULK, DIRECT, LOCAL, OURS, PATHS, REMOTE
from ipc_bypass.bench.report import figure, metric_text, size_text
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.kernel.errors import BypassError
from rich.box import SIMPLE_HEAD
from rich.table import Table

SUMMARY = 'TCP gateway: its paths against other proxies and none'
#: Of the table.
_WIDTH = 122
#: What the table has ratios to.
_COMPARED = BEST, DIRECT
#: What the targets are about; the rest is in the table.
_CHARTED = ('p99_us', 'requests_per_second', 'gbit_per_second', 'cpu_seconds_per_gigabyte')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    session.add_common_arguments(parser)
    parser.add_argument('--scenario', choices=(*proxy_plan.SCENARIOS, 'all'), default='all',
                        help='where the ends are (default %(default)s)')
    parser.add_argument('--connections', type=_connections, metavar='N',
                        help='measure requests over N connections, too')
    parser.add_argument('--chart', type=Path, metavar='FILE',
                        default=Path('results/bench_proxy.png'),
                        help='write the chart to FILE, a PNG (default %(default)s)')


def run(args: argparse.Namespace) -> int:
    """
    Run the bench and return the exit status.

    0 where every figure was measured, else 1; whether targets were met, or another proxy is not
    installed, does not count.
    """
    session.need('matplotlib', package='python3-matplotlib')
    console = session.console(_WIDTH)
    started = time.monotonic()
    lacking = proxy_rivals.lacking()
    for path, reason in lacking.items():
        console.print(f'Without {path}: {reason} ({proxy_rivals.PACKAGES})')
    connections, most = args.connections, proxy_lab.most_connections()
    if connections and connections > most:
        console.print(f'{most:,} in place of {connections:,} connections: a proxy needs two '
                      'descriptors for each, and more (ulimit -Hn)')
        connections = most
    plan = proxy_plan.plan(
        quick=args.quick, repeats=args.repeat, connections=connections, without=tuple(lacking),
        scenarios=proxy_plan.SCENARIOS if args.scenario == 'all' else (args.scenario,))
    left = containers.remove_leftovers()
    if left:
        console.print(f'Removed what a killed run had left: {", ".join(left)}')
    with unwinding():
        try:
            measured = _measure(plan, session.Reporter(console, plan.steps))
        finally:
            containers.remove_own()
    figures = rows.rows_of(measured.runs)
    if figures:
        console.print()
        console.print(table(figures, measured.remote or proxy_plan.SK_SKB))
        for note in measured.notes.values():
            console.print(note)
        console.print(
            f'Medians of {plan.repeats} runs of {plan.seconds:g} s, one path after the other in '
            f'turn. Kernel {platform.release()}, {len(os.sched_getaffinity(0))} CPUs.')
        if _write_chart(args.chart, figures):
            console.print(f'Chart: {args.chart}')
    if args.json is not None:
        rows.write_json(args.json, figures)
        console.print(f'Figures: {args.json}')
    for failure in measured.failures:
        print(f'failed: {failure}', file=sys.stderr)
    console.print(f'Took {time.monotonic() - started:.0f} s')
    return 0 if all(measured.runs.values()) else 1


def table(figures: Sequence[rows.Row], remote: str) -> Table:
    """
    Return one table of all rows: a column a path, and the ratios of one of ours.

    :param remote: the path of ours whose ratios are shown where it has no short cut
    """
    result = Table(title='TCP gateway', title_justify='left', caption_justify='left',
                   box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=(
                       'N × 1 KB: on each of N connections a request of 1 KB and its answer, one '
                       'after the other; splice, sk_skb and ours (by the short cut) are this '
                       'package.\n'
                       f'/best, /direct: local ours, remote {_short(remote)}, over the best of '
                       'haproxy, nginx and splice, and over direct; /theirs: over the best of '
                       'haproxy and nginx'))
    result.add_column('', no_wrap=True)
    for path in PATHS:
        result.add_column(_short(path), justify='right', no_wrap=True)
    for against in _COMPARED:
        result.add_column(f'/{against}', justify='right', no_wrap=True)
    result.add_column('target: reached', no_wrap=True)
    reached, group = proxy_plan.outcomes(figures), None
    for *where, metric in dict.fromkeys(
            (row.scenario, row.workload, row.size, row.metric) for row in figures):
        scenario, workload, size = where
        path = OURS if scenario == LOCAL else remote
        if where != group:
            group = where
            result.add_section()
            result.add_row(f'[bold]{_title(*where)}')
        values = {each: rows.value_of(figures, each, *where, metric) for each in PATHS}
        result.add_row(
            metric_text(metric), *map(figure, values.values()),
            *(_ratio(values[path], proxy_plan.best(figures, against, *where, metric))
              for against in _COMPARED),
            '\n'.join(_outcome_text(one) for one in reached if (
                one.target.scenario, one.target.workload, one.target.metric) == (
                    scenario, workload, metric)))
    return result


def _measure(plan: proxy_plan.Plan, reporter: session.Reporter) -> proxy_plan.Measured:
    """Measure a plan; a run that fails is noted, and the rest goes on."""
    measured = proxy_plan.Measured({cell: [] for cell in plan.cells})
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_') as name, reporter.shown():
        folder = Path(name)
        proxy_lab.compile_peer(folder)
        for scenario in plan.scenarios:
            with proxy_lab.site(scenario, folder) as site:
                for path, cells in plan.turns(scenario):
                    with _noted(measured, f'{scenario}: {path}'), proxy_lab.way(
                            site, path, folder, max(plan.connections)) as way:
                        for cell in cells:
                            reporter.step(proxy_plan.describe(cell))
                            with _noted(measured, proxy_plan.describe(cell)):
                                measured.runs[cell].append([way.run(cell, plan.seconds)])
                        if isinstance(way, proxy_lab.GatewayWay):
                            _note(measured, path, way.status)
    return measured


@contextmanager
def _noted(measured: proxy_plan.Measured, what: str) -> Iterator[None]:
    try:
        yield
    except BypassError as error:
        measured.failures.append(f'{what}: {error}')


def _note(measured: proxy_plan.Measured, path: str, status: dict) -> None:
    """Keep what the gateway said of its kernel path."""
    if path != proxy_plan.SPLICE:
        measured.remote = f"ours {status['remote']}"
        measured.notes[REMOTE] = (f"Where an end is elsewhere, auto takes {status['remote']}: "
                                  f"{status['reasons'].get('sk_skb', '')}.")


def _write_chart(chart: Path, figures: Sequence[rows.Row]) -> bool:
    """Draw what has a figure without a proxy; return whether there is a chart."""
    compared = [row for row in figures if rows.value_of(
        figures, DIRECT, row.scenario, row.workload, row.size, row.metric)]
    if compared:
        # The import, of a second or so, comes when the measuring is over.
        from ipc_bypass.bench.chart import write_chart
        write_chart(chart, 'TCP gateway', compared, PATHS, _CHARTED)
    return bool(compared)


def _title(scenario: str, workload: str, size: int) -> str:
    """Return what a part of the table is about."""
    if workload == BULK:
        return f'{scenario}, bulk of {size_text(size)}'
    return f'{scenario}, {int(workload.rpartition("_")[2]):,} × {size_text(size)}'


def _short(path: str) -> str:
    return path.removeprefix('ours ')


def _outcome_text(outcome: proxy_plan.Outcome) -> str:
    """Return a target and what was reached, in rich's mark-up: 'ours ≥ 3 /best: 3.4 met'."""
    target = outcome.target
    low = target.at_most is None
    bound = target.at_least if low else target.at_most
    word = '[green]met' if outcome.met else '[red]not met'
    return (f'{_short(target.path)} {"≥" if low else "≤"} {bound:g} /{target.against}: '
            f'{outcome.ratio:.2f} {word}[/]')


def _ratio(value: float | None, rival: float | None) -> str:
    return '-' if value is None or not rival else f'{value / rival:.2f}'


def _connections(text: str) -> int:
    """Return a number of connections; raises ArgumentTypeError."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 50_000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 50000')
    return number
