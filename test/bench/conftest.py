"""What the tests of bench/ share."""

from pathlib import Path
import shutil
import time

from ipc_bypass.bench import containers
from ipc_bypass.kernel import capabilities
import pytest


@pytest.fixture
def privileged():
    """Skip where namespaces cannot be made, and say what is missing."""
    missing = capabilities.missing(('CAP_SYS_ADMIN', 'CAP_NET_ADMIN'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def ddsperf_there():
    """Skip where there is no ddsperf."""
    if shutil.which('ddsperf') is None:
        pytest.skip('needs ddsperf, of the package cyclonedds-tools')


@pytest.fixture
def ours():
    """Return a function that lists the named namespaces of one process."""
    def listed(pid):
        return sorted(path.name for path in Path('/run/netns').glob(f'ipcb-{pid}-*'))
    return listed


@pytest.fixture
def gone():
    """Return a function that says whether a process ends within ten seconds."""
    def waited(pid):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                return True
            if state in 'ZX':
                return True
            time.sleep(0.02)
        return False
    return waited


@pytest.fixture
def node_there(privileged):
    """Skip where the node cannot run."""
    pytest.importorskip('rclpy', reason='needs a sourced ROS 2')
    pytest.importorskip('ipc_bypass_interfaces', reason='needs the built interfaces')
    missing = capabilities.missing(('CAP_BPF', 'CAP_PERFMON'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def compiler_there():
    """Skip where there is no C compiler."""
    if not (shutil.which('cc') or shutil.which('gcc')):
        pytest.skip('needs a C compiler, of the package gcc')


@pytest.fixture
def pool_there(privileged):
    """Skip where the UDP path cannot be loaded."""
    missing = capabilities.missing(('CAP_BPF', 'CAP_PERFMON'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def place(privileged):
    """Yield a network namespace of a bench."""
    with containers.Namespace('host') as made:
        yield made
