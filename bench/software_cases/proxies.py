"""A proxy that moves data by splice(2), between a client and a server that answers requests."""

from __future__ import annotations

import contextlib
import socket
import threading

from software_cases.place import Case, digest, Outcome, Wrong

_CONFIG = """\
global
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen forward
    bind 127.0.0.1:{port}
    server backend 127.0.0.1:{backend}
{options}"""
_SPLICED = '    option splice-request\n    option splice-response\n'


class Haproxy(Case):
    """HAProxy in TCP mode: listed, so that its own connections are plain."""

    name, long = 'HAProxy that splices', True
    excluded = 'excluded'
    options = _SPLICED

    def prepare(self):
        self._program = self.place.program('haproxy', 'haproxy')
        self._backend = socket.create_server(('127.0.0.1', 0))
        self.place.on_exit(self._backend.close)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        """Send back what comes, on one connection after the other."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._backend.accept()
                with sock, contextlib.suppress(OSError):
                    while data := sock.recv(1 << 16):
                        sock.sendall(data)

    def serve(self, port):
        config = self.place.folder / f'haproxy.{port}'
        config.write_text(_CONFIG.format(
            port=port, backend=self._backend.getsockname()[1], options=self.options))
        self.place.start(self._program.path, '-db', '-q', '-f', config, port=port,
                         environment=self._program.environment)

    def measure(self, port):
        data = self.place.file('proxied', 8 << 20).read_bytes()
        got = bytearray()
        with socket.create_connection(('127.0.0.1', port), 20) as sock:
            for start in range(0, len(data), 1 << 18):
                part = data[start:start + (1 << 18)]
                sock.sendall(part)
                while len(got) < start + len(part):
                    more = sock.recv(1 << 18)
                    if not more:
                        raise Wrong('read from HAProxy', 'the connection ended')
                    got += more
        if got != data:
            raise Wrong('read from HAProxy', 'what came back is not what was sent')
        return Outcome({}, digest(bytes(got)), 2 * len(data))


CASES = (Haproxy,)
