"""The HTTP server of the metrics, and clients that mean no good."""

import contextlib
from functools import partial
import http.client
import socket
import threading
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.metrics.families import counter, gauge
from ipc_bypass.metrics.server import MetricsServer, MOST_CONNECTIONS
import pytest
from support.refusals import refusal
from support.streams import connect, listening
from support.waiting import PATIENCE, wait_until


def families():
    return [gauge('things', 'Things.', [(3,)]),
            counter('bytes', 'By "name".', [('a"b\\c\nd', 5)], ('name',))]


@pytest.fixture(scope='module')
def server():
    """Yield a MetricsServer on a port of the kernel's choice."""
    made = MetricsServer('127.0.0.1', 0, families)
    yield made
    made.close()


def get(server, path='/metrics', method='GET'):
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_answers(server):
    status, text = get(server)
    assert status == 200
    assert '# HELP ipc_bypass_things Things.' in text
    assert 'ipc_bypass_bytes_total{name="a\\"b\\\\c\\nd"} 5.0' in text
    assert get(server, '/other')[0] == 404
    assert get(server, method='POST')[0] == 501


@pytest.mark.parametrize('text', [
    b'\r\n\r\n', b'GET', b'GET /metrics HTTP/9.9\r\n\r\n', b'\0' * 1000, b'GET /' + b'x' * 200_000,
    b'GET /metrics HTTP/1.1\r\n' + b'a: b\r\n' * 1000,
    b'GET /metrics HTTP/1.1\r\nA: ' + b'x' * 99_999,
    b'GET /metrics HTTP/1.1\r\n' + 90 * (b'A: ' + b'x' * 60_000 + b'\r\n') + b'\r\n',
    b'GET ../../etc/passwd HTTP/1.0\r\n\r\n', b'GET http://else/where HTTP/1.0\r\n\r\n'])
def test_nonsense(server, text):
    with connect(server.port) as sock:
        sock.settimeout(PATIENCE)
        with contextlib.suppress(OSError):
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(1000)
            assert b'200 OK' not in answer[:20] and b'root:' not in answer
    assert get(server)[0] == 200


def test_silent_clients(server):
    """More connections than there is room for, none of which asks: a scrape gets through."""
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(server.port)) for _ in range(3 * MOST_CONNECTIONS)]
        for sock in crowd:
            with contextlib.suppress(OSError):
                sock.sendall(b'GET /metrics HTTP/1.1\r\nA: ')

        def scrape():
            with contextlib.suppress(OSError, http.client.HTTPException):
                return get(server)[0] == 200
            time.sleep(0.1)
            return False
        wait_until(scrape, 'a scrape gets through')
        assert threading.active_count() <= before + MOST_CONNECTIONS + 1
    wait_until(lambda: threading.active_count() <= before, 'the threads end')
    assert get(server)[0] == 200


def test_client_that_leaves(server):
    for _ in range(20):
        with connect(server.port) as sock:
            sock.sendall(b'GET /metrics HTTP/1.0\r\n\r\n')
    assert get(server)[0] == 200


@pytest.mark.parametrize('address', ['127.0.0.1', '::1'])
def test_refusals(address, ports):
    port = next(ports)
    with listening(address, port):
        line = refusal(BypassError, partial(MetricsServer, next_step='go on'), address, port,
                       families)
        assert f'answer with metrics on {address} port {port}: Address already in use' in line
        assert line.endswith('; go on')
    for wrong, reason in (('no.such.host.invalid', 'Name or service not known'),
                          ('192.0.2.1', 'Cannot assign requested address')):
        assert reason in refusal(BypassError, MetricsServer, wrong, 0, families)


def test_fault_of_ours(capfd):
    """What the families cannot do is said, and the server goes on."""
    answers = [ValueError('no such thing'), families()]

    def faulty():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
    made = MetricsServer('127.0.0.1', 0, faulty)
    try:
        with pytest.raises(http.client.HTTPException):
            get(made)
        wait_until(lambda: 'no such thing' in capfd.readouterr().err, 'the fault is said')
        assert get(made)[0] == 200
    finally:
        made.close()
