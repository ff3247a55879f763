"""What one forward listens with: its socket, its backends, its counters."""

from __future__ import annotations

from collections import Counter
import errno
import os
import socket
import time

from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass.proxy.forward import Forward

#: Connections that may wait to be accepted; the kernel may allow less (net.core.somaxconn).
BACKLOG = 4096
_LIMIT = 'KERNEL_ERROR', 'raise the limit of open files: ulimit -n'
_WORDS = {errno.EMFILE: _LIMIT, errno.ENFILE: _LIMIT,
          errno.EADDRINUSE: ('ADDRESS_IN_USE', 'see who has it: ss -ltnp'),
          errno.EADDRNOTAVAIL: ('INVALID_ADDRESS', 'name an address of this host: ip addr')}


class Listener:
    """
    One forward while it listens, and as long as connections of it are open.

    `counters` has accepted, finished, reset, idle, closed_by_node, connect_error and its reasons
    as connect_error_REASON, limit_reached, and bytes_onward and bytes_back of connections that
    ended; `last_error` what ended the last one that was reset; `retired` says that the forward was
    removed; `health` is 'unknown', 'up' or 'down', with `health_reason`.
    """

    def __init__(self, identifier: int, forward: Forward, origin: str,
                 backends: tuple[Endpoint, ...], *, fixed: bool = False) -> None:
        """
        Listen.

        :param origin: who asked for it, 'parameter' or 'service'
        :param backends: that are tried, one after the other
        :param fixed: the backend's name is not looked up again
        :raises ForwardError: ADDRESS_IN_USE, INVALID_ADDRESS, NOT_ALLOWED or KERNEL_ERROR
        """
        self.id, self.forward, self.origin = identifier, forward, origin
        self.backends, self.fixed = backends, fixed
        self.counters: Counter[str] = Counter()
        self.connections: set = set()
        self.paused_until = self.elsewhere_until = 0.0
        self.misses = 0
        self.full = self.retired = False
        self.last_error = ''
        self.health, self.health_reason, self.health_since = 'unknown', '', time.time()
        self.answered = self.tried = float('-inf')
        self.socket: socket.socket | None = listen(forward.listen)

    @property
    def listening(self) -> bool:
        """Return whether it takes new connections."""
        return self.socket is not None

    def stop(self) -> None:
        """Listen no more; open connections go on."""
        sock, self.socket = self.socket, None
        if sock is not None:
            sock.close()

    def listen_again(self) -> None:
        """Listen anew after stop(); raises ForwardError."""
        if self.socket is None:
            self.socket = listen(self.forward.listen)

    def heard(self, error: OSError | None, reason: str = '') -> bool:
        """Note that the backend accepted, or why it did not; return whether that is to be told."""
        before = self.health
        self.tried = time.monotonic()
        if error is None:
            self.health, self.health_reason, self.answered = 'up', '', self.tried
        else:
            self.health = 'down'
            self.health_reason = f'{reason}: {error.strerror or error}'
        if self.health != before:
            self.health_since = time.time()
        return self.health != before and (before, self.health) != ('unknown', 'up')


def listen(endpoint: Endpoint) -> socket.socket:
    """
    Return a non-blocking socket that listens; '::' takes IPv4, too.

    :raises ForwardError: when it cannot be had, with the reason
    """
    made = None
    try:
        made = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                             | socket.SOCK_CLOEXEC)
        # A restart listens again while connections of the earlier process are in TIME_WAIT.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(endpoint.host != '::'))
        made.bind((endpoint.host, endpoint.port))
        made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        what = f'listen on {endpoint}'
        if error.errno == errno.EACCES:
            refusal = privilege_error(what, ('CAP_NET_BIND_SERVICE',), error.errno)
            raise ForwardError(refusal.what, refusal.reason, code='NOT_ALLOWED',
                               errno=error.errno, next_step=refusal.next_step) from error
        code, next_step = _WORDS.get(error.errno, ('KERNEL_ERROR', ''))
        raise ForwardError(what, os.strerror(error.errno), code=code, errno=error.errno,
                           next_step=next_step) from error
    return made
