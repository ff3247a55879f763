"""Requests at the metrics' port, and files of statistics that other processes wrote."""

import atexit
import errno
import json
import socket
import time

from ipc_bypass.metrics.server import LONGEST_REQUEST, MetricsServer
from ipc_bypass.xdp.af_xdp.socket_statistics import Counters
from ipc_bypass.xdp.af_xdp.statistics_board import _entry
from ipc_bypass.xdp.af_xdp.uapi import STATISTICS
from prometheus_client.core import CounterMetricFamily

#: One of these inputs takes as long as so many of the others.
COST = 5
LONGEST = 2 * LONGEST_REQUEST
_PATIENCE = 10


def _families():
    family = CounterMetricFamily('fuzz', 'Of the fuzzer.', labels=['name'])
    family.add_metric(['a "b"\n\\'], 3)
    yield family


_server = MetricsServer('127.0.0.1', 0, _families)
_tried = [0]
atexit.register(_server.close)


def seeds():
    """Yield requests and statistics."""
    yield b'GET /metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n'
    yield b'GET / HTTP/1.0\r\n\r\n'
    yield b'GET /metrics\r\n'
    yield b'POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nx'
    yield b'GET http://[::1/%00 HTTP/9.9\r\n' + b'A: b\r\n' * 20 + b'\r\n'
    yield b'GET /' + b'a' * 40_000
    yield b'\x16\x03\x01\x02\0' + bytes(40)
    yield json.dumps({
        'namespace': 4026531840, 'interface': 'eth0', 'queue': 0, 'zero_copy': False,
        **dict.fromkeys(('rx_packets', 'rx_bytes', 'tx_packets', 'tx_bytes'), 1),
        'counters': dict.fromkeys(Counters.__dataclass_fields__, 1),
        'kernel': dict.fromkeys(STATISTICS, 0)}).encode()


def one(data):
    """Ask it, and hang up; the next who asks as one should is answered."""
    with socket.socket() as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(('127.0.0.1', _server.port))
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError as error:  # it hung up
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
    _tried[0] += 1
    if not _tried[0] % 32:
        assert _scrape(time.monotonic() + _PATIENCE)
    found = _entry(1, data.decode('utf-8', 'replace'))
    assert found is None or found.pid == 1


def _scrape(until):
    """Return whether the metrics come; a crowd's newcomer may be turned away for a moment."""
    while time.monotonic() < until:
        with socket.create_connection(('127.0.0.1', _server.port), _PATIENCE) as sock:
            sock.sendall(b'GET /metrics HTTP/1.0\r\n\r\n')
            answer = b''
            try:
                while part := sock.recv(1 << 16):
                    answer += part
            except ConnectionResetError:
                continue
        if answer.startswith(b'HTTP/1.0 200') and b'fuzz_total' in answer:
            return True
        time.sleep(0.05)
    return False
