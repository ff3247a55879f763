"""What the tests with hostile input share."""

import os
from pathlib import Path
import subprocess
import sys

import ipc_bypass
from ipc_bypass.kernel.bpffs import MOUNT_POINT
import pytest
from support.capability import need_capabilities
from support.leaks import PIN_PREFIX

HERE = Path(__file__).resolve().parent
ROOT = Path(ipc_bypass.__file__).resolve().parents[1]


@pytest.fixture(scope='session', autouse=True)
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs a script of this folder: (exit code, output, errors)."""
    def run(name, *words, seconds=900):
        paths = filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
        done = subprocess.run(
            [sys.executable, str(HERE / name), *map(str, words)], text=True, timeout=seconds,
            capture_output=True, stdin=subprocess.DEVNULL, cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths),
                 'ROS_LOG_DIR': str(tmp_path), 'IPC_BYPASS_FUZZ_PINS':
                 f'{MOUNT_POINT}/{PIN_PREFIX}{os.getpid()}_fuzz'})
        return done.returncode, done.stdout, done.stderr
    return run
