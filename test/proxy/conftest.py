"""What the tests of the proxy share: the kernel's ways, engines, backends."""

from contextlib import ExitStack

from ipc_bypass.proxy.choice import Ways
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.forward import Forward
from ipc_bypass.proxy.shortcut import Shortcut, ShortcutSettings
from ipc_bypass.proxy.sk_skb import SkSkbPath
from proxy_tools import connect, listening, settle
import pytest
from support.capability import need_capabilities
from support.ports import PortBlock
from support.waiting import PATIENCE, wait_until


@pytest.fixture
def ports():
    """Yield a PortBlock of this test."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture(scope='module')
def ways():
    """Yield what this kernel can do, attached; loaded once a file."""
    need_capabilities()
    with ExitStack() as stack:
        shortcut = Shortcut(ShortcutSettings(max_connections=2048, budget_bytes=8 << 20))
        shortcut.configure()
        stack.callback(shortcut.close)
        sk_skb = SkSkbPath(2048, shortcut.pairs)
        stack.callback(sk_skb.close)
        shortcut.activate()
        yield Ways(shortcut, sk_skb, 'splice')


@pytest.fixture
def engine(ways):
    """Yield an Engine with all ways; `told` of it are its lines."""
    told = []
    made = Engine(ways, told.append, health_interval_s=0.0)
    made.told = told
    made.start()
    yield made
    print('told:', told, [each.last_error for each in made._listeners.values()])
    made.close()
    assert not [line for line in told if 'fault' in line]


@pytest.fixture
def forward(engine, ports):
    """Return a function that forwards a port to a backend's, and returns (port, Listener)."""
    def make(backend, host='127.0.0.1', listen='127.0.0.1', **options):
        port = next(ports)
        return port, engine.add(Forward(Endpoint(listen, port), Endpoint(host, backend),
                                        **options))
    return make


@pytest.fixture
def connected(forward):
    """Return a function that connects by a path: (client, server, Listener), with timeouts."""
    with ExitStack() as stack:
        def make(path='splice', **options):
            listener = stack.enter_context(listening())
            port, ours = forward(listener.getsockname()[1], path=path, **options)
            client = stack.enter_context(connect(port))
            server, _address = listener.accept()
            stack.enter_context(server)
            server.settimeout(PATIENCE)
            settle(client, server)
            wait_until(lambda: {each.path for each in list(ours.connections)} == {path},
                       f'the connection is on {path}')
            return client, server, ours
        yield make
