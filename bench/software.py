#!/usr/bin/env python3
"""
Lead the traffic of programs as they are over an enrolled port, and compare it with plain TCP.

For each program both ways run in turn, with the same data. The content that came through must be
the same, and the path's own counters must say that it was redirected. To be run as root, with
ROS 2 sourced (scripts/activate); a program that is not installed is unpacked by apt.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ('bench', 'test')]

from ipc_bypass.bench import rows, session  # noqa: E402
from ipc_bypass.bench.report import metric_text  # noqa: E402
from ipc_bypass.bench.signals import unwinding  # noqa: E402
from ipc_bypass.kernel.errors import BypassError  # noqa: E402
from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.table import Table  # noqa: E402
from software_cases import ALL  # noqa: E402
from software_cases.runs import Found, lead, OURS, PLAIN, steered  # noqa: E402
from support.ports import PortBlock  # noqa: E402


def main() -> int:
    """Run the cases and return the exit status: 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    session.add_common_arguments(parser)
    parser.add_argument('--only', nargs='+', metavar='NAME', help='programs, by parts of names')
    parser.add_argument('--markdown', type=Path, metavar='FILE',
                        help='write the table of docs/software.md to FILE')
    args = parser.parse_args()
    kinds = [kind for kind in ALL if not (args.quick and kind.long)]
    if args.only:
        kinds = [kind for kind in ALL if any(part.lower() in kind.name.lower()
                                             for part in args.only)]
    os.environ.setdefault('ROS_LOG_DIR', '/tmp')
    console, found = session.console(), []
    reporter = session.Reporter(console, len(kinds))
    plain, enrolled = PortBlock(), PortBlock()
    with unwinding(), reporter.shown(), \
            steered(range(enrolled.first, enrolled.last + 1)) as path:
        for number, kind in enumerate(kinds):
            reporter.step(kind.name)
            place = 2 * (number % 10)  # some take the next port, too
            try:
                found.append(lead(kind, path, plain.first + place, enrolled.first + place,
                                  repeats=args.repeat or (1 if args.quick else 3),
                                  quick=args.quick))
            except (BypassError, RuntimeError) as error:
                found.append(Found(kind, fault=str(error)))
    console.print(_table(found))
    if args.markdown:
        args.markdown.write_text('\n'.join(_markdown(found)) + '\n')
    if args.json:
        rows.write_json(args.json, [
            rows.Row('loopback', one.case.name, way, 'software', 0, metric, round(value, 3))
            for one in found for (metric, way), value in one.figures.items()])
    return 1 if any(one.fault for one in found) else 0


def _lines(found: list[Found]) -> list[list[str]]:
    """Return the table's cells: program, metric, plain, ours, gain, redirected."""
    lines = []
    for one in found:
        if one.fault:
            lines.append([one.case.name, one.fault, '', '', '', ''])
            continue
        share = f'{100 * one.share:.1f} % of {_size(one)}'
        if one.case.excluded:
            share = f'none: {one.case.excluded}'
        metrics = list(dict.fromkeys(metric for metric, _ in one.figures)) or ['']
        for metric in metrics:
            plain, ours = (one.figures.get((metric, way)) for way in (PLAIN, OURS))
            gain = f'{rows.gain(metric, ours, plain):.2f}' if plain and ours else ''
            lines.append([one.case.name, metric_text(metric) if metric else 'content',
                          f'{plain:,.1f}' if plain else 'same', f'{ours:,.1f}' if ours else 'same',
                          gain, share])
    return lines


def _size(one: Found) -> str:
    total = (one.counted['redirected_bytes'] + one.counted['passed_bytes']) / max(1, one.runs)
    return f'{total / 1e6:,.1f} MB a run'


_HEAD = ('program', 'metric', 'plain TCP', 'redirected', 'gain', 'bytes redirected')


def _table(found: list[Found]) -> Table:
    result = Table(box=SIMPLE_HEAD, title='Programs over an enrolled port', title_justify='left',
                   caption='gain: how many times shorter (µs) or more (/s) than plain TCP')
    for number, name in enumerate(_HEAD):
        result.add_column(name, justify='right' if 2 <= number <= 4 else 'left')
    for line in _lines(found):
        result.add_row(*line)
    return result


def _markdown(found: list[Found]) -> list[str]:
    lines = [_HEAD, ('---', '---', '---:', '---:', '---:', '---'), *_lines(found)]
    return [f'| {" | ".join(line)} |' for line in lines]


if __name__ == '__main__':
    sys.exit(main())
