"""An HTTP server for GET /metrics that hostile clients cannot exhaust."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import socket
from socketserver import TCPServer
import sys
import threading
import time

from ipc_bypass.kernel.errors import BypassError, UnsupportedError

#: Connections at once; beyond it the oldest one is closed for a newcomer.
MOST_CONNECTIONS = 16
#: Threads at once: those of closed connections may still be at work.
MOST_THREADS = 2 * MOST_CONNECTIONS
#: Seconds that a connection may be silent, and seconds for which it is safe from newcomers.
SILENCE, SAFE = 10.0, 0.25
#: Bytes of a request; one of Prometheus has some 300.
LONGEST_REQUEST = 16_384


class MetricsServer:
    """
    Answers GET /metrics until close().

    :param address: IPv4 or IPv6 address to listen at
    :param port: to listen at; 0 has the kernel choose one, which `port` then is
    :param families: called without arguments, from any thread but by one at a time, returns
        prometheus_client's metric families
    :param next_step: of the error where the address and port cannot be had
    :raises UnsupportedError: without the package prometheus_client
    :raises BypassError: when the address and port cannot be had
    """

    def __init__(self, address: str, port: int, families: Callable[[], Iterable], *,
                 next_step: str = '') -> None:
        generate, content_type = _exposition(families)
        try:
            self._server = _Server(address, port, generate, content_type)
        except (OSError, OverflowError, UnicodeError) as error:
            # getaddrinfo's numbers are not the kernel's.
            number = 0 if isinstance(error, socket.gaierror) else getattr(error, 'errno', 0) or 0
            reason = '' if number else getattr(error, 'strerror', None) or str(error)
            raise BypassError(f'answer with metrics on {address} port {port}', reason,
                              errno=number, next_step=next_step) from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name='metrics',
                                        daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.ending = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; HTTP/1.0, so that a connection serves one."""

    timeout = SILENCE

    def setup(self) -> None:
        """Bound what is read: http.server takes 100 headers of 64 KiB."""
        super().setup()
        self.rfile = _Bounded(self.rfile, LONGEST_REQUEST)

    def do_GET(self) -> None:  # noqa: N802
        """Answer with the metrics, or that there is nothing else."""
        if self.path.partition('?')[0] not in ('/', '/metrics'):
            self.send_error(404)
            return
        body = self.server.generate()
        self.send_response(200)
        self.send_header('Content-Type', self.server.content_type)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: a scrape is no news."""


class _Bounded:
    """A stream that ends with an error after so many bytes."""

    def __init__(self, stream, size) -> None:
        self._stream, self._left = stream, size

    def readline(self, size: int) -> bytes:
        line = self._stream.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError('the request is too long')
        return line

    def close(self) -> None:
        self._stream.close()


class _Server(ThreadingHTTPServer):
    """Of either family, with a bound on its connections."""

    daemon_threads = True
    # socketserver's 5 have a crowd keep a scrape from connecting: its SYN is sent again after 1 s.
    request_queue_size = 128
    # close() shall not wait for a client that says nothing.
    block_on_close = False
    #: Whether what is asked for may be gone.
    ending = False

    def __init__(self, address, port, generate, content_type) -> None:
        self.address_family = socket.AF_INET6 if ':' in address else socket.AF_INET
        self.content_type = content_type
        self._generate, self._generating = generate, threading.Lock()
        self._open, self._closing, self._opening = {}, set(), threading.Lock()
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer without asking the DNS for a name, which nobody needs."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def generate(self) -> bytes:
        """Return the text; by one thread at a time, so that a flood costs no more memory."""
        with self._generating:
            return self._generate()

    def verify_request(self, request, _client_address) -> bool:
        """Return whether there is room, having closed the oldest connection if need be."""
        now = time.monotonic()
        with self._opening:
            if len(self._open) + len(self._closing) >= MOST_THREADS:
                return False
            if len(self._open) >= MOST_CONNECTIONS:
                oldest, since = next(iter(self._open.items()))
                if now - since < SAFE:
                    return False
                del self._open[oldest]
                self._closing.add(oldest)
                _cut(oldest)
            self._open[request] = now
        return True

    def shutdown_request(self, request) -> None:
        """Close a connection, and make room for another."""
        with self._opening:
            self._open.pop(request, None)
            self._closing.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        """Say nothing of a client that goes away in the middle; the rest is a fault of ours."""
        if not isinstance(sys.exc_info()[1], OSError) and not self.ending:
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    """Wake the thread that reads a connection; it closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _exposition(families: Callable[[], Iterable]) -> tuple[Callable[[], bytes], str]:
    try:
        from prometheus_client import CollectorRegistry, CONTENT_TYPE_LATEST, generate_latest
    except ModuleNotFoundError as error:
        raise UnsupportedError('answer with metrics', 'prometheus_client is missing',
                               next_step='apt-get install python3-prometheus-client, or do '
                               'without metrics (prometheus_port: 0)') from error

    class Collector:
        """Takes what is there when it is asked."""

        def collect(self) -> Iterable:
            """Yield the metric families."""
            yield from families()

        def describe(self) -> list:
            """Return nothing: nobody is to be asked when it is registered."""
            return []

    registry = CollectorRegistry()
    registry.register(Collector())
    return lambda: generate_latest(registry), CONTENT_TYPE_LATEST
