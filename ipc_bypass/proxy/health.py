"""Does a backend accept? Asked where nobody connected to it for a while."""

from __future__ import annotations

from collections.abc import Iterable
import errno
import os
import select
import socket
import threading
import time

from ipc_bypass.proxy.connection import CONNECT_ERRORS
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass.proxy.listener import Listener


class Probes:
    """
    The connects that only ask; in the engine's thread.

    :param engine: the Engine
    :param interval_s: seconds without a connection after which a backend is asked; 0: never
    """

    def __init__(self, engine, interval_s: float) -> None:
        self._engine, self.interval_s = engine, interval_s
        self._open: dict[int, tuple[socket.socket, Listener, float]] = {}
        self._resolving: set[int] = set()

    def tick(self, listeners: Iterable[Listener]) -> None:
        """Begin the probes that are due, and give up those that take too long."""
        now = time.monotonic()
        for fd, (_sock, listener, begun) in list(self._open.items()):
            if now - begun > listener.forward.connect_timeout_s:
                self._ended(fd, OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        if not self.interval_s:
            return
        asked = {listener.id for _sock, listener, _begun in self._open.values()}
        for listener in listeners:
            if listener.listening and listener.id not in asked and \
                    now - listener.tried > self.interval_s:
                listener.tried = now
                self._resolve(listener)
                self._begin(listener, now)

    def handle(self, fd: int, _events: int) -> None:
        """Take the outcome of a probe."""
        number = self._open[fd][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._ended(fd, OSError(number, os.strerror(number)) if number else None)

    def close(self) -> None:
        """Give up what is under way."""
        for fd in list(self._open):
            self._engine.unwatch(fd)
            self._open.pop(fd)[0].close()

    def _begin(self, listener: Listener, now: float) -> None:
        if not listener.backends:
            return
        target = listener.backends[0]
        try:
            made = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                                 | socket.SOCK_CLOEXEC)
        except OSError:
            return  # no descriptor: that says nothing of the backend
        number = made.connect_ex((target.host, target.port))
        self._open[made.fileno()] = made, listener, now
        if number in (0, errno.EINPROGRESS):
            self._engine.watch(made.fileno(), select.EPOLLOUT, self)
        else:
            self._ended(made.fileno(), OSError(number, os.strerror(number)))

    def _ended(self, fd: int, error: OSError | None) -> None:
        made, listener, _begun = self._open.pop(fd)
        self._engine.unwatch(fd)
        made.close()
        reason = '' if error is None else CONNECT_ERRORS.get(error.errno, 'other')
        if listener.heard(error, reason):
            self._engine.told_health(listener)

    def _resolve(self, listener: Listener) -> None:
        """Look a name up again, in a thread: it may take seconds."""
        if listener.fixed or not listener.forward.backend.is_name or \
                listener.id in self._resolving:
            return
        self._resolving.add(listener.id)

        def look() -> None:
            try:
                listener.backends = listener.forward.backend.resolve()
            except ForwardError:
                pass  # the addresses that were known may be good still
            finally:
                self._resolving.discard(listener.id)
        threading.Thread(target=look, name='proxy-resolver', daemon=True).start()
