"""What the tests of AF_XDP share: a lab, a program that gives everything to the sockets."""

from af_xdp_tools import Everything
from ipc_bypass.kernel import capabilities
from ipc_bypass.xdp.templates import Templates
import pytest
from support.xdp import veth_lab


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    lacking = capabilities.missing(['CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'])
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))


@pytest.fixture
def lab(privileged):
    """Yield (near, far) Namespace; the sockets of the tests are on near0."""
    with veth_lab() as spaces:
        yield spaces


@pytest.fixture
def everything(lab):
    """Yield Everything on near0: each frame goes to the socket of its queue."""
    with Everything(lab[0], 'near0') as program:
        yield program


@pytest.fixture(scope='session')
def templates(privileged):
    """Return compiled programs for all tests."""
    return Templates()
