"""What the tests of privileges share: the fixtures of the nodes, and users without rights."""

import importlib.util
import os
from pathlib import Path
import shutil
import sys
import tempfile

import pytest

_TEST = Path(__file__).resolve().parents[1]
for _folder in ('nodes', 'cli'):
    sys.path.insert(0, str(_TEST / _folder))

_spec = importlib.util.spec_from_file_location('nodes_fixtures', _TEST / 'nodes' / 'conftest.py')
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

from unit_tools import Home  # noqa: E402

client = _fixtures.client
cgroup = _fixtures.cgroup
pin_directory = _fixtures.pin_directory
ports = _fixtures.ports
privileged = _fixtures.privileged
ros_logs = _fixtures.ros_logs
start = _fixtures.start


@pytest.fixture(scope='module')
def home(privileged):
    """Yield the folders of a user without rights; its cache is kept from test to test."""
    made = Home()
    yield made
    made.close()


@pytest.fixture
def folder(privileged):
    """Yield a folder of root's that every user can look into, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix='ipcb_test_'))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def foreign(folder):
    """Return a folder below it that belongs to another user."""
    path = folder / 'foreign'
    path.mkdir()
    os.chown(path, 65534, 65534)
    return path
