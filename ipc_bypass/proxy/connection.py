"""
One connection through a forward: the client's socket, the backend's, and the way between them.

It lives in the engine's thread alone. It begins by moving bytes in this process (`splice`). Where
the forward allows it and the kernel has it, the kernel takes over: the far ends are brought
together (`shortcut`), or what one socket receives goes to the other (`sk_skb`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from ipc_bypass.proxy.header import proxy_header
from ipc_bypass.proxy.listener import Listener
from ipc_bypass.proxy.splicing import Direction

_IN, _OUT, _ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
_HUP, _RDHUP = select.EPOLLHUP, select.EPOLLRDHUP
_ABORT = struct.pack('=ii', 1, 0)  # struct linger: close() sends RST
#: Why a connect failed, by errno; others are 'other'.
CONNECT_ERRORS = {errno.ECONNREFUSED: 'refused', errno.ETIMEDOUT: 'timeout',
                  errno.EHOSTUNREACH: 'unreachable', errno.ENETUNREACH: 'unreachable',
                  errno.EADDRNOTAVAIL: 'no_local_port', errno.EMFILE: 'no_descriptor',
                  errno.ENFILE: 'no_descriptor'}
#: How a connection ended.
ENDS = ('finished', 'reset', 'idle', 'connect_error', 'closed_by_node')


class Connection:
    """
    An accepted socket, and the one to the backend.

    `path` is 'connecting', 'splice', 'sk_skb' or 'shortcut'; `reason` why it is not a faster one,
    a name of fallbacks; `end` one of ENDS once it is over.
    """

    def __init__(self, engine, listener: Listener, client: socket.socket) -> None:
        """
        Begin to connect.

        :param engine: an Engine, whose thread calls
        :param client: accepted, non-blocking
        """
        self.engine, self.listener, self.near = engine, listener, client
        self.forward = listener.forward
        listener.connections.add(self)
        self.beyond: socket.socket | None = None
        self.path, self.reason, self.end = 'connecting', '', ''
        self.begun = self.connected = self.active = time.monotonic()
        self.kernel = None  # a sk_skb.Proxied once the kernel moves the bytes
        self.joined = None  # a shortcut.Joined once the far ends may be brought together
        self.known = 0, 0  # what moved() said when it was last asked for a report
        self.paired, self.decided = False, False
        self.own_bytes = 0  # written to the backend before all others: the PROXY header
        self.onward: Direction | None = None
        self.back: Direction | None = None
        self._backends = list(listener.backends)
        self.error = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._masks: dict[int, int] = {}
        try:
            self.watch(self.near, _RDHUP)
            self._connect()
        except OSError as error:  # no room for one more in epoll
            self.error = error
            self.engine.connect_failed(self, 'other', error)
            self.finish('connect_error', abort=True)

    # While it is being connected --------------------------------------------------------------

    def _connect(self) -> None:
        """Try the next backend; the last one's error is the connection's."""
        while self._backends:
            target = self._backends.pop(0)
            made = None
            try:
                made = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                                     | socket.SOCK_CLOEXEC)
                self.engine.announce(made, self)
                number = made.connect_ex((target.host, target.port))
                if number not in (0, errno.EINPROGRESS):
                    raise OSError(number, os.strerror(number))
            except OSError as error:
                self.error = error
                if made is not None:
                    self.engine.forget(made)
                    made.close()
                continue
            self.beyond = made
            self.watch(made, _OUT)
            return
        self.engine.connect_failed(self, CONNECT_ERRORS.get(self.error.errno, 'other'),
                                   self.error)
        self.finish('connect_error', abort=True)

    def _connected(self) -> None:
        number = self.beyond.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.error = OSError(number, os.strerror(number))
            self._drop_backend()
            self._connect()
            return
        for each in (self.near, self.beyond):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.onward = Direction(self.near, self.beyond, self.engine.pipes, self.engine.buffer)
        self.back = Direction(self.beyond, self.near, self.engine.pipes, self.engine.buffer)
        self.path, self.reason = 'splice', ''
        self.connected = self.active = time.monotonic()
        if self.forward.proxy_protocol:
            header = proxy_header(self.near)
            # Nothing was written before, and the smallest buffer holds it.
            self.own_bytes = self.beyond.send(header)
        self._interest()
        self.engine.connected(self)

    def time_out(self) -> None:
        """Give the backend that does not answer up, and try the next one."""
        self.error = OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        self._drop_backend()
        self.begun = time.monotonic()
        self._connect()

    def _drop_backend(self) -> None:
        self._unwatch(self.beyond)
        self.engine.forget(self.beyond)
        self.beyond.close()
        self.beyond = None

    # While it is open -------------------------------------------------------------------------

    def handle(self, fd: int, events: int) -> None:
        """Take what epoll says of one of the two sockets."""
        if self.end:
            return
        try:
            if self.path == 'connecting':
                self._handle_connecting(fd, events)
            elif self.kernel is not None:
                self.kernel.handle(fd, events)
            else:
                self._handle_open(fd, events)
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> None:
        """End it after an error of one of its sockets: the other end sees a reset, too."""
        self.error = error
        self.finish('reset', abort=True)

    def _handle_connecting(self, fd: int, events: int) -> None:
        if self.beyond is not None and fd == self.beyond.fileno():
            self._connected()
        elif events & (_ERR | _HUP):
            self.finish('reset', abort=True)
        else:
            self.watch(self.near, 0)  # it sends no more, which is told when there is a backend

    def _handle_open(self, fd: int, events: int) -> None:
        self.active = self.engine.now
        near = fd == self.near.fileno()
        inward, outward = (self.onward, self.back) if near else (self.back, self.onward)
        if events & _ERR:
            number = (self.near if near else self.beyond).getsockopt(socket.SOL_SOCKET,
                                                                     socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
        if events & _OUT and outward.flush():
            # What it held up may be readable already; a pump finds out.
            outward.pump()
        if events & (_IN | _HUP | _RDHUP) and not inward.blocked and not inward.ended:
            inward.pump()
        if inward.shut and outward.shut:
            self.finish('finished')
            return
        self._interest()
        if not self.decided:
            self.engine.choose(self)

    def _interest(self) -> None:
        for sock, inward, outward in ((self.near, self.onward, self.back),
                                      (self.beyond, self.back, self.onward)):
            mask = (0 if inward.blocked or inward.ended else _IN) | (_OUT if outward.blocked
                                                                     else 0)
            self.watch(sock, mask)

    def moved(self) -> tuple[int, int]:
        """Return the bytes that were moved, (to the backend, to the client), by whichever way."""
        if self.onward is None:
            return 0, 0
        onward, back = self.onward.moved, self.back.moved
        for mover in (self.kernel, self.joined):
            if mover is not None:
                more = mover.moved()
                onward, back = onward + more[0], back + more[1]
        return onward, back

    def wake(self) -> None:
        """Look at what the kernel does with it: that has changed."""
        if not self.end:
            try:
                self.kernel.wake()
            except OSError as error:
                self.fail(error)

    def look(self) -> bool:
        """Go on with what waits for the kernel's worker; return whether there is nothing more."""
        try:
            return bool(self.end) or self.kernel.look()
        except OSError as error:
            self.fail(error)
            return True

    # Its end ----------------------------------------------------------------------------------

    def finish(self, end: str, *, abort: bool = False) -> None:
        """
        Close both sockets; again is no error.

        :param end: one of ENDS
        :param abort: the far ends see a reset, as what was on its way is lost
        """
        if self.end:
            return
        self.end = end
        for each in (self.onward, self.back):
            if each is not None:
                each.drop()
        self.engine.ending(self)
        for each in (self.near, self.beyond):
            if each is None:
                continue
            self._unwatch(each)
            try:
                if abort:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                each.close()
            except OSError:
                pass  # it is gone

    def watch(self, sock: socket.socket, mask: int) -> None:
        """Have epoll tell what a mask names; with an empty one, nothing at all."""
        fd = sock.fileno()
        before = self._masks.get(fd)
        if before == mask:
            return
        if not mask:
            # With an empty mask it would still tell of HUP, again and again.
            if before:
                self.engine.unwatch(fd)
        elif before:
            self.engine.change(fd, mask)
        else:
            self.engine.watch(fd, mask, self)
        self._masks[fd] = mask

    def _unwatch(self, sock: socket.socket) -> None:
        if self._masks.pop(sock.fileno(), 0):
            self.engine.unwatch(sock.fileno())
