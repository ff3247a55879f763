"""What every bench yields: rows of one form, medians, targets and the JSON file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Cell:
    """
    One thing that is measured, by one kind of run.

    :param scenario: where, for example 'containers'
    :param peer: what makes the traffic, for example 'cyclonedds'
    :param path: the way it takes, for example 'tcp+bypass'
    :param workload: what is done, for example 'roundtrip'
    :param size: payload in bytes
    """

    scenario: str
    peer: str
    path: str
    workload: str
    size: int


@dataclass(frozen=True)
class Row:
    """One figure; the metric's name ends with its unit."""

    scenario: str
    peer: str
    path: str
    workload: str
    size: int
    metric: str
    value: float


@dataclass(frozen=True)
class Target:
    """
    What a path is to reach against another one, in the same run.

    :param baseline: the path to compare with
    :param at_most: bound of value over the baseline's value, or None
    :param at_least: bound of the gain (shorter by, or more by, this factor), or None
    """

    scenario: str
    workload: str
    size: int
    metric: str
    baseline: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def where(self) -> tuple[str, str, int, str]:
        """Return (scenario, workload, size, metric)."""
        return self.scenario, self.workload, self.size, self.metric


@dataclass(frozen=True)
class Outcome:
    """A target and what was reached: `ratio` is in the target's own terms."""

    target: Target
    ratio: float
    met: bool


def rows_of(runs: dict[Cell, list[list[dict[str, float]]]]) -> list[Row]:
    """
    Return the rows of a bench: the median over runs of the median over a run's seconds.

    :param runs: cell -> runs -> seconds -> metric -> value; a cell without runs gives no row
    """
    rows = []
    for cell, of_cell in runs.items():
        metrics = dict.fromkeys(name for run in of_cell for second in run for name in second)
        for metric in metrics:
            value = median(median(second[metric] for second in run) for run in of_cell)
            rows.append(Row(**asdict(cell), metric=metric, value=round(value, 3)))
    return rows


def value_of(rows: Iterable[Row], path: str, scenario: str, workload: str, size: int,
             metric: str) -> float | None:
    """Return the value of the one such row, or None."""
    for row in rows:
        if (row.scenario, row.path, row.workload, row.size, row.metric) == (
                scenario, path, workload, size, metric):
            return row.value
    return None


def less_is_better(metric: str) -> bool:
    """Return whether a metric is a time or a cost."""
    return metric.endswith('_us') or metric.startswith(('cpu_', 'switches_'))


def gain(metric: str, value: float, baseline: float) -> float:
    """Return how many times better `value` is: less of a time or a cost, more of all else."""
    better, worse = (baseline, value) if less_is_better(metric) else (value, baseline)
    return better / worse if worse else float('inf')


def outcomes(rows: Sequence[Row], targets: Iterable[Target], path: str) -> list[Outcome]:
    """Return what `path` reached of each target whose figures were both measured."""
    found = []
    for target in targets:
        value = value_of(rows, path, *target.where)
        baseline = value_of(rows, target.baseline, *target.where)
        if value is None or not baseline:
            continue
        if target.at_most is not None:
            ratio = value / baseline
            found.append(Outcome(target, ratio, ratio <= target.at_most))
        else:
            ratio = gain(target.metric, value, baseline)
            found.append(Outcome(target, ratio, ratio >= target.at_least))
    return found


def write_json(path: Path, rows: Iterable[Row]) -> None:
    """Write {"rows": [...]} to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        unfinished.write_text(json.dumps({'rows': [asdict(row) for row in rows]}, indent=1) + '\n')
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
