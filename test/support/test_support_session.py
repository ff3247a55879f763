"""The rules of a test session themselves: what is left is found, skips in CI are refused."""

import os
from pathlib import Path
import subprocess
import sys

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import ensure_bpffs
from ipc_bypass.kernel.uapi import MapType
import pytest

from support import descriptors
from support import leaks as leaks_module
from support.leaks import Leaks, PIN_PREFIX, VARIABLE
from support.namespaces import Namespace
from support.skips import bpf_works
from support.waiting import wait_until

_TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def capable():
    """Skip where this process cannot make what a test would leave."""
    if not bpf_works():
        pytest.skip('needs CAP_BPF')


@pytest.fixture
def watch(monkeypatch):
    """Return a function that tells what is left since now, without patience, and the Leaks."""
    monkeypatch.setattr(leaks_module, 'GRACE', 0.0)
    monkeypatch.setenv(VARIABLE, '')
    watched = Leaks()
    before = watched.left()  # the namespaces of this very session
    return lambda: [line for line in watched.left() if line not in before], watched


def test_namespace(watch):
    """A namespace that a test made and did not remove."""
    left, _ = watch
    with Namespace() as space:
        assert left() == [f'namespace {space.name}']
    assert left() == []


def test_process(watch):
    """A process that a test started and did not end."""
    left, _ = watch
    process = subprocess.Popen(['sleep', '1000'])
    # Popen returns when the descriptors close in execve(2), before /proc shows its environment
    wait_until(lambda: left() == [f'process {process.pid}: sleep 1000'], 'the process is found')
    process.kill()
    process.wait()
    assert left() == []


def test_map_and_pin(watch):
    """A map that a test noted, held by a pin alone."""
    left, watched = watch
    folder = Path(ensure_bpffs(mount=True), f'{PIN_PREFIX}{os.getpid()}_left')
    folder.mkdir()
    fd = syscall.map_create(MapType.HASH, 4, 4, 1, name='ipcb_test_left')
    syscall.obj_pin(fd, folder / 'map')
    number = syscall.map_info(fd).id
    os.close(fd)
    watched.note({'programs': [], 'maps': [number]})
    assert left() == [f'map {number}', f'pins {folder}']
    (folder / 'map').unlink()
    folder.rmdir()
    wait_until(lambda: left() == [], 'the map is gone')


def test_skips_in_ci(tmp_path):
    """In CI a skip fails the session, unless its reason is one of those that are allowed."""
    done = _session(tmp_path, CI='true')
    assert 'skipped in CI: test_skips.py::test_moon: needs the moon' in done.stdout
    assert 'skipped in CI: test_file.py: needs the sun' in done.stdout
    assert 'test_launch' not in done.stdout
    assert 'test_passes' not in done.stdout
    assert done.returncode == 1


def test_skips_elsewhere(tmp_path):
    """On a developer's machine a skip is a skip."""
    done = _session(tmp_path, CI='')
    assert 'skipped in CI' not in done.stdout
    assert done.returncode == 0, done.stdout


def _session(folder, **environment):
    """Run a test session over two files that skip, under our conftest."""
    (folder / 'test_skips.py').write_text(
        'import pytest\n'
        'def test_passes(): pass\n'
        "def test_moon(): pytest.skip('needs the moon')\n"
        "def test_launch(): pytest.skip('launch_ros is in no registry')\n")
    (folder / 'test_file.py').write_text(
        "import pytest\npytest.skip('needs the sun', allow_module_level=True)\n")
    (folder / 'pytest.ini').write_text('[pytest]\n')
    paths = os.pathsep.join(filter(None, [str(_TESTS), str(_TESTS.parent),
                                          os.environ.get('PYTHONPATH')]))
    return subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'conftest', '-p', 'no:cacheprovider', '.'],
        cwd=folder, text=True, capture_output=True, timeout=60,
        env={**os.environ, 'PYTHONPATH': paths, **environment})


def test_a_descriptor_that_is_left_is_told(monkeypatch):
    monkeypatch.setattr(descriptors, 'GRACE', 0.0)
    left = []
    with pytest.raises(AssertionError, match='eventfd'), descriptors.no_descriptor_left():
        left.append(os.eventfd(0))
    os.close(left[0])
