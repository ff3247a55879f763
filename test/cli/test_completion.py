"""Completion in a real bash, and a start without argcomplete."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

SOURCE = Path(__file__).resolve().parents[2]
SCRIPT = """
cd "$1" && eval "$(register-python-argcomplete ipc-bypass 2>/dev/null ||
    register-python-argcomplete3 ipc-bypass)"
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9 COMP_WORDBREAKS=$' \\t\\n'
_python_argcomplete ipc-bypass
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """Return a function that completes a line and returns what bash would offer."""
    pytest.importorskip('argcomplete', reason='python3-argcomplete is not installed')
    folder = tmp_path_factory.mktemp('completion')
    command = folder / 'ipc-bypass'
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ipc_bypass.cli.main "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, 'PATH': f"{folder}:{os.environ['PATH']}",
                   'PYTHONPATH': f"{SOURCE}:{os.environ.get('PYTHONPATH', '')}"}

    def completed(line):
        done = subprocess.run(['bash', '-c', SCRIPT, 'bash', str(folder), line], env=environment,
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())
    return completed


@pytest.mark.parametrize(('line', 'wanted'), [
    ('ipc-bypass ', {'doctor', 'up', 'status', 'top', 'export', 'xdp', 'proxy', 'bench'}),
    ('ipc-bypass sta', {'status'}),
    ('ipc-bypass xdp ru', {'rules'}),
    ('ipc-bypass xdp rules ', {'add', 'remove', 'list'}),
    ('ipc-bypass export --p', {'--port', '--proxy-node'}),
    ('ipc-bypass xdp attach --mode n', {'native'}),
    ('ipc-bypass --verbose top --on', {'--once'}),
])
def test_completes(complete, line, wanted):
    assert wanted <= complete(line)


def test_what_is_not_there(complete):
    assert complete('ipc-bypass no_such_command --') <= {'--help', '--verbose'}


def test_without_argcomplete(tmp_path):
    (tmp_path / 'argcomplete.py').write_text("raise ModuleNotFoundError(name='argcomplete')\n")
    paths = [str(tmp_path), str(SOURCE), os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    command = [sys.executable, '-m', 'ipc_bypass.cli.main']
    done = subprocess.run([*command, 'top', '--help'], env=environment, capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 0 and 'example:' in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={
        **environment, '_ARGCOMPLETE': '1', 'COMP_LINE': 'ipc-bypass ', 'COMP_POINT': '11'})
    assert (done.returncode, done.stdout, done.stderr) == (1, '', '')
