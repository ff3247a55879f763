"""
The engine: one thread in which all connections of all forwards live.

It accepts, connects, moves bytes where the kernel does not, and decides for each connection which
way it takes. Everything that other threads call takes the lock that a round of the thread takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
import contextlib
import errno
import os
import select
import socket
import threading
import time

from ipc_bypass.proxy.choice import Choice, Ways
from ipc_bypass.proxy.connection import Connection
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass.proxy.forward import check_loop, Forward
from ipc_bypass.proxy.health import Probes
from ipc_bypass.proxy.listener import Listener
from ipc_bypass.proxy.splicing import COPY, PipePool

#: Accepted at most in one go.
_BATCH = 64
#: Events at most in one go.
_EVENTS = 512
#: Seconds between two looks at what waits for a moment, and at what may have timed out.
_SOON, _TICK = 0.002, 0.25
#: Seconds that a listener rests that has no descriptor or memory for a connection.
_REST = 0.1
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Engine:
    """
    The forwards of one network namespace, that of the thread that calls start().

    `tell` is called with a line for each thing that a person should know, from any thread.

    :param ways: what the kernel can do here; closed by its maker
    :param health_interval_s: seconds after which a backend that nobody connected to is asked
        whether it accepts; 0: never
    """

    def __init__(self, ways: Ways | None = None, tell: Callable[[str], object] = lambda line: None,
                 *, health_interval_s: float = 5.0) -> None:
        self.pipes, self.buffer = PipePool(), bytearray(COPY)
        self.now = time.monotonic()
        self.fallbacks: Counter[str] = Counter()
        self.ended_by_path: Counter[str] = Counter()
        self._choice = Choice(ways or Ways(), self.fallbacks)
        self._tell, self._lock = tell, threading.RLock()
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._handlers: dict[int, Callable[[int, int], None]] = {}
        if ways is not None and ways.sk_skb is not None:
            self._poll.register(ways.sk_skb.wake_fd, select.EPOLLIN)
            self._handlers[ways.sk_skb.wake_fd] = lambda _fd, _mask: self._woken(ways.sk_skb)
        self._listeners: dict[int, Listener] = {}
        self._waiting: set[Connection] = set()
        # Descriptors that are watched since the round began: what it has of their numbers is of
        # those that had them before.
        self._fresh: set[int] = set()
        self._in_kernel: dict[int, Connection] = {}
        self._probes = Probes(self, health_interval_s)
        self._next_id, self._ticked = 1, 0.0
        self._ending, self._open = False, False
        self._thread: threading.Thread | None = None

    # What other threads call ------------------------------------------------------------------

    def start(self) -> None:
        """Run, and let the forwards listen; raises ForwardError and listens nowhere then."""
        with self._lock:
            try:
                for listener in self._kept():
                    listener.listen_again()
            except ForwardError:
                self._stop_listening()
                raise
            self._open = True
            for listener in self._kept():
                self._watch_listener(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name='proxy', daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Listen no more; open connections go on until they end."""
        with self._lock:
            self._open = False
            self._stop_listening()

    def close(self) -> None:
        """End the thread, and every connection; once more is no error."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._stop_listening()
            for listener in list(self._listeners.values()):
                for connection in list(listener.connections):
                    connection.finish('closed_by_node')
            self._listeners.clear()
            self._probes.close()
            self.pipes.close()
            self._poll.close()
            os.close(self._wake)

    def add(self, forward: Forward, origin: str = 'service',
            backends: tuple[Endpoint, ...] = ()) -> Listener:
        """
        Forward from now on, or once start() was called; return the Listener.

        :param backends: what the backend's name stands for, for good; (): it is looked up now,
            and again later
        :raises ForwardError: with a code, and nothing changed
        """
        forward.check()
        fixed = bool(backends)
        backends = backends or forward.backend.resolve()  # without the lock: it may take seconds
        with self._lock:
            for each in self._listeners.values():
                if each.forward.listen == forward.listen and not each.retired:
                    raise ForwardError(f'listen on {forward.listen}',
                                       f'forward {each.id} does already', code='ALREADY_FORWARDED',
                                       next_step='remove that one first')
            check_loop(forward, backends, [(each.forward, each.backends)
                                           for each in self._kept()])
            made = Listener(self._next_id, forward, origin, backends, fixed=fixed)
            if not self._open:
                made.stop()
            self._next_id += 1
            self._listeners[made.id] = made
            self.note_ports()
            if self._open:
                self._watch_listener(made)
                os.eventfd_write(self._wake, 1)
            return made

    def remove(self, identifier: int, *, close_connections: bool = False,
               origin: str = '') -> Forward:
        """
        Listen no more for a forward; open connections go on, unless they are to be closed.

        :param origin: who must have asked for it, '' for whoever
        :raises ForwardError: NO_SUCH_FORWARD, NOT_ALLOWED where it is another's
        """
        with self._lock:
            listener = self._listeners.get(identifier)
            if listener is None or listener.retired:
                raise ForwardError(f'remove forward {identifier}', 'there is no such forward',
                                   code='NO_SUCH_FORWARD', next_step='see: list_forwards')
            if origin not in ('', listener.origin):
                raise ForwardError(f'remove forward {identifier}',
                                   f'it is of origin {listener.origin}', code='NOT_ALLOWED',
                                   next_step='take it out of forwards')
            listener.retired = True
            self._stop_listener(listener)
            if close_connections:
                for connection in list(listener.connections):
                    connection.finish('closed_by_node')
            self._retire(listener)
            return listener.forward

    def change(self, fd: int, mask: int) -> None:
        """Have epoll tell something else of a descriptor."""
        self._poll.modify(fd, mask)

    @contextlib.contextmanager
    def listeners(self):
        """Yield the Listeners, held still meanwhile."""
        with self._lock:
            yield list(self._listeners.values())

    def sockets(self) -> list[socket.socket]:
        """Return the sockets of all connections; for who holds listeners() meanwhile."""
        return [each for listener in self._listeners.values()
                for connection in listener.connections
                for each in (connection.near, connection.beyond) if each is not None]

    def last_active(self, connection: Connection) -> float:
        """Return when a byte of a connection was last moved, by time.monotonic()."""
        return self._choice.last_active(connection)

    # What connections and probes call, in the thread ------------------------------------------

    def watch(self, fd: int, mask: int, target) -> None:
        """Have `target.handle(fd, events)` called."""
        self._poll.register(fd, mask)
        self._handlers[fd] = target.handle
        self._fresh.add(fd)

    def unwatch(self, fd: int) -> None:
        """Be told nothing of a descriptor any more."""
        self._handlers.pop(fd, None)
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)

    def announce(self, sock: socket.socket, connection: Connection) -> None:
        """Say that a socket is about to connect for a connection."""
        self._choice.announce(sock, connection)

    def forget(self, sock: socket.socket) -> None:
        """Say that it did not connect."""
        self._choice.forget(sock)

    def connected(self, connection: Connection) -> None:
        """Take a connection whose backend accepted, and choose its way."""
        listener = connection.listener
        if listener.heard(None):
            self.told_health(listener)
        self._choice.begin(connection)
        self.choose(connection)

    def connect_failed(self, connection: Connection, reason: str, error: OSError) -> None:
        """Count a connection whose backend did not accept."""
        listener = connection.listener
        listener.counters[f'connect_error_{reason}'] += 1
        if listener.heard(error, reason):
            self.told_health(listener)

    def told_health(self, listener: Listener) -> None:
        """Tell that a backend is up or down, as it was not before."""
        backend = listener.forward.backend
        self._tell(f'{backend} accepts connections' if listener.health == 'up' else
                   f'{backend} does not accept connections: {listener.health_reason}')

    def choose(self, connection: Connection) -> None:
        """Choose a connection's way, or look again soon."""
        if self._choice.choose(connection):
            if connection.kernel is None:
                self._waiting.discard(connection)
        else:
            self._waiting.add(connection)

    def note_ports(self) -> None:
        """Note the ports of the forwards anew, since there are others or one need not be."""
        self._choice.ports(self._listeners.values())

    def in_kernel(self, cookies: Iterable[int], connection: Connection) -> None:
        """Have `connection.wake()` called when the program does otherwise with these sockets."""
        for cookie in cookies:
            self._in_kernel[cookie] = connection

    def look_soon(self, connection: Connection) -> None:
        """Have `connection.look()` called until it answers that all is done."""
        self._waiting.add(connection)

    def ending(self, connection: Connection) -> None:
        """Count a connection that ends; its sockets are open still."""
        listener = connection.listener
        self._waiting.discard(connection)
        onward, back = connection.moved()
        if connection.kernel is not None:
            for cookie in connection.kernel.cookies:
                self._in_kernel.pop(cookie, None)
        self._choice.end(connection)
        listener.connections.discard(connection)
        listener.counters[connection.end] += 1
        listener.counters['bytes_onward'] += onward
        listener.counters['bytes_back'] += back
        if connection.end == 'reset':
            listener.last_error = str(connection.error)
        if connection.path != 'connecting':
            self.ended_by_path[connection.path] += 1
        if listener.full and listener.listening:
            listener.full = False
            self._watch_listener(listener)
        if listener.retired:
            self._retire(listener)

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            timeout = _SOON if self._waiting else _TICK
            try:
                events = self._poll.poll(timeout, _EVENTS)
            except InterruptedError:
                continue
            with self._lock:
                self.now = time.monotonic()
                self._fresh.clear()
                for fd, mask in events:
                    handler = self._handlers.get(fd)
                    if fd in self._fresh:
                        continue
                    if handler is not None:
                        self._guarded(handler, fd, mask)
                    elif fd == self._wake:
                        with contextlib.suppress(BlockingIOError):
                            os.eventfd_read(self._wake)
                for connection in list(self._waiting):
                    self._guarded(self._look, connection)
                if self.now - self._ticked >= _TICK:
                    self._ticked = self.now
                    self._guarded(self._tick)

    def _guarded(self, function: Callable, *arguments) -> None:
        """Keep a fault with one connection from ending all others."""
        try:
            function(*arguments)
        except Exception as error:
            self._tell(f'a fault in ipc_bypass: {type(error).__name__}: {error}')
            for each in (getattr(function, '__self__', None), *arguments):
                if isinstance(each, Connection):
                    each.finish('reset', abort=True)

    def _look(self, connection: Connection) -> None:
        if connection.kernel is None:
            self.choose(connection)
        elif connection.look():
            self._waiting.discard(connection)

    def _woken(self, path) -> None:
        for cookie in path.woken():
            connection = self._in_kernel.get(cookie)
            if connection is not None:
                self._guarded(connection.wake)

    def _accept(self, listener: Listener) -> None:
        forward = listener.forward
        for _ in range(_BATCH):
            if len(listener.connections) >= forward.max_connections:
                # Those above the limit wait in the listener's queue.
                listener.full = True
                listener.counters['limit_reached'] += 1
                self.unwatch(listener.socket.fileno())
                return
            try:
                client, _address = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    listener.counters['no_descriptor'] += 1
                    listener.paused_until = self.now + _REST
                    self.unwatch(listener.socket.fileno())
                    self._tell(f'{forward.listen} accepts nothing for a moment: '
                               f'{error.strerror}; raise the limit of open files: ulimit -n')
                    return
                continue  # the client gave up meanwhile
            client.setblocking(False)
            listener.counters['accepted'] += 1
            Connection(self, listener, client)

    def _tick(self) -> None:
        for listener in list(self._listeners.values()):
            if listener.paused_until and self.now >= listener.paused_until and listener.listening:
                listener.paused_until = 0.0
                self._watch_listener(listener)
            forward = listener.forward
            for connection in list(listener.connections):
                if connection.path == 'connecting':
                    if self.now - connection.begun > forward.connect_timeout_s:
                        connection.time_out()
                    continue
                if not connection.decided:
                    self.choose(connection)
                if forward.idle_timeout_s and self.now - connection.active > \
                        forward.idle_timeout_s and self.now - self._choice.last_active(
                            connection) > forward.idle_timeout_s:
                    connection.finish('idle')
        self._probes.tick(self._listeners.values())
        self._choice.tick(self._listeners.values(), self.now)

    def _watch_listener(self, listener: Listener) -> None:
        fd = listener.socket.fileno()
        if fd not in self._handlers:
            self._poll.register(fd, select.EPOLLIN)
            self._handlers[fd] = lambda _fd, _mask: self._accept(listener)

    def _stop_listener(self, listener: Listener) -> None:
        if listener.listening:
            self.unwatch(listener.socket.fileno())
            listener.stop()

    def _stop_listening(self) -> None:
        for listener in self._listeners.values():
            self._stop_listener(listener)

    def _kept(self) -> list[Listener]:
        """Return the Listeners of forwards that were not removed."""
        return [each for each in self._listeners.values() if not each.retired]

    def _retire(self, listener: Listener) -> None:
        """Forget a forward that was removed, once its last connection has ended."""
        if not listener.connections and self._listeners.pop(listener.id, None):
            self.note_ports()
