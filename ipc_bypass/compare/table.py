"""The table of a comparison: a column for each way, the best figure of a line in bold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipc_bypass.bench.report import figure, metric_text, size_text
from ipc_bypass.bench.rows import gain, Row
from ipc_bypass.compare.ways import DEFAULT
from rich.box import SIMPLE_HEAD
from rich.table import Table

_LOST = 'lost'


def lines(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (what a line is about, {way: value}) for the rows of one placement."""
    keys = dict.fromkeys((row.size, row.workload, row.metric) for row in rows)
    for size, workload, metric in keys:
        yield (f'{size_text(size)} {workload}, {metric_text(metric)}',
               {row.path: row.value for row in rows
                if (row.size, row.workload, row.metric) == (size, workload, metric)})


def best_of(what: str, values: dict[str, float]) -> set[str]:
    """Return the ways that have the best value of a line, none where all are alike."""
    if len(set(values.values())) < 2:
        return set()
    less = not what.endswith('/s') or what.endswith(_LOST)
    best = (min if less else max)(values.values())
    return {way for way, value in values.items() if value == best}


def cell(metric: str, way: str, values: dict[str, float]) -> str:
    """Return a figure, and how many times better than the default it is: '390 (5.6×)'."""
    value = values.get(way)
    if value is None:
        return '-'
    if metric == _LOST:
        return f'{value:g}'
    before = values.get(DEFAULT)
    if way == DEFAULT or not before or not value:
        return figure(value)
    times = gain(metric, value, before)
    return f'{figure(value)} ({times:.2f}×)' if times < 10 else f'{figure(value)} ({times:.0f}×)'


def table(title: str, rows: Sequence[Row], ways: Sequence[str]) -> Table:
    """Return the table of one placement."""
    result = Table(title=title, title_justify='left', box=SIMPLE_HEAD, padding=(0, 1),
                   pad_edge=False)
    result.add_column('')
    for way in ways:
        result.add_column(way, justify='right', no_wrap=True)
    for what, values, cells in filled(rows, ways):
        best = best_of(what, values)
        result.add_row(what, *(f'[bold]{text}[/]' if way in best else text
                               for way, text in zip(ways, cells, strict=True)))
    return result


def filled(rows: Sequence[Row], ways: Sequence[str]) -> Iterator[
        tuple[str, dict[str, float], list[str]]]:
    """Yield (what a line is about, {way: value}, its cells in the order of the ways)."""
    metrics = {f'{size_text(row.size)} {row.workload}, {metric_text(row.metric)}': row.metric
               for row in rows}
    for what, values in lines(rows):
        yield what, values, [cell(metrics[what], way, values) for way in ways]
