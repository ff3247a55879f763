"""What a bench prints: one table with ratios and targets."""

from __future__ import annotations

from collections.abc import Sequence

from ipc_bypass.bench.rows import gain, Outcome, outcomes, Row, Target, value_of
from rich.box import SIMPLE_HEAD
from rich.table import Table

_UNITS = {'_us': 'µs', '_per_s': '/s', '_per_second': '/s', '_per_request': '/request',
          '_per_gigabyte': '/GB', '_per_megabyte': '/MB'}


def table(title: str, rows: Sequence[Row], paths: Sequence[str],
          targets: Sequence[Target] = ()) -> Table:
    """
    Return one table of all rows: a column a path, and what the last path gains over the others.

    :param paths: in the order of columns; the last one is compared with the ones before
    :param targets: shown beside what was reached
    """
    *baselines, ours = paths
    reached = outcomes(rows, targets, ours)
    result = Table(title=title, title_justify='left', caption_justify='left', box=SIMPLE_HEAD,
                   padding=(0, 1), pad_edge=False, caption=(
                       f'over: how many times {ours} is shorter (µs) or more (/s) than the other '
                       'path; above 1 is better'))
    result.add_column('')
    for path in paths:
        result.add_column(path, justify='right', no_wrap=True)
    for path in baselines:
        result.add_column(f'over {path}', justify='right', max_width=7)
    if targets:
        result.add_column('target: reached')
    group = None
    for where in _keys(rows):
        if where[:2] != group:
            group = where[:2]
            result.add_section()
            result.add_row(f'[bold]{" ".join(group)}')
        values = [value_of(rows, path, *where) for path in paths]
        cells = [f'{size_text(where[2])} {metric_text(where[3])}',
                 *(figure(value) for value in values),
                 *(_gain(where[3], values[-1], value) for value in values[:-1])]
        if targets:
            cells.append('\n'.join(
                outcome_text(outcome) for outcome in reached if outcome.target.where == where))
        result.add_row(*cells)
    return result


def outcome_text(outcome: Outcome) -> str:
    """Return a target and what was reached, in rich's mark-up: '≥ 5 over udp: 5.6 met'."""
    target = outcome.target
    bound = (f'≥ {target.at_least:g} over' if target.at_most is None
             else f'≤ {target.at_most:g} of')
    word = '[green]met' if outcome.met else '[red]not met'
    return f'{bound} {target.baseline}: {outcome.ratio:.2f} {word}[/]'


def size_text(size: int) -> str:
    """Return a size in bytes with a binary unit: '16 KB' for 16384."""
    for unit, factor in (('MB', 1 << 20), ('KB', 1 << 10)):
        if size >= factor and size % factor == 0:
            return f'{size // factor} {unit}'
    return f'{size} B'


def metric_text(metric: str) -> str:
    """Return a metric with its unit: 'p50 µs' for p50_us, 'samples/s' for samples_per_s."""
    for ending, unit in _UNITS.items():
        if metric.endswith(ending):
            return (f'{metric.removesuffix(ending)}{"" if unit[0] == "/" else " "}{unit}'
                    .replace('_', ' '))
    return metric


def _keys(rows: Sequence[Row]) -> list[tuple[str, str, int, str]]:
    """Return what the table's lines are about, in the order of the rows."""
    return list(dict.fromkeys(
        (row.scenario, row.workload, row.size, row.metric) for row in rows))


def figure(value: float | None) -> str:
    """Return a value with two digits at least, '-' for None."""
    if value is None:
        return '-'
    if 0 < value < 1:
        return f'{value:.2f}'
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'


def _gain(metric: str, value: float | None, baseline: float | None) -> str:
    """Return how many times better a value is."""
    if value is None or not baseline:
        return '-'
    return f'{gain(metric, value, baseline):.2f}'
