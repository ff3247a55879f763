"""The part of `ipc-bypass doctor` that shows the graph: tables that fit in 80 columns."""

from __future__ import annotations

import argparse
import sys

from ipc_bypass.graph.model import Graph, INTRA_PROCESS, OK, Pair
from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.graph.survey import by_way, Request, survey

_WIDTH_OF_A_FILE = 120
_MOST_ROWS = 40
# So that the limits that are asked for are ones that a kernel takes.
_LARGEST_MESSAGE = 1 << 28
_STYLES = {
    'redirected': 'green', 'shared_memory': 'green', 'intra_process': 'green', 'tcp': 'yellow',
    'udp': 'yellow', 'other_host': 'cyan', 'incompatible': 'red', 'unknown': 'magenta',
    'warning': 'red', 'note': 'yellow', 'ok': 'green'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the graph's part."""
    part = parser.add_mutually_exclusive_group()
    part.add_argument('--no-graph', action='store_true',
                      help='look at the kernel only, not at the DDS processes')
    part.add_argument('--graph-only', action='store_true',
                      help='look at the DDS processes only; returns 0 where nothing warns')
    parser.add_argument('--domain', type=_domain, metavar='N',
                        help='this DDS domain only (default: every one in use on this host)')
    parser.add_argument('--losses', type=_seconds, default=0.0, metavar='SECONDS',
                        help='count losses over this time (default: since boot)')
    parser.add_argument('--message-size', type=_positive, default=None, metavar='BYTES',
                        help='size of the largest message, for the limits, at most 268435456 '
                        '(default 1048576)')
    parser.add_argument('--all', action='store_true', dest='show_all',
                        help='show what needs no step too: services, /rosout, limits that hold')


def look(args: argparse.Namespace) -> Graph:
    """Return the graph that the arguments ask for."""
    wanted = {'domain': args.domain, 'loss_seconds': args.losses}
    if args.message_size:
        wanted['message_bytes'] = args.message_size
    return survey(Request(**wanted))


def warns(graph: Graph) -> bool:
    """Return whether something in the graph needs a step of the user's."""
    return any(pair.way == 'incompatible' for pair in graph.pairs) or any(
        finding.level == 'warning' for finding in (*graph.profiles, *graph.limits)) or (
        bool(graph.loss_seconds) and any(loss.count and loss.loses_data for loss in graph.losses))


def print_graph(graph: Graph, *, show_all: bool = False) -> None:
    """Print tables, as wide as the terminal; plain lines where rich is not installed."""
    steps: dict[str, int] = {}
    for title, columns, rows in tables(graph, steps, show_all=show_all):
        _print_table(title, columns, rows)
    # Each on a line of its own, so that it can be copied: the cell of a table breaks it.
    for step, number in list(steps.items())[:_MOST_ROWS]:
        print(printable(f'[{number}] {step}'))
    if steps:
        print()
    for line in closing_lines(graph, show_all=show_all):
        print(printable(line))


def tables(graph: Graph, steps: dict[str, int], *, show_all: bool = False):
    """
    Yield (title, column names, rows of text) of each table that has rows.

    :param steps: filled with the next steps, which rows name by these numbers
    """
    yield from _filled('DDS processes', ('process', 'speaks', 'domain', 'open', 'where'),
                       [_process_row(process, graph) for process in graph.processes])
    yield from _filled('pairs', ('topic', 'from -> to', 'way', 'why [next step]'),
                       pair_rows(graph.pairs, steps, show_all=show_all))
    findings = [*graph.profiles, *graph.limits]
    if not show_all:
        findings = [finding for finding in findings if finding.level != OK]
    yield from _filled('configuration and limits', ('', 'what', 'reason [next step]'), [
        (finding.level, ' '.join(filter(None, [finding.what, _short(finding.where)])),
         _with_step(finding.reason, finding.next_step, steps)) for finding in findings])
    period = f'in {graph.loss_seconds:g} s' if graph.loss_seconds else 'since boot'
    yield from _filled(f'losses {period}', ('count', 'counter', 'where', 'topics'), [
        (str(loss.count), loss.counter, _place(loss), ' '.join(loss.topics[:4]))
        for loss in sorted(graph.losses, key=lambda loss: -loss.count)
        if loss.count or (show_all and loss.kind != 'socket_drops')])


def pair_rows(pairs: list[Pair], steps: dict[str, int], *,
              show_all: bool = False) -> list[tuple[str, ...]]:
    """Return the rows of pairs; those of the same ends, way and reason are one row."""
    grouped: dict[tuple, list[str]] = {}
    for pair in pairs:
        if show_all or not (pair.infrastructure or pair.way == INTRA_PROCESS):
            key = (_end(pair.publisher), _end(pair.subscriber), pair.way, pair.reason,
                   pair.next_step)
            grouped.setdefault(key, []).append(pair.topic or '(topic not known)')
    return [(_some(topics), f'{one} -> {other}', way, _with_step(reason, step, steps))
            for (one, other, way, reason, step), topics in grouped.items()]


def closing_lines(graph: Graph, *, show_all: bool = False) -> list[str]:
    """Return what stands below the tables."""
    lines = []
    if not graph.processes:
        lines.append('graph: no DDS or zenoh process was seen on this host')
    else:
        ways = ', '.join(f'{count} {way}' for way, count in by_way(graph.pairs).items())
        lines.append(f'graph: {len(graph.processes)} processes, {len(graph.participants)} '
                     f'participants, {len(graph.pairs)} pairs' + (f': {ways}' if ways else ''))
    hidden = sum(pair.infrastructure or pair.way == INTRA_PROCESS for pair in graph.pairs)
    if hidden and not show_all:
        lines.append(f'{hidden} pairs of services, /rosout and the like, or within one process, '
                     'are not shown: --all')
    lines += [f'cannot see: {line}' for line in graph.cannot_see]
    return lines


def _process_row(process, graph):
    version = next((found.version for found in graph.participants
                    if found.pid == process.pid and found.version), process.version)
    transports = sorted({f'{sock.transport.upper()} {sock.local_port}' for sock in process.sockets
                         if sock.state == 'listen'})
    if any(sock.transport == 'udp' for sock in process.sockets):
        transports.append('UDP')
    if process.segments:
        transports.append('SHM')
    where = f'container {process.container}' if process.container else \
        f"net {process.namespaces.get('net', '?')}"
    return (f'{process.comm} ({process.pid}) {process.user}', f'{process.kind} {version}'.strip(),
            ' '.join(map(str, process.domains)), ' '.join(transports), where)


def _end(end):
    name = end.node or end.comm or '?'
    return f'{name} ({end.pid})' if end.pid else name


def _some(topics):
    names = list(dict.fromkeys(topics))
    return ' '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _place(loss):
    if loss.pid:
        return f'{loss.comm} ({loss.pid}) port {loss.port}'
    return _short(loss.where)


def _short(where):
    return where.replace('network namespace', 'net')


def _with_step(reason, step, steps):
    """Return a reason with the number of its next step, which is noted among the steps."""
    return f'{reason} [{steps.setdefault(step, len(steps) + 1)}]' if step else reason


def _filled(title, columns, rows):
    if rows:
        yield title, columns, rows


def _print_table(title, columns, rows):
    left_out = len(rows) - _MOST_ROWS
    # Names of topics, nodes and processes are others' text.
    rows = [[printable(cell) for cell in row] for row in rows[:_MOST_ROWS]]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(title)
        for row in rows:
            print('  '.join(cell for cell in row if cell))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
        table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow='fold')
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, '')) for cell in row))
        console.print(table)
    if left_out > 0:
        print(f'and {left_out} more: --json shows all')


def _domain(text):
    number = int(text)
    if not 0 <= number <= 232:
        raise ValueError
    return number


def _seconds(text):
    number = float(text)
    if not 0 <= number <= 86400:
        raise ValueError
    return number


def _positive(text):
    number = int(text)
    if not 1 <= number <= _LARGEST_MESSAGE:
        raise ValueError
    return number


_domain.__name__, _seconds.__name__, _positive.__name__ = 'domain', 'seconds', 'size'
