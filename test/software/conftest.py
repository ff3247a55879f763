"""What the tests of programs over an enrolled port share."""

from contextlib import contextmanager, ExitStack
from pathlib import Path
import subprocess
import sys

_HERE = Path(__file__).resolve()
sys.path[:0] = [str(_HERE.parents[2] / 'bench'), str(_HERE.parents[1] / 'semantics')]

from ipc_bypass.tcp.path import TcpPath  # noqa: E402
from ipc_bypass.tcp.settings import TcpSettings  # noqa: E402
import pytest  # noqa: E402
from software_cases.runs import steered  # noqa: E402
from support.capability import need_capabilities  # noqa: E402
from support.ports import PortBlock  # noqa: E402
from support.steering import object_ids, rules  # noqa: E402

_PEER = _HERE.with_name('unfit_peer.py')


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture(scope='module')
def ways(privileged, leaks):
    """Yield (path, ports without a rule, ports with one); a program may use the next, too."""
    plain, enrolled = PortBlock(), PortBlock()
    with steered(range(enrolled.first, enrolled.last + 1)) as path:
        leaks.note(object_ids(path))
        yield path, plain, enrolled
    for block in (plain, enrolled):
        block.close()


@pytest.fixture(scope='module')
def ports():
    """Yield a PortBlock for `path`."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture
def other_ports():
    """Yield a PortBlock for a test with a path of its own: two do not share a port."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture(scope='module')
def steer(privileged, leaks):
    """Return a context manager: an active path with a rule for a PortBlock, by settings."""
    @contextmanager
    def steered(ports, **settings):
        path = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory='', **settings))
        path.configure()
        try:
            leaks.note(object_ids(path))
            path.set_rules(rules((ports.first, ports.last)))
            path.activate()
            yield path
        finally:
            path.cleanup()
    return steered


@pytest.fixture(scope='module')
def path(steer, ports):
    """Yield a path that has nobody listed."""
    with steer(ports, exclude=()) as made:
        yield made


@pytest.fixture
def peer(ports):
    """Return a function that starts unfit_peer.py with a name and a way; it returns the port."""
    with ExitStack() as stack:
        def start(name, way, ports=ports):
            port = next(ports)
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, str(_PEER), name, way, str(port)],
                stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout.readline() == 'listening\n'
            return port
        yield start
