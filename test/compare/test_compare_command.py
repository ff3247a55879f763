"""The command itself: a short comparison with the node, and its wrong arguments."""

import json
import os
from pathlib import Path

from ipc_bypass.cli.main import main
import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder of the test's own, in a domain of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ROS_DOMAIN_ID', '65')
    return tmp_path


def test_a_comparison_writes_all_that_it_says(node_there, here, capsys):
    pytest.importorskip('zenoh', reason='needs eclipse-zenoh')
    before = namespaces()
    assert main(['compare', '--kind', 'zenoh', '--containers', '--quick', '--message', '256k@50',
                 '--json', 'figures.json', '--html', 'page.html', '--chart', 'chart.png',
                 '--apply', '--output', 'profile']) == 0
    found = json.loads((here / 'figures.json').read_text())
    assert {row['path'] for row in found['rows']} == {'default', 'tcp', 'tcp redirected'}
    assert {row['metric'] for row in found['rows']} == {
        'p50_us', 'p99_us', 'lost', 'messages_per_s', 'cpu_ms_per_megabyte'}
    assert any(note.startswith('redirected: ') and not note.startswith('redirected: 0 ')
               for note in found['notes'])
    assert found['failures'] == []
    assert (here / 'chart.png').read_bytes().startswith(b'\x89PNG')
    assert 'data:image/png;base64,' in (here / 'page.html').read_text()
    advice, = found['recommendations']
    said = capsys.readouterr().out
    # Whichever it is on this machine, it is said and done.
    assert advice['text'].split(':')[0] in ' '.join(said.split())
    assert (here / 'profile' / 'zenoh.json5').exists() == (advice['way'] != 'default')
    assert namespaces() == before


def namespaces():
    """Return the names of this process's namespaces."""
    return {path.name for path in Path('/run/netns').glob(f'ipcb-{os.getpid()}-*')}


@pytest.mark.parametrize('words', [
    ['--message', '1M'], ['--message', '1M@30', '--learn'], ['--containers', '--same-host'],
    ['--learn', '0'], ['--kind', 'x']])
def test_wrong_arguments_are_refused(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(['compare', *words])
    assert caught.value.code == 2


def test_a_file_that_is_not_there_is_one_line(here, capsys, rclpy_there):
    assert main(['compare', '--config', 'none.yaml']) == 1
    assert 'read the messages of none.yaml: No such file' in capsys.readouterr().err
