"""What the tests of the nodes share. Their DDS talks on this host only, in a domain apart."""

import contextlib
import itertools
import os
from pathlib import Path
import tempfile

# A domain of this session: another one's nodes would cost ours time for their discovery.
os.environ['ROS_DOMAIN_ID'] = str(50 + os.getpid() % 50)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

from ipc_bypass.kernel.cgroup import find_cgroup2  # noqa: E402
from node_tools import Client, inside, NodeProcess  # noqa: E402
import pytest  # noqa: E402
from sockmap_tools import SockmapProcess  # noqa: E402
from support.capability import need_capabilities  # noqa: E402
from support.leaks import PIN_PREFIX  # noqa: E402
from support.ports import PortBlock  # noqa: E402
from support.streams import echoing  # noqa: E402
from support.waiting import wait_until  # noqa: E402

_numbers = itertools.count()


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture(scope='session', autouse=True)
def ros_logs(tmp_path_factory):
    """Keep the log files of ROS out of the home folder."""
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('ros_log'))


@pytest.fixture(scope='session')
def client(ros_logs):
    """Yield the Client of the session."""
    made = Client()
    yield made
    made.close()


@pytest.fixture
def ports():
    """Yield a PortBlock of this test."""
    block = PortBlock()
    yield block
    block.close()


def removed(cgroup):
    """Remove a cgroup and return whether it is gone; it is not while a process is in it."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


@pytest.fixture
def cgroup(privileged):
    """Yield the path of a cgroup of our own: what is attached there is the test's node's."""
    path = Path(tempfile.mkdtemp(prefix='n7_', dir=find_cgroup2()))
    yield path
    wait_until(lambda: removed(path), f'{path} is left by the last child of a node')


@pytest.fixture
def pin_directory():
    """Return the name of a folder for pins that nobody else uses."""
    return f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_n7_{next(_numbers)}'


@pytest.fixture
def start(client, cgroup, pin_directory, tmp_path):
    """
    Return a function that starts the node; it ends with the test.

    start(tcp_path='auto', ...) takes parameters by name, and as `how` what NodeProcess takes.
    The node lives in the cgroup that it serves.
    """
    nodes = []

    def started(how=None, **parameters):
        how = dict(how or {})
        prefix = inside(cgroup) + tuple(how.pop('prefix', ()))
        node = NodeProcess(client, tmp_path, {
            'tcp_path': 'sk_msg', 'cgroup_path': str(cgroup), 'pin_directory': pin_directory,
            **parameters}, prefix=prefix, **how)
        nodes.append(node)
        return node
    yield started
    for node in nodes:
        node.__exit__()


@pytest.fixture
def start_sockmap(client, tmp_path):
    """Return a function that starts sockmap_helper with parameters; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **parameters: stack.enter_context(
            SockmapProcess(client, tmp_path, **parameters))


@pytest.fixture
def forward(ports):
    """Yield (port, text) of a forward to a backend that echoes."""
    port = next(ports)
    with echoing() as backend:
        yield port, f'127.0.0.1:{port} -> 127.0.0.1:{backend}'
