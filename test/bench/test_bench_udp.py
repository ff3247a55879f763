"""The plan of the UDP bench, its options, and a very short real run to its report."""

import argparse
from io import StringIO
import json
import os

from ipc_bypass.bench import udp_command, udp_graph, udp_plan
from ipc_bypass.bench.bypass import NodeError
from ipc_bypass.bench.rows import Cell, Row
from ipc_bypass.cli import bench
import pytest
from rich.console import Console


def options(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(('udp', *words))


def row(path, workload, size, metric, value):
    return Row('loopback', 'c', path, workload, size, metric, value)


def text_of(rows):
    console = Console(width=106, record=True, file=StringIO())
    console.print(udp_command.table(rows))
    return ' '.join(console.export_text().split())


def test_the_paths_of_one_workload_are_measured_in_turn():
    cells = udp_plan.plan().cells
    groups = list(dict.fromkeys((cell.workload, cell.size) for cell in cells))
    in_order = [(cell.workload, cell.size, udp_command.PATHS.index(cell.path)) for cell in cells]
    assert in_order == sorted(in_order, key=lambda cell: (groups.index(cell[:2]), cell[2]))


def test_every_target_is_of_something_that_is_measured():
    cells = {(cell.path, cell.workload, cell.size) for cell in udp_plan.plan(quick=True).cells}
    for target in udp_plan.TARGETS:
        assert (target.path, target.workload, target.size) in cells
        if target.baseline:
            assert (target.baseline, target.workload, target.size) in cells


def test_what_takes_long_is_not_repeated():
    plan = udp_plan.plan(repeats=4)
    steps = [cell.workload for cell in plan.steps]
    assert (steps.count('exact'), steps.count('idle')) == (1, 1)
    assert steps.count('drain') == 4
    assert plan.cells[0] == plan.steps[0]


def test_options_become_a_plan():
    plan = udp_plan.plan(workloads=['exact', 'send'], datagrams=10_000_000)
    assert {cell.workload for cell in plan.cells} == {'exact', 'send'}
    assert (plan.datagrams, plan.repeats) == (10_000_000, 3)
    assert udp_plan.plan(quick=True).repeats == 1
    assert udp_plan.plan(quick=True).datagrams == 200_000
    assert 'exact' not in {cell.workload for cell in udp_plan.plan(language='python').cells}
    args = options('--quick', '--datagrams', '10000000', '--only', 'wake', 'drain')
    assert (args.datagrams, args.only, args.language) == (10_000_000, ['wake', 'drain'], 'c')


@pytest.mark.parametrize('words', [
    ('--datagrams', '0'), ('--datagrams', '3'), ('--datagrams', '1e6'), ('--datagrams', '-2'),
    ('--only', 'nothing'), ('--language', 'rust'), ('--repeat', '0')])
def test_options_that_are_none_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        options(*words)
    assert words[0] in capsys.readouterr().err


def test_targets_are_held_against_the_socket_or_stand_alone():
    rows = [row('udp', 'oneway', 64, 'p50_us', 4.0), row('mirror', 'oneway', 64, 'p50_us', 3.0),
            row('divert', 'oneway', 64, 'p50_us', 2.0),
            row('mirror', 'oneway', 256, 'p50_us', 3.0),
            row('mirror', 'drain', 64, 'descriptors_per_s', 2e6),
            row('divert', 'exact', 0, 'torn', 0), row('divert', 'exact', 0, 'unaccounted', 1)]
    assert [(found.target.path, found.target.metric, found.reached, found.met)
            for found in udp_plan.outcomes(rows)] == [
        ('mirror', 'p50_us', 0.75, False), ('divert', 'p50_us', 0.5, True),
        ('mirror', 'descriptors_per_s', 2e6, True), ('divert', 'unaccounted', 1, False),
        ('divert', 'torn', 0, True)]


def test_the_table_shows_figures_ratios_and_targets():
    text = text_of([
        row('udp', 'oneway', 64, 'p50_us', 4.0), row('mirror', 'oneway', 64, 'p50_us', 3.0),
        row('divert', 'oneway', 64, 'p50_us', 2.1), row('divert', 'exact', 0, 'torn', 0),
        row('mirror', 'drain', 64, 'descriptors_per_s', 2345678.9)])
    assert '64 B p50 µs 4 3 2.1 0.75 0.53 mirror ≤ 0.65: 0.75 not met' in text
    assert 'divert ≤ 0.55: 0.53 met' in text
    assert 'torn - - 0 - - divert ≤ 0: met' in text
    assert '64 B descriptors/s - 2,345,679 - - - mirror ≥ 1,000,000: met' in text


def test_a_run_that_fails_is_noted_and_the_rest_goes_on():
    plan = udp_plan.plan(workloads=['wake'], repeats=1)

    def run(cell, _plan):
        if cell.path == 'mirror':
            raise NodeError('start the node', 'broken')
        return [{'p50_us': 1.0}]

    measured = udp_plan.measure(plan, run)
    assert measured.failures == ['wake, mirror, 64 B: start the node: broken']
    assert [bool(runs) for runs in measured.runs.values()] == [True, False, True]


def test_a_short_run_gives_rows_a_table_and_a_chart(pool_there, compiler_there, ours, monkeypatch,
                                                    tmp_path, capsys):
    cells = [cell for cell in udp_plan.plan().cells
             if cell.workload in ('oneway', 'send', 'wake', 'drain', 'exact')
             and cell.size in (0, 64)]
    monkeypatch.setattr(udp_plan, 'plan', lambda **_options: udp_plan.Plan(
        tuple(cells), 1, count=200, datagrams=2000))
    json_file, chart = tmp_path / 'figures.json', tmp_path / 'chart.png'
    status = bench.run(options('--json', str(json_file), '--chart', str(chart)))
    said = capsys.readouterr()
    assert (status, said.err) == (0, '')
    assert chart.read_bytes().startswith(b'\x89PNG')
    rows = [Row(**each) for each in json.loads(json_file.read_text())['rows']]
    assert {(each.path, each.workload) for each in rows} == {
        (cell.path, cell.workload) for cell in cells}
    by_metric = {each.metric: each.value for each in rows if each.workload == 'exact'}
    assert by_metric['datagrams'] == 2000
    assert by_metric['captured'] + by_metric['passed'] == 2000
    assert 'divert ≤ 0.55' in said.out
    assert ours(os.getpid()) == []


def test_figures_without_a_comparison_give_no_chart(tmp_path):
    rows = [row('mirror', 'drain', 64, 'descriptors_per_s', 2e6)]
    assert not udp_command._write_chart(tmp_path / 'chart.png', rows)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_is_mirrored_to_a_consumer_that_sleeps(pool_there, ddsperf_there, place):
    from ipc_bypass.bench.udp_capture import Capture, captured
    from ipc_bypass.bench.udp_peers import Peers
    with Capture() as capture, capture.counted() as grown:
        cell = Cell('loopback', 'cyclonedds', 'mirror', 'throughput', 1024)
        second, = udp_graph.throughput(capture, Peers(place, None), place, cell, seconds=1,
                                       drop=0)
    assert second['samples_per_s'] > 100
    assert captured(grown) > 1000


def test_an_idle_node_is_looked_at(node_there):
    assert udp_graph.idle(0.5)['cpu_percent'] >= 0
