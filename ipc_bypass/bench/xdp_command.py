"""
Measure what the XDP helper costs and gains: root array, filter, AF_XDP, container fast path.

Every part makes its own network namespaces or runs programs by PROG_TEST_RUN, and measures its
paths in turns; nothing is attached to an interface of this host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import importlib
import os
import platform
import sys
import time

from ipc_bypass.bench import containers, rows, session
from ipc_bypass.bench.report import figure, metric_text, size_text
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.kernel.errors import BypassError
from rich.box import SIMPLE_HEAD
from rich.table import Table

SUMMARY = 'XDP: root array, filter, AF_XDP and container fast path'
ROOT, FILTER, AF_XDP, CONTAINERS = PARTS = ('root', 'filter', 'afxdp', 'containers')
_MODULES = {ROOT: 'xdp_root', FILTER: 'xdp_filter', AF_XDP: 'xdp_af_xdp',
            CONTAINERS: 'xdp_containers'}


@dataclass(frozen=True)
class Reached:
    """A target, and in words what `path` reached of it."""

    scenario: str
    workload: str
    size: int
    metric: str
    path: str
    text: str
    met: bool


@dataclass
class Figures:
    """What came of the parts that were measured."""

    rows: list[rows.Row] = field(default_factory=list)
    reached: list[Reached] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    session.add_common_arguments(parser)
    parser.add_argument('--only', choices=PARTS, nargs='+', default=PARTS, metavar='PART',
                        help=f"some of {', '.join(PARTS)} (default: all)")


def run(args: argparse.Namespace) -> int:
    """
    Run the bench and return the exit status.

    0 where every part gave figures and nothing failed, else 1; whether targets were met does not
    count.
    """
    console = session.console()
    started = time.monotonic()
    left = containers.remove_leftovers()
    if left:
        console.print(f'Removed what a killed run had left: {", ".join(left)}')

    def begin(cell: rows.Cell) -> None:
        console.print(f'  {time.monotonic() - started:4.0f} s  {cell.scenario}, '
                      f'{cell.workload}: {cell.path}')

    figures = Figures()
    with unwinding():
        try:
            for part in dict.fromkeys(args.only):
                _measure(part, figures, args.quick, args.repeat, begin)
        finally:
            containers.remove_own()
    if figures.rows:
        console.print()
        console.print(table(figures))
        for note in figures.notes:
            console.print(note)
        console.print(f'Medians, one path after the other in turn. Kernel {platform.release()}, '
                      f'{len(os.sched_getaffinity(0))} CPUs.')
    if args.json is not None:
        rows.write_json(args.json, figures.rows)
        console.print(f'Figures: {args.json}')
    for failure in figures.failures:
        print(f'failed: {failure}', file=sys.stderr)
    console.print(f'Took {time.monotonic() - started:.0f} s')
    return 0 if figures.rows and not figures.failures else 1


def table(figures: Figures) -> Table:
    """Return one table: a line a figure, with the target that it is held to."""
    result = Table(title='XDP', title_justify='left', box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
                   pad_edge=False)
    result.add_column('')
    result.add_column('path', no_wrap=True)
    result.add_column('figure', justify='right', no_wrap=True)
    result.add_column('target: reached')
    group = None
    for row in figures.rows:
        if (row.scenario, row.workload) != group:
            group = row.scenario, row.workload
            result.add_section()
            result.add_row(f'[bold]{row.scenario}, {row.workload}')
        result.add_row(
            f'{size_text(row.size)} {metric_text(row.metric)}', row.path, figure(row.value),
            '\n'.join(f"{one.text} [{'green]met' if one.met else 'red]not met'}[/]"
                      for one in figures.reached
                      if (one.scenario, one.workload, one.size, one.metric, one.path) == (
                          row.scenario, row.workload, row.size, row.metric, row.path)))
    return result


def _measure(part: str, figures: Figures, quick: bool, repeats: int | None,
             begin: Callable[[rows.Cell], None]) -> None:
    """Measure one part; where it cannot be, that is a failure, and the others go on."""
    try:
        # A part that is not measured needs nothing of what it takes.
        module = importlib.import_module(f'ipc_bypass.bench.{_MODULES[part]}')
        measured, reached = _RUNS[part](module, quick, repeats, begin)
    except BypassError as error:
        figures.failures.append(f'{part}: {error}')
        return
    figures.rows += _rows(measured)
    figures.reached += reached
    figures.failures += measured.failures
    if part == ROOT:
        ratio = module.ratio_without_loop(_rows(measured))
        if ratio is not None:
            figures.notes.append(
                f"Root array: {ratio:.2f} of one program without the kernel's loop; "
                f'{module.cost_of_a_slot(measured):.0f} ns for each slot.')


def _rows(measured: Measured) -> list[rows.Row]:
    return rows.rows_of({cell: runs for cell, runs in measured.runs.items() if runs})


def _root(module, quick, repeats, begin):
    seen = set()

    def once(cell: rows.Cell) -> None:
        # Its runs take a tenth of a second each.
        if cell not in seen:
            seen.add(cell)
            begin(cell)

    measured = module.measure(repeats=5 * (repeats or (1 if quick else 3)),
                              packets=200_000 if quick else 1_000_000, begin=once)
    return measured, _outcomes(module.reached(_rows(measured)), module.ARRAY)


def _filter(module, quick, repeats, begin):
    options = {'packets': 200_000, 'flood': 30_000} if quick else {}
    measured = module.measure(repeats=repeats or (1 if quick else 5), begin=begin, **options)
    return measured, _outcomes(module.reached(_rows(measured)), module.OURS)


def _af_xdp(module, quick, repeats, begin):
    options = {'seconds': 1, 'sustained_seconds': 3, 'round_trips': 1000} if quick else {}
    measured = module.measure(repeats=repeats or (1 if quick else 3), begin=begin, **options)
    reached = _outcomes(module.reached(measured), module.PYTHON)
    lost = module.lost(measured)
    if lost is not None:
        reached.append(Reached(module.SCENARIO, module.SUSTAINED, module.SIZE, 'lost',
                               module.PYTHON, f'0: {lost:,.0f}', lost == 0))
    return measured, reached


def _containers(module, quick, repeats, begin):
    options = {'count': 4000, 'flood': 100_000, 'seconds': 1} if quick else {}
    measured = module.measure(repeats=repeats or (1 if quick else 3), begin=begin, **options)
    return measured, [one for path, found in module.reached(measured).items()
                      for one in _outcomes(found, path)]


_RUNS = {ROOT: _root, FILTER: _filter, AF_XDP: _af_xdp, CONTAINERS: _containers}


def _outcomes(found: Sequence[rows.Outcome], path: str) -> list[Reached]:
    """Return outcomes against another path, in words: '≤ 1.3 of one program: 1.2'."""
    return [Reached(
        *one.target.where, path,
        (f'≤ {one.target.at_most:g} of' if one.target.at_least is None
         else f'≥ {one.target.at_least:g} over') + f' {one.target.baseline}: {one.ratio:.2f}',
        one.met) for one in found]
