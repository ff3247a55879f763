"""The chart of a bench: how many times better each path is than the first one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipc_bypass.bench.report import figure, metric_text, size_text
from ipc_bypass.bench.rows import gain, Row, value_of
import matplotlib
from matplotlib import pyplot

_COLOURS = ('#8c8c8c', '#4c78a8', '#e45756', '#54a24b', '#b279a2', '#eeca3b')
#: More bars than these in a group have no room for figures that lie.
_FEW = 4


def write_chart(path: Path, title: str, rows: Sequence[Row], paths: Sequence[str],
                metrics: Sequence[str]) -> None:
    """
    Write a PNG with one panel a scenario: bars of the gain, labelled with the figures.

    :param paths: the first one is the measure, 1
    :param metrics: those to draw; a group of bars for each workload, size and metric
    """
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    # No window system is there to draw on.
    matplotlib.use('Agg')
    drawing, panels = pyplot.subplots(len(scenarios), 1, squeeze=False, layout='constrained',
                                      figsize=(11, 4.2 * len(scenarios)))
    try:
        for panel, scenario in zip(panels[:, 0], scenarios, strict=True):
            _draw(panel, scenario, [row for row in rows if row.scenario == scenario
                                    and row.metric in metrics], paths)
        drawing.suptitle(title)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=110, format='png')
    finally:
        pyplot.close(drawing)


def _draw(panel, scenario: str, rows: Sequence[Row], paths: Sequence[str]) -> None:
    """Draw one panel, of the groups for which the first path was measured too."""
    groups = list(dict.fromkeys((row.workload, row.size, row.metric) for row in rows
                                if row.path == paths[0]))
    width = 0.85 / len(paths)
    for number, path in enumerate(paths):
        places, heights, labels = [], [], []
        for place, (workload, size, metric) in enumerate(groups):
            value, baseline = (value_of(rows, which, scenario, workload, size, metric)
                               for which in (path, paths[0]))
            if value and baseline:
                places.append(place + (number - (len(paths) - 1) / 2) * width)
                heights.append(gain(metric, value, baseline))
                labels.append(figure(value))
        # What has no bars here has no line in the legend.
        bars = panel.bar(places, heights, width, label=path if places else '_',
                         color=_COLOURS[number % len(_COLOURS)])
        panel.bar_label(bars, labels, fontsize=7, padding=2,
                        rotation=90 if len(paths) > _FEW else 0)
    panel.axhline(1, color='black', linewidth=0.8)
    panel.set_title(scenario)
    panel.set_ylabel(f'times better than {paths[0]}')
    panel.set_xticks(range(len(groups)), [
        f'{workload}\n{size_text(size)}\n{metric_text(metric)}'
        for workload, size, metric in groups], fontsize=8)
    panel.grid(axis='y', alpha=0.3)
    panel.set_axisbelow(True)
    panel.margins(y=0.2 if len(paths) > _FEW else 0.1)
    if groups:
        panel.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
