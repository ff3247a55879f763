"""What the tests of the commands share: the fixtures of the nodes, which the commands talk to."""

import importlib.util
from pathlib import Path
import sys
import tempfile

from ipc_bypass.kernel.cgroup import find_cgroup2
import pytest
from support.waiting import wait_until

_NODES = Path(__file__).resolve().parents[1] / 'nodes'
sys.path.insert(0, str(_NODES))

_spec = importlib.util.spec_from_file_location('nodes_fixtures', _NODES / 'conftest.py')
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

client = _fixtures.client
cgroup = _fixtures.cgroup
forward = _fixtures.forward
pin_directory = _fixtures.pin_directory
ports = _fixtures.ports
privileged = _fixtures.privileged
ros_logs = _fixtures.ros_logs
start = _fixtures.start
start_sockmap = _fixtures.start_sockmap


@pytest.fixture(scope='module')
def module_cgroup(privileged):
    """Yield the path of a cgroup for the nodes of a module."""
    path = Path(tempfile.mkdtemp(prefix='n7_', dir=find_cgroup2()))
    yield path
    wait_until(lambda: _fixtures.removed(path), f'{path} is left by the last child of a node')


@pytest.fixture
def command(capsys):
    """
    Return a function that runs `ipc-bypass` in this process: (exit code, output, errors).

    A process of its own for each would cost a second, most of which is imports.
    """
    from ipc_bypass.cli.main import main

    def run(*words):
        capsys.readouterr()
        code = main(words)
        return (code, *capsys.readouterr())
    return run
