"""Graphs of real DDS processes, in namespaces and domains of their own."""

import os

from graph_tools import Host, Peers
from ipc_bypass.bench.containers import Containers
import pytest
from support.capability import need_capabilities


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities(('CAP_NET_ADMIN', 'CAP_NET_RAW', 'CAP_SYS_ADMIN', 'CAP_SYS_PTRACE'))


@pytest.fixture(scope='session', autouse=True)
def ros_logs(tmp_path_factory):
    """Keep the log files of ROS out of the home folder."""
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('ros_log'))


# Of a module, and not of the session: a process has one pair of containers at a time.
@pytest.fixture(scope='module')
def containers(privileged):
    """Yield two containers on a bridge; making them takes a second."""
    with Containers() as made:
        yield made


@pytest.fixture
def peers(containers):
    """Yield a Peers of domain 62: its processes end with the test."""
    with Peers(*containers, domain=62) as made:
        yield made


@pytest.fixture(scope='module')
def host(containers, tmp_path_factory):
    """Yield a Host of domain 61: a look takes five seconds, so that many tests share it."""
    with Peers(*containers, domain=61) as made:
        yield Host(made, tmp_path_factory.mktemp('host'))
