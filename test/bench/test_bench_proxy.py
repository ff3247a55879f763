"""The plan of the proxy bench, its options, its table, and a very short real run of every path."""

import argparse
from io import StringIO
import json
import os
from pathlib import Path
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

from ipc_bypass.bench import proxy_command, proxy_lab, proxy_plan, proxy_rivals
from ipc_bypass.bench.proxy_plan import (
    BULK,
    DIRECT,
    HAPROXY,
    KB,
    LOCAL,
    MB,
    NGINX,
    OURS,
    REMOTE,
    request,
    SK_SKB,
    SPLICE,
)
from ipc_bypass.bench.rows import Cell, gain, Row
from ipc_bypass.bench.udp_peers import PeerError
from ipc_bypass.cli import bench
from ipc_bypass.kernel import capabilities
import pytest
from rich.console import Console


def options(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(('proxy', *words))


def row(scenario, path, workload, metric, value):
    return Row(scenario, 'c', path, workload, MB if workload == BULK else KB, metric, value)


def text_of(rows, remote=SPLICE):
    console = Console(width=122, record=True, file=StringIO())
    console.print(proxy_command.table(rows, remote))
    return ' '.join(console.export_text().split())


@pytest.fixture
def proxy_there(privileged, compiler_there):
    """Skip where the kernel path cannot be loaded."""
    missing = capabilities.missing(('CAP_BPF', 'CAP_PERFMON', 'CAP_NET_ADMIN'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def folder(tmp_path, compiler_there):
    """Return a folder with the compiled clients and backends."""
    proxy_lab.compile_peer(tmp_path)
    return tmp_path


def test_the_paths_take_turns_and_turn_round():
    plan = proxy_plan.plan(repeats=2)
    assert [path for path, _cells in plan.turns(LOCAL)] == [
        *proxy_plan.PATHS, *reversed(proxy_plan.PATHS)]
    assert OURS not in [path for path, _cells in plan.turns(REMOTE)]
    cells = [cell for scenario in plan.scenarios for _path, of in plan.turns(scenario)
             for cell in of]
    assert len(cells) == plan.steps
    assert set(cells) == set(plan.cells)


def test_every_target_is_of_something_that_is_measured():
    for plan in (proxy_plan.plan(), proxy_plan.plan(quick=True)):
        cells = {(cell.path, cell.scenario, cell.workload) for cell in plan.cells}
        for target in proxy_plan.TARGETS:
            for path in (target.path, *proxy_plan.RIVALS[target.against]):
                assert (path, target.scenario, target.workload) in cells


def test_options_become_a_plan():
    plan = proxy_plan.plan(connections=9900, scenarios=[LOCAL], without=[NGINX])
    assert (plan.connections, plan.repeats) == ((1, 100, 1000, 9900), 3)
    assert Cell(LOCAL, 'c', DIRECT, request(9900), KB) in plan.cells
    assert NGINX not in {cell.path for cell in plan.cells}
    assert proxy_plan.plan(quick=True).repeats == 1
    assert proxy_plan.connections_of(plan.cells[-1]) == 9900
    args = options('--connections', '10000', '--scenario', 'remote')
    assert (args.connections, args.scenario, args.quick) == (10000, 'remote', False)


@pytest.mark.parametrize('words', [
    ('--connections', '0'), ('--connections', 'many'), ('--scenario', 'moon'),
    ('--repeat', '0')])
def test_options_that_are_none_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        options(*words)
    assert words[0] in capsys.readouterr().err


def test_a_cost_is_better_the_less_it_is():
    assert gain('cpu_seconds_per_gigabyte', 1.0, 4.0) == 4
    assert gain('switches_per_request', 1.0, 4.0) == 4
    assert gain('gbit_per_second', 4.0, 1.0) == 4


def test_targets_are_held_against_the_best_rival():
    rows = [row(LOCAL, path, BULK, 'gbit_per_second', value)
            for path, value in ((HAPROXY, 5.0), (NGINX, 4.0), (SPLICE, 10.0), (OURS, 25.0))]
    rows += [row(REMOTE, path, BULK, 'cpu_seconds_per_gigabyte', value)
             for path, value in ((HAPROXY, 2.0), (NGINX, 4.0), (SPLICE, 1.0), (SK_SKB, 1.2))]
    assert [(found.target.path, found.target.against, found.ratio, found.met)
            for found in proxy_plan.outcomes(rows)] == [
        (OURS, 'best', 2.5, False), (SK_SKB, 'best', 1.2, False), (SK_SKB, 'theirs', 0.6, True),
        (SPLICE, 'theirs', 0.5, True)]


def test_the_table_shows_figures_ratios_and_targets():
    rows = [row(LOCAL, path, request(1000), 'requests_per_second', value)
            for path, value in ((DIRECT, 80_000.0), (HAPROXY, 20_000.0), (SPLICE, 25_000.0),
                                (OURS, 100_000.0))]
    rows += [row(REMOTE, path, BULK, 'cpu_seconds_per_gigabyte', value)
             for path, value in ((NGINX, 2.0), (SPLICE, 0.5), (SK_SKB, 1.0))]
    text = text_of(rows)
    assert ('local, 1,000 × 1 KB requests/s 80,000 20,000 - 25,000 - 100,000 4.00 1.25 '
            'ours ≥ 0.9 /direct: 1.25 met') in text
    assert 'remote, bulk of 1 MB cpu seconds/GB - - 2.0 0.50 1.0 - 1.00 -' in text
    assert 'sk_skb ≤ 0.7 /best: 2.00 not met' in text
    assert 'splice ≤ 0.7 /theirs: 0.25 met' in text
    assert '2.00 -' in text_of(rows, SK_SKB)


def test_a_proxy_that_is_missing_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(proxy_rivals, 'found', lambda name: None)
    assert set(proxy_rivals.lacking()) == {HAPROXY, NGINX}
    monkeypatch.undo()
    monkeypatch.setattr(proxy_rivals, 'STREAM_MODULE', Path('/none'))
    monkeypatch.setattr(proxy_rivals, 'found', lambda name: shutil.which('false'))
    assert proxy_rivals.lacking() == {NGINX: 'it has no stream module'}


def test_connections_are_bounded_by_the_open_files(monkeypatch):
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= \
        proxy_lab.SPARE_DESCRIPTORS + 2 * proxy_lab.most_connections()
    monkeypatch.setattr(resource, 'getrlimit', lambda _what: (20_000, 20_000))
    assert proxy_lab.most_connections() == 9900


def test_a_short_run_of_every_path(proxy_there, ours, monkeypatch, tmp_path, capsys):
    plan = proxy_plan.plan(without=tuple(proxy_rivals.lacking()))
    cells = tuple(cell for cell in plan.cells if cell.workload != request(1000))
    monkeypatch.setattr(proxy_plan, 'plan', lambda **_options: proxy_plan.Plan(
        cells, (1, 100), 1, 0.05))
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))
    json_file, chart = tmp_path / 'figures.json', tmp_path / 'chart.png'
    status = bench.run(options('--json', str(json_file), '--chart', str(chart)))
    said = capsys.readouterr()
    assert (status, said.err) == (0, '')
    assert chart.read_bytes().startswith(b'\x89PNG')
    rows = [Row(**each) for each in json.loads(json_file.read_text())['rows']]
    assert {(each.scenario, each.path, each.workload, each.size) for each in rows} == {
        (cell.scenario, cell.path, cell.workload, cell.size) for cell in cells}
    assert {each.metric for each in rows if each.workload == BULK} == {
        'gbit_per_second', 'cpu_seconds_per_gigabyte', 'switches_per_megabyte'}
    assert {each.metric for each in rows if each.workload == request(100)} == {
        'requests_per_second', 'p50_us', 'p99_us', 'cpu_us_per_request', 'switches_per_request'}
    assert all(each.value > 0 for each in rows if not each.metric.startswith(('cpu', 'switch')))
    assert 'auto takes' in said.out
    assert ours(os.getpid()) == []
    assert list(temporary.iterdir()) == []


def test_a_connection_on_another_path_is_no_figure(proxy_there, folder):
    with proxy_lab.site(LOCAL, folder) as site, \
            proxy_lab.way(site, SPLICE, folder, 1) as way:
        assert way.run(Cell(LOCAL, 'c', SPLICE, request(1), KB), 0.05)['requests_per_second'] > 0
        way._name = 'shortcut'
        with pytest.raises(PeerError, match='0 of 1 connections took the path shortcut'):
            way.run(Cell(LOCAL, 'c', SPLICE, request(1), KB), 0.05)


def test_a_backend_that_is_gone_is_a_failed_run(privileged, folder):
    with proxy_lab.site(REMOTE, folder) as site:
        way = proxy_lab.Way(site, site.backend.address, 1000)
        with pytest.raises(PeerError, match='Connection refused'):
            way.run(Cell(REMOTE, 'c', DIRECT, request(1), KB), 0.05)


@pytest.mark.parametrize(('number', 'path'), [(signal.SIGINT, DIRECT), (signal.SIGTERM, SPLICE)])
def test_a_signal_leaves_nothing(proxy_there, ours, gone, number, path, tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-m', 'ipc_bypass.cli.main', 'bench', 'proxy', '--quick',
         '--scenario', LOCAL, '--chart', str(tmp_path / 'chart.png')],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, 'TMPDIR': str(tmp_path)})
    while path not in (line := process.stdout.readline()):
        assert line, 'it ended'
    children = [int(child) for child in Path(
        f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()]
    assert children and ours(process.pid)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert ours(process.pid) == []
    assert all(map(gone, children))
    assert list(tmp_path.iterdir()) == []
