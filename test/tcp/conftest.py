"""What the tests of the TCP path share: paths, ports, places."""

from contextlib import ExitStack
import itertools
import os

from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings
import pytest
from support.capability import need_capabilities
from support.connections import bridged, bridged_v6, LOOPBACK, LOOPBACK_V6
from support.leaks import PIN_PREFIX
from support.namespaces import bridged_pair
from support.ports import PortBlock
from support.steering import object_ids, rules

_numbers = itertools.count()


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture
def ports():
    """Yield a PortBlock of this test."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture(scope='session')
def pin_directory():
    """Return a function that names a folder for pins that nobody else uses."""
    return lambda: f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_{next(_numbers)}'


@pytest.fixture(scope='session')
def make_path(privileged, pin_directory, leaks):
    """
    Return a context manager for an active TcpPath with rules for ports.

    make_path(5201, (7400, 7500), budget_bytes=1 << 16); settings are those of TcpSettings,
    `kernel_view` is TcpPath's, with active=False it is configured only.
    """
    return lambda *ranges, **options: _Made(
        leaks, ranges, **{'pin_directory': pin_directory(), **options})


class _Made:
    """The context manager that make_path returns."""

    def __init__(self, leaks, ranges, *, active=True, kernel_view=True, **settings):
        self.path = TcpPath(TcpSettings(**{'tcp_path': 'sk_msg', **settings}),
                            kernel_view=kernel_view)
        self._leaks, self._ranges, self._active = leaks, ranges, active

    def __enter__(self):
        path = self.path
        path.configure()
        self._leaks.note(object_ids(path))
        path.set_rules(rules(*self._ranges))
        if self._active:
            path.activate()
        return path

    def __exit__(self, *_exception):
        self.path.cleanup()


@pytest.fixture(scope='module')
def steered(make_path):
    """Yield (path, ports): an active TcpPath with default settings, for a module's tests."""
    block = PortBlock()
    with make_path((block.first, block.last)) as path:
        yield path, block
    block.close()


@pytest.fixture(scope='session')
def namespaces(privileged):
    """Yield (server's, client's) Namespace, joined by veth and a bridge."""
    with bridged_pair() as pair:
        yield pair


@pytest.fixture(scope='session')
def places(namespaces):
    """Return the places by name."""
    found = LOOPBACK, LOOPBACK_V6, bridged(namespaces), bridged_v6(namespaces)
    return {place.name: place for place in found}


@pytest.fixture(params=['loopback', 'bridged'])
def place(request, places):
    """Return where a test's connections are: on this host's loopback, then over a bridge."""
    return places[request.param]


@pytest.fixture(params=['plain', 'steered'])
def way(request):
    """Return whether a test's connections are enrolled: first plain TCP, then by our path."""
    return request.param


@pytest.fixture
def stack():
    """Yield an ExitStack, closed after the test."""
    with ExitStack() as opened:
        yield opened
