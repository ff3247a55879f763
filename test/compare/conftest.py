"""What the tests of the comparison share."""

import shutil

from ipc_bypass.bench.rows import Row
from ipc_bypass.compare.places import both
from ipc_bypass.kernel import capabilities
import pytest


@pytest.fixture
def privileged():
    """Skip where namespaces cannot be made, and say what is missing."""
    missing = capabilities.missing(('CAP_SYS_ADMIN', 'CAP_NET_ADMIN'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def node_there(privileged, rclpy_there):
    """Skip where the node cannot run."""
    pytest.importorskip('ipc_bypass_interfaces', reason='needs the built interfaces')
    missing = capabilities.missing(('CAP_BPF', 'CAP_PERFMON'))
    if missing:
        pytest.skip(f'needs {" and ".join(missing)}')


@pytest.fixture
def rclpy_there():
    """Skip where there is no rclpy."""
    pytest.importorskip('rclpy', reason='needs a sourced ROS 2')


@pytest.fixture
def ddsperf_there():
    """Skip where there is no ddsperf."""
    if shutil.which('ddsperf') is None:
        pytest.skip('needs ddsperf, of the package cyclonedds-tools')


@pytest.fixture(params=['containers', 'same-host'])
def placed(privileged, request):
    """Yield a placement and its two places."""
    with both(request.param) as places:
        yield request.param, places


@pytest.fixture
def row():
    """Return a function that makes a row of Fast DDS between containers."""
    def made(way, workload, metric, value, size=1 << 20):
        return Row('containers', 'fastdds', way, workload, size, metric, value)
    return made
