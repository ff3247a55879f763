"""The plan of the DDS bench, its options, and a very short real run to its report."""

import argparse
import json
import os
from pathlib import Path

from ipc_bypass.bench import containers, dds, dds_command, ddsperf, session
from ipc_bypass.bench.rows import rows_of, write_json
from ipc_bypass.cli import bench, demo
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
import pytest

STATISTICS = {
    'paths': [{'transport': 'tcp', 'name': 'sk_msg', 'selected': True, 'reason': ''}],
    'redirected_messages': 3000, 'redirected_bytes': 5000000,
    'passed_messages': 0, 'passed_bytes': 0,
    'counters': [{'name': 'enrolled', 'value': 4, 'unit': 'connections'},
                 {'name': 'passed_budget', 'value': 0, 'unit': 'messages'}]}


class FakeBypass:
    """Stands for the node; tcp+bypass is then plain TCP."""

    def __init__(self, ports):
        assert list(ports) == list(range(27400, 27410))

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        pass

    def statistics(self):
        return STATISTICS


def test_the_paths_of_one_workload_are_measured_in_turn():
    plan = dds.plan(dds.SCENARIOS)
    assert plan.repeats == 3
    for first in range(0, len(plan.cells), 3):
        group = plan.cells[first:first + 3]
        assert [cell.path for cell in group] == ['udp', 'tcp', 'tcp+bypass']
        assert len({(cell.scenario, cell.workload, cell.size) for cell in group}) == 1


@pytest.mark.parametrize('scenarios', [['containers'], ['loopback'], dds.SCENARIOS])
def test_a_quick_plan_is_short_and_serves_the_targets(scenarios):
    plan = dds.plan(scenarios, quick=True)
    assert plan.duration < 36
    cells = {(cell.scenario, cell.path, cell.workload, cell.size) for cell in plan.cells}
    for target in dds.TARGETS:
        compared = target.baseline != 'udp' or target.at_least != 0.95
        if target.scenario in scenarios and compared:
            assert (target.scenario, target.baseline, target.workload, target.size) in cells
            assert (target.scenario, 'tcp+bypass', target.workload, target.size) in cells


def test_the_demo_takes_about_two_minutes():
    assert 90 < dds.plan([dds.CONTAINERS]).duration < 150


def test_given_sizes_are_those_of_the_throughput():
    cells = dds.plan(['loopback'], sizes=[100, 200], repeats=7).cells
    assert [cell.size for cell in cells if cell.path == 'udp'] == [1024, 1048576, 100, 200]


@pytest.mark.parametrize(('text', 'size'), [
    ('64', 64), ('16k', 16384), ('16K', 16384), ('4M', 4 << 20), ('12', 12)])
def test_sizes_are_read_with_their_unit(text, size):
    assert session.payload(text) == size


@pytest.mark.parametrize('text', ['', 'k', '11', '-5', '1.5k', '65M', '1G', '٣٣٣'])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        session.payload(text)


@pytest.mark.parametrize('text', ['0', '-1', 'x', '', '1001'])
def test_repeats_that_are_none_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        session.count(text)


def test_what_is_not_installed_is_named_with_its_package():
    with pytest.raises(UnsupportedError, match='apt-get install some-package'):
        session.need('no_such_program', program=True, package='some-package')
    with pytest.raises(UnsupportedError, match='apt-get install some-package'):
        session.need('no_such_module', package='some-package')


def test_a_short_run_gives_rows_and_failures(privileged, ddsperf_there, ours, monkeypatch,
                                             tmp_path):
    cells = [cell for cell in dds.plan(['loopback'], sizes=[64]).cells
             if cell.workload == 'throughput']
    real = dds.run

    def fail_at_plain_tcp(workload, size, here, there, **rest):
        if '27420' in here.uri:
            raise ddsperf.DdsperfError('ddsperf sub', 'broken')
        return real(workload, size, here, there, **rest)

    monkeypatch.setattr(dds, 'run', fail_at_plain_tcp)
    begun = []
    measured = dds.measure(dds.Plan(tuple(cells), 1, 1, 0),
                           begin=lambda cell, repeat: begun.append((cell, repeat)))
    assert begun == [(cell, 0) for cell in cells]
    assert measured.failures == ['loopback, tcp, throughput, 64 B: ddsperf sub: broken']
    write_json(tmp_path / 'figures.json', rows_of(measured.runs))
    rows = json.loads((tmp_path / 'figures.json').read_text())['rows']
    assert [row.pop('path') for row in rows] == ['udp', 'tcp+bypass']
    for row in rows:
        assert row.pop('value') > 100
        assert row == {'scenario': 'loopback', 'peer': 'cyclonedds', 'workload': 'throughput',
                       'size': 64, 'metric': 'samples_per_s'}
    assert ours(os.getpid()) == []


def options(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(('module', 'words', 'scenarios', 'quick'), [
    (demo, (), ['containers'], False),
    (demo, ('--quick',), ['containers'], True),
    (bench, ('dds',), ['containers', 'loopback'], False),
    (bench, ('dds', '--quick', '--scenario', 'loopback'), ['loopback'], True)])
def test_options_become_a_plan(module, words, scenarios, quick, monkeypatch, tmp_path, capsys):
    seen = []

    def measure(plan, begin):
        seen.append(plan)
        runs = {}
        for cell in plan.cells:
            begin(cell, 0)
            metrics = {'p50_us': 1, 'p99_us': 3, 'mean_us': 2}
            runs[cell] = [[metrics if cell.workload == 'roundtrip' else {'samples_per_s': 5}]]
        return dds.Measured(runs)

    monkeypatch.setattr(dds, 'measure', measure)
    monkeypatch.setattr(dds_command, 'Bypass', FakeBypass)
    monkeypatch.setattr(session, 'need', lambda *_names, **_options: None)
    json_file, chart = tmp_path / 'figures.json', tmp_path / 'chart.png'
    status = module.run(options(module, *words, '--json', str(json_file), '--chart', str(chart)))
    assert status == 0
    plan, = seen
    assert list(dict.fromkeys(cell.scenario for cell in plan.cells)) == scenarios
    assert plan.repeats == (1 if quick else 3)
    assert chart.read_bytes().startswith(b'\x89PNG')
    rows = json.loads(json_file.read_text())['rows']
    assert len(rows) == sum(3 if cell.workload == 'roundtrip' else 1 for cell in plan.cells)
    said = ' '.join(capsys.readouterr().out.split())
    assert 'redirected: 3,000 messages, 5,000,000 bytes' in said
    assert 'enrolled: 4 connections' in said
    assert 'not met' in said


def test_a_cell_without_figures_is_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dds, 'measure', lambda plan, begin: dds.Measured(
        {cell: [] for cell in plan.cells}, ['containers, udp: broken']))
    monkeypatch.setattr(dds_command, 'Bypass', FakeBypass)
    monkeypatch.setattr(session, 'need', lambda *_names, **_options: None)
    monkeypatch.chdir(tmp_path)
    assert demo.run(options(demo)) == 1
    assert 'failed: containers, udp: broken' in capsys.readouterr().err


def test_namespaces_that_cannot_be_made_are_one_line(monkeypatch, tmp_path, ours):
    def refused(*_arguments):
        raise containers.NamespaceError('ip netns add x', 'Operation not permitted')

    monkeypatch.setattr(containers, '_ip', refused)
    monkeypatch.setattr(dds_command, 'Bypass', FakeBypass)
    monkeypatch.setattr(session, 'need', lambda *_names, **_options: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BypassError, match='ip netns add x: Operation not permitted'):
        demo.run(options(demo, '--quick'))
    assert list(Path(tmp_path).iterdir()) == []
    assert ours(os.getpid()) == []


def test_a_run_that_nothing_was_redirected_in_says_so():
    from ipc_bypass.bench.bypass import statistics_lines
    lines = statistics_lines({**STATISTICS, 'redirected_messages': 0})
    assert 'NOTHING' in lines[-1]
    assert 'NOTHING' not in ''.join(statistics_lines(STATISTICS))
