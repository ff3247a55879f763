"""Rows, medians, targets, the JSON file, the table and the chart."""

from dataclasses import replace
from io import StringIO
import json

from ipc_bypass.bench import dds, report
from ipc_bypass.bench.chart import write_chart
from ipc_bypass.bench.rows import Cell, gain, outcomes, Row, rows_of, Target, value_of, write_json
import pytest
from rich.console import Console

ROW = Row('containers', 'cyclonedds', 'udp', 'roundtrip', 1048576, 'p50_us', 4000.0)
ROWS = [ROW, replace(ROW, path='tcp', value=2000.0),
        replace(ROW, path='tcp+bypass', value=500.0),
        replace(ROW, workload='throughput', metric='samples_per_s', value=300.0),
        replace(ROW, workload='throughput', metric='samples_per_s', path='tcp+bypass',
                value=1500.0)]


def test_a_value_is_the_median_of_the_runs_medians():
    cell = Cell('loopback', 'cyclonedds', 'udp', 'throughput', 64)
    runs = [[{'samples_per_s': 1.0}, {'samples_per_s': 9.0}, {'samples_per_s': 2.0}],
            [{'samples_per_s': 100.0}], [{'samples_per_s': 3.0}]]
    assert rows_of({cell: runs, replace(cell, size=128): []}) == [
        Row('loopback', 'cyclonedds', 'udp', 'throughput', 64, 'samples_per_s', 3.0)]


def test_a_gain_is_above_one_where_it_is_better():
    assert gain('p50_us', 10.0, 40.0) == 4
    assert gain('samples_per_s', 40.0, 10.0) == 4


def test_targets_are_held_against_their_baseline():
    roundtrip = ('containers', 'roundtrip', 1048576, 'p50_us', 'udp')
    found = outcomes(ROWS, [
        Target(*roundtrip, at_least=5), Target(*roundtrip, at_most=0.1),
        Target('containers', 'throughput', 1048576, 'samples_per_s', 'udp', at_least=6),
        Target('loopback', 'roundtrip', 1048576, 'p50_us', 'udp', at_least=5)], 'tcp+bypass')
    assert [(outcome.ratio, outcome.met) for outcome in found] == [
        (8.0, True), (0.125, False), (5.0, False)]


def test_the_file_is_an_object_of_rows(tmp_path):
    path = tmp_path / 'new' / 'figures.json'
    write_json(path, ROWS)
    assert json.loads(path.read_text()) == {'rows': [
        {'scenario': row.scenario, 'peer': 'cyclonedds', 'path': row.path,
         'workload': row.workload, 'size': 1048576, 'metric': row.metric, 'value': row.value}
        for row in ROWS]}
    assert [entry.name for entry in path.parent.iterdir()] == ['figures.json']


@pytest.mark.parametrize('width', [80, 106])
def test_the_table_shows_figures_gains_and_targets(width):
    console = Console(width=width, record=True, file=StringIO())
    console.print(report.table('title', ROWS, dds.PATHS, dds.TARGETS))
    text = ' '.join(console.export_text().split())
    assert '1 MB p50 µs 4,000 2,000 500 8.00 4.00 ≥ 5 over' in text
    assert '8.00 met' in text
    assert '5.00 not' in text


def test_sizes_and_metrics_in_words():
    assert [report.size_text(size) for size in (64, 1000, 1024, 16384, 1 << 20)] == [
        '64 B', '1000 B', '1 KB', '16 KB', '1 MB']
    assert [report.metric_text(metric) for metric in ('p50_us', 'samples_per_s')] == [
        'p50 µs', 'samples/s']


def test_the_chart_is_a_png_also_where_figures_are_missing(tmp_path):
    path = tmp_path / 'new' / 'chart.png'
    write_chart(path, 'title', ROWS + [replace(ROWS[1], scenario='loopback')], dds.PATHS,
                ('p50_us', 'samples_per_s'))
    assert path.read_bytes().startswith(b'\x89PNG')


def test_a_value_that_was_not_measured_is_none():
    assert value_of(ROWS, 'tcp', 'loopback', 'roundtrip', 1048576, 'p50_us') is None
