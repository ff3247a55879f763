"""What the proxy counts, as Prometheus reads it."""

from contextlib import contextmanager
import http.client
import threading

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.proxy.helper import ProxyHelper, ProxySettings
from ipc_bypass.proxy.metrics import MetricsServer
from prometheus_client.parser import text_string_to_metric_families
import pytest
from support.refusals import refusal
from support.streams import connect, echoing, listening, read_exactly
from support.waiting import PATIENCE, wait_until

NAMES = {'accepted_connections', 'bytes', 'ended_connections', 'connect_errors', 'active_pairs',
         'backend_up', 'fallbacks', 'redirects'}


@pytest.fixture
def helper(ports):
    """Yield (ProxyHelper, port, backend's port); nobody is the backend yet."""
    port, backend = next(ports), next(ports)
    made = ProxyHelper(ProxySettings(forwards=(f'127.0.0.1:{port} -> 127.0.0.1:{backend}',),
                                     kernel_path='never', health_interval_s=0.0))
    made.configure()
    made.activate()
    yield made, port, backend
    made.close()


@contextmanager
def served(helper, port, address='127.0.0.1'):
    """Yield a function that asks for a path, and returns (status, type, text)."""
    server = MetricsServer(address, port, helper.report)

    def get(path='/metrics', method='GET'):
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers['Content-Type'], answer.read().decode()
        finally:
            connection.close()
    try:
        yield get
    finally:
        server.close()


def samples(text):
    """Return {(name, labels): value} without the prefix, from the text for Prometheus."""
    return {(sample.name.removeprefix('ipc_bypass_proxy_'),
             tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}


def test_figures(helper, ports):
    """One connection without a backend, one that is open, one that has ended."""
    made, port, backend = helper
    own = (f'127.0.0.1:{backend}', '1', f'127.0.0.1:{port}')
    with served(made, next(ports)) as get:
        status, kind, text = get()
        assert (status, kind.partition(';')[0]) == (200, 'text/plain')
        assert {family.name for family in text_string_to_metric_families(text)} == {
            f'ipc_bypass_proxy_{name}' for name in NAMES}
        assert samples(text)['backend_up', own] == 0
        with pytest.raises(ConnectionResetError):
            with connect(port) as sock:
                if not sock.recv(1):
                    raise ConnectionResetError
        with echoing(port=backend), connect(port) as sock:
            for _ in range(3):
                sock.sendall(bytes(1000))
                read_exactly(sock, 1000)
            found = samples(get('/metrics?any=thing')[2])
            first, where, listen = own
            assert found['active_pairs', (first, where, listen, 'splice')] == 1
            assert found['bytes_total', (first, 'onward', where, listen)] == 3000
            assert found['bytes_total', (first, 'back', where, listen)] == 3000
            assert found['accepted_connections_total', own] == 2
            assert found['connect_errors_total', (*own, 'refused')] == 1
            assert found['backend_up', own] == 1
            assert found['fallbacks_total', ('shortcut_unavailable',)] == 1
            assert found['fallbacks_total', ('sk_skb_unavailable',)] == 1
        wait_until(lambda: samples(get('/')[2]).get(
            ('ended_connections_total', (first, 'finished', where, listen))) == 1, 'it has ended')
        found = samples(get()[2])
        assert found['active_pairs', (first, where, listen, 'splice')] == 0
        assert found['bytes_total', (first, 'onward', where, listen)] == 3000
        assert found['ended_connections_total', (first, 'connect_error', where, listen)] == 1


def test_other_requests(helper, ports):
    with served(helper[0], next(ports)) as get:
        assert get('/other')[0] == 404
        assert get(method='POST')[0] == 501
        assert get()[0] == 200


@pytest.mark.parametrize('address', ['127.0.0.1', '::1'])
def test_port_in_use(helper, ports, address):
    """It says so in one line; once the port is free, it answers there, and ends at once."""
    port = next(ports)
    with listening(address, port):
        line = refusal(BypassError, MetricsServer, address, port, helper[0].report)
        assert f'answer with metrics on {address} port {port}: Address already in use' in line
    before = threading.active_count()
    with served(helper[0], port, address) as get:
        # One that asks nothing keeps neither others nor the end waiting.
        with connect(port, address):
            assert get()[0] == 200
    with pytest.raises(ConnectionRefusedError):
        connect(port, address)
    wait_until(lambda: threading.active_count() <= before, 'its threads end')


def test_after_the_end(helper, ports):
    """A request that comes when the proxy is closed already has no forwards in it."""
    with served(helper[0], next(ports)) as get:
        helper[0].close()
        assert [name for name, _ in samples(get()[2])] == []
