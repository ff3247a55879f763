"""What the tests of profiles share: profiles in a folder of the test, and clean variables."""

import os
import subprocess
import sys

from ipc_bypass.kernel import capabilities
from ipc_bypass.profiles import folder
from ipc_bypass.profiles.settings import settings
import pytest

#: Of the environment of who runs the tests: nothing of it may change a profile's effect.
_VARIABLES = ('RMW_IMPLEMENTATION', 'FASTDDS_DEFAULT_PROFILES_FILE', 'CYCLONEDDS_URI',
              'ZENOH_CONFIG', 'ZENOH_SESSION_CONFIG_URI', 'IPC_BYPASS_PORT',
              'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS',
              'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'FASTDDS_BUILTIN_TRANSPORTS')


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """Take profiles of the shell out of the environment, and keep runtime files in the test."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(tmp_path / 'runtime'))
    (tmp_path / 'runtime').mkdir(mode=0o700)


@pytest.fixture
def privileged():
    """Skip where namespaces cannot be made, and say what is missing."""
    missing = capabilities.missing(('CAP_SYS_ADMIN', 'CAP_NET_ADMIN'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a profile into a folder of the test."""
    def write(kind, **options):
        return folder.write(kind, settings(0, **options), tmp_path / kind)
    return write


@pytest.fixture
def command():
    """Return a function that runs `ipc-bypass` with some words, and returns what came of it."""
    def run(*words, **options):
        return subprocess.run([sys.executable, '-m', 'ipc_bypass.cli.main', *map(str, words)],
                              capture_output=True, text=True, check=False, timeout=60,
                              env={**os.environ, **options.pop('env', {})}, **options)
    return run
