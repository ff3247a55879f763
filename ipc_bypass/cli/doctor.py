"""`ipc-bypass doctor`: what this machine can do, by trying, and which way its DDS graph takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import os
import sys

from ipc_bypass.cli import doctor_graph
from ipc_bypass.kernel.probe import path_available, probe_all, ProbeResult

# Columns of a terminal that has room for every column of the table, and of a file.
_WIDTH_FOR_ALL, _WIDTH_OF_A_FILE = 130, 240

_WORDS = {True: 'works', False: 'fails', None: 'not tried'}
_STYLES = {True: 'green', False: 'red', None: 'yellow'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('--json', action='store_true',
                        help='print JSON: {"rows": [...], "ok": bool, "paths": {...}, '
                        '"graph": {...}}; --no-graph and --graph-only leave members out')
    doctor_graph.add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        'exit codes: 0 the TCP path sk_msg can work here, 1 it cannot. With --graph-only: 0\n'
        'nothing in the graph needs a step, 1 something warns.\n\n'
        'example: sudo -E ipc-bypass doctor --graph-only --losses 10')


def run(args: argparse.Namespace) -> int:
    """Print the results; return 0 when the TCP path sk_msg can work here, else 1."""
    answer, works = {}, True
    results, paths = [], {}
    if not args.graph_only:
        results = probe_all()
        paths = path_available(results)
        works = paths['tcp']['sk_msg']['available']
        answer = {'rows': [dataclasses.asdict(result) for result in results],
                  'ok': works, 'paths': paths}
        if not args.json:
            _print_table(results)
            for line in _verdicts(paths):
                print(line, flush=True)
    if not args.no_graph:
        graph = doctor_graph.look(args)
        answer['graph'] = dataclasses.asdict(graph)
        if not args.json:
            print()
            doctor_graph.print_graph(graph, show_all=args.show_all)
        if args.graph_only:
            works = not doctor_graph.warns(graph)
    if args.json:
        print(json.dumps(answer, indent=2))
    return 0 if works else 1


def _verdicts(paths: dict) -> list[str]:
    """Return one line for each path but the usual one."""
    return [f'{transport} by {path}: ' + ('can work here' if answer['available']
                                          else f'cannot work here: {answer["reason"]}')
            for transport, answers in paths.items() for path, answer in answers.items()
            if path != 'loopback']


def _remark(result: ProbeResult) -> str:
    """Return the reason and the next step of a row."""
    step = f' -> {result.next_step}' if result.next_step and not result.works else ''
    return result.reason + step


def _print_table(results: Sequence[ProbeResult]) -> None:
    title = f'kernel {os.uname().release}, {os.uname().machine}'
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        # This command must also run where packages are still missing.
        print(title)
        for result in results:
            print(f'{_WORDS[result.works]:9}  {result.name:36}  {_remark(result)}')
        return
    # Without a terminal there is no edge to wrap at, so that a row stays a line.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
    wide = console.width >= _WIDTH_FOR_ALL
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('', no_wrap=True)
    table.add_column('what', no_wrap=True)
    table.add_column('remark -> next step')
    if wide:
        table.add_column('needed for')
        table.add_column('since', no_wrap=True)
    for result in results:
        cells = [Text(_WORDS[result.works], style=_STYLES[result.works]), Text(result.name),
                 Text(_remark(result))]
        if wide:
            cells += [Text(result.needed_for), Text(result.minimum_kernel)]
        table.add_row(*cells)
    console.print(table)
