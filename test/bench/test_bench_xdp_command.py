"""`ipc-bypass bench xdp`: its table, its file of figures, its exit status."""

import json

from ipc_bypass.cli.main import main
from ipc_bypass.kernel import capabilities
import pytest


@pytest.fixture(autouse=True)
def privileged():
    """Skip where programs cannot be run."""
    lacking = capabilities.missing(['CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'])
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))


def test_root_array(tmp_path, capsys):
    """Every path of the part has its figure, and the target is told with what was reached."""
    figures = tmp_path / 'figures.json'

    assert main(['bench', 'xdp', '--only', 'root', '--quick', '--json', str(figures)]) == 0

    rows = json.loads(figures.read_text())['rows']
    assert {row['path'] for row in rows} == {
        'nothing', 'empty array', 'one program, uncounted', 'one program', 'root array'}
    assert all(row['value'] > 0 for row in rows)
    assert "without the kernel's loop" in capsys.readouterr().out


def test_unknown_part(capsys):
    """It is refused with the parts that there are."""
    with pytest.raises(SystemExit):
        main(['bench', 'xdp', '--only', 'everything'])
    assert 'afxdp' in capsys.readouterr().err
