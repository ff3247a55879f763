"""What the tests of the UDP path share."""

from contextlib import contextmanager, ExitStack
import itertools
import os
from types import SimpleNamespace

from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings
import pytest
from support.capability import need_capabilities
from support.capturing import knows, object_ids, Route, rules
from support.leaks import PIN_PREFIX
from support.namespaces import bridged_pair, SERVER, SERVER_V6
from support.ports import PortBlock
from support.waiting import PATIENCE

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


@pytest.fixture
def stack():
    """Yield an ExitStack, closed after the test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope='session')
def pin_directory():
    """Return a function that names a folder for pins that nobody else uses."""
    return lambda: f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_{next(_numbers)}'


@pytest.fixture(scope='session')
def make_udp(privileged, pin_directory, leaks, tmp_path_factory):
    """
    Return a context manager for an active UdpPath by cgroup_skb with rules.

    make_udp('udp:7400:mirror', heartbeat_ms=100); settings are those of UdpSettings, with
    patience for a busy machine, `current_pid` is Capture's, with active=False it is configured
    only.
    """
    @contextmanager
    def made(*texts, active=True, current_pid=True, **settings):
        folder = tmp_path_factory.mktemp('udp')
        path = UdpPath(UdpSettings(**{
            'udp_path': 'cgroup_skb', 'pin_directory': pin_directory(), 'pool_size': 8 << 20,
            'control_socket': str(folder / 'pool.sock'),
            # As patient as the tests: an emulated machine may be starved for seconds.
            'heartbeat_ms': round(PATIENCE * 1000 / 6),
            'slot_ttl_ms': round(PATIENCE * 1000 / 1.5),
            **settings}), current_pid=current_pid)
        try:
            path.configure()
            leaks.note(object_ids(path))
            path.set_rules(rules(*texts))
            if active:
                path.activate()
            yield path
        finally:
            path.cleanup()
    return made


@pytest.fixture(scope='session')
def namespaces(privileged):
    """Yield (server's, client's) Namespace, joined by veth and a bridge."""
    with bridged_pair() as pair, pair[0].inhabited(), pair[1].inhabited():
        yield pair


@pytest.fixture(scope='session')
def routes(namespaces):
    """Return where datagrams may go, by name."""
    found = (Route('loopback'), Route('loopback_v6', '::1'), Route('bridged', SERVER, *namespaces),
             Route('bridged_v6', SERVER_V6, *namespaces))
    return {route.name: route for route in found}


@pytest.fixture(params=['loopback', 'loopback_v6', 'bridged', 'bridged_v6'])
def route(request, routes):
    """Return where a test's datagrams go: over loopback, then over a bridge."""
    return routes[request.param]


@pytest.fixture(params=['loopback', 'loopback_v6'])
def local(request, routes):
    """Return where a test's datagrams go: over loopback."""
    return routes[request.param]


@pytest.fixture(params=['mirror', 'divert'])
def action(request):
    """Return the action of a test's rule."""
    return request.param


@pytest.fixture(scope='module')
def shared(make_udp, namespaces):
    """
    Return a context manager for an active path that tests share; settings as make_udp takes them.

    It yields the path, its control socket, and its ports by action.
    """
    @contextmanager
    def opened(**settings):
        block = PortBlock()
        port = {'mirror': block.first, 'divert': block.first + 1, 'other': block.first + 2}
        texts = f"udp:{port['mirror']}:mirror", f"udp:{port['divert']}:divert"
        try:
            with make_udp(*texts, **settings) as path:
                knows(path, '::1', SERVER, SERVER_V6)
                yield SimpleNamespace(path=path, port=port, texts=texts,
                                      control=path.settings.control_socket)
        finally:
            block.close()
    return opened


@pytest.fixture(scope='module')
def captured(shared):
    """Yield an active path for a module's tests."""
    with shared() as made:
        yield made


@pytest.fixture
def obey(captured):
    """Return a function that gives `captured` other rules, for one test."""
    yield lambda *texts: captured.path.set_rules(rules(*texts))
    captured.path.set_rules(rules(*captured.texts))


@pytest.fixture
def consumer(captured):
    """Yield the Consumer that owns all rules of `captured`."""
    with Consumer(control=captured.control) as opened:
        yield opened
