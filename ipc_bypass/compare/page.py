"""The page of a comparison: one HTML file that needs no other, with its chart in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
import os
from pathlib import Path
import platform

from ipc_bypass.bench.rows import Row
from ipc_bypass.compare.measure import Plan
from ipc_bypass.compare.recommend import Recommendation
from ipc_bypass.compare.table import best_of, filled
from ipc_bypass.kernel.errors import BypassError

_STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 1100px; margin: 2em auto }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: 0.25em 0.9em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.best { font-weight: bold; color: #17692f }
.do { background: #eef6ee; border-left: 4px solid #54a24b; padding: 0.6em 1em }
.small { color: #666; font-size: 13px }
img { max-width: 100% }
"""


@dataclass(frozen=True)
class Report:
    """
    What a comparison came to.

    :param rows: of all placements
    :param recommendations: one a placement
    :param failures: a line each
    :param notes: about the machine and the measuring, a line each
    """

    plan: Plan
    rows: tuple[Row, ...]
    recommendations: tuple[Recommendation, ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def machine() -> tuple[str, ...]:
    """Return the lines that say where the figures come from."""
    name = next((line.partition(':')[2].strip() for line in _lines('/proc/cpuinfo')
                 if line.startswith('model name')), platform.machine())
    cpus = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (f'{name}, {cpus} CPU{"s" if cpus != 1 else ""}, Linux {platform.release()}',
            f'load of the last minute {load:.1f}: what else runs is in the figures')


def write(path: Path, report: Report, chart: bytes) -> None:
    """
    Write the page, whole or not at all.

    :param chart: a PNG, b'' for none
    :raises BypassError: where it cannot be written
    """
    save(path, html(report, chart))


def save(path: Path, text: str) -> None:
    """Write a file, whole or not at all; raises BypassError where that cannot be."""
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where somebody put a file or a link of that name, it is left alone.
        with open(unfinished, 'x', encoding='utf-8') as stream:
            stream.write(text)
        unfinished.replace(path)
    except OSError as error:
        raise BypassError(f'write {path}', errno=error.errno or 0,
                          next_step='name a file in another folder') from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def html(report: Report, chart: bytes) -> str:
    """Return the page."""
    plan = report.plan
    parts = [f'<h1>{escape(plan.kind)}: which way is the shortest</h1>',
             f'<p>Messages: {escape("; ".join(map(str, plan.messages)))}.</p>']
    for each in report.recommendations:
        parts += [f'<h2>{escape(each.placement)}</h2>',
                  f'<p class="do">{escape(each.text)}</p>',
                  _table([row for row in report.rows if row.scenario == each.placement],
                         plan.ways[each.placement]), _list(each.refused)]
    if chart:
        image = base64.b64encode(chart).decode('ascii')
        parts.append(f'<h2>Chart</h2><img alt="how many times better each way is than the default"'
                     f' src="data:image/png;base64,{image}">')
    if report.failures:
        parts += ['<h2>What could not be measured</h2>', _list(report.failures)]
    parts += ['<h2>Machine</h2>', _list(report.notes)]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>ipc-bypass compare: {escape(plan.kind)}</title><style>{_STYLE}</style></head>'
            f'<body>\n{chr(10).join(parts)}\n</body></html>\n')


def _table(rows: Sequence[Row], ways: Sequence[str]) -> str:
    head = ''.join(f'<th>{escape(way)}</th>' for way in ways)
    lines = []
    for what, values, cells in filled(rows, ways):
        best = best_of(what, values)
        lines.append(f'<tr><td>{escape(what)}</td>' + ''.join(
            f'<td{" class=best" if way in best else ""}>{escape(text)}</td>'
            for way, text in zip(ways, cells, strict=True)) + '</tr>')
    return f'<table><tr><th></th>{head}</tr>\n{chr(10).join(lines)}\n</table>'


def _list(items: Sequence[str]) -> str:
    if not items:
        return ''
    return '<ul class="small">' + ''.join(f'<li>{escape(item)}</li>' for item in items) + '</ul>'


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
