"""
Which way a connection takes, and why not a faster one.

The far ends of a connection that are both on this host are brought together (`shortcut`). Else
the kernel may hand on what one socket receives (`sk_skb`), where that was found to be worth it;
else this process moves the bytes (`splice`). Every way that is not taken is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
import socket
import time

from ipc_bypass.proxy.listener import Listener

#: Seconds in which the backend's end shows up on this host: its last segment is on its way. Where
#: a backend's queue is full, that may be sent again, so that it may be later, too.
_SHOWS_UP, _AT_LAST = 0.02, 1.5
#: Connections, one after the other, whose backend's end did not show up: then it is elsewhere.
_MISSES = 8
#: Seconds after which a backend that is elsewhere may be here.
_ELSEWHERE = 60.0


@dataclass
class Ways:
    """
    What the kernel can do here; None where it cannot, with the reason in `reasons` by name.

    `remote` is what connections with a far end elsewhere take: 'sk_skb' or 'splice'.
    """

    shortcut: object | None = None
    sk_skb: object | None = None
    remote: str = 'splice'
    reasons: dict[str, str] = field(default_factory=dict)


class Choice:
    """
    Chooses; in the engine's thread.

    :param fallbacks: counts connections by the reason why they are not on a faster way:
        'shortcut_forbidden', 'shortcut_unavailable', 'shortcut_table_full',
        'shortcut_not_noted', 'shortcut_client_elsewhere', 'shortcut_backend_elsewhere',
        'sk_skb_forbidden', 'sk_skb_unavailable', 'sk_skb_not_worth_it',
        'sk_skb_refused'
    """

    def __init__(self, ways: Ways, fallbacks: Counter) -> None:
        self.ways, self._fallbacks = ways, fallbacks
        self._noted: dict[int, bool] | None = None
        self.ports(())

    def ports(self, listeners: Iterable[Listener]) -> None:
        """
        Say which forwards there are.

        All their ports are noted: a socket of ours that connects to another of our forwards must
        not be taken for a far end, as splice(2) does not work on those.
        """
        if self.ways.shortcut is None:
            self._noted = {}
            return
        ports: dict[int, bool] = {}
        for listener in listeners:
            port = listener.forward.listen.port
            together = listener.forward.path in ('auto', 'shortcut') and \
                listener.elsewhere_until == 0.0
            ports[port] = ports.get(port, False) or together
        if ports != self._noted:
            self._noted = ports
            self.ways.shortcut.set_ports(ports)

    def announce(self, sock: socket.socket, connection) -> None:
        """Say that a socket is about to connect for a connection; before it does."""
        if self.ways.shortcut is None:
            return
        pairs, port = self.ways.shortcut.pairs, connection.forward.listen.port
        # The backend's socket is left as it is where the client's is not there to be joined.
        wanted = self._hands_on(connection.forward.path) or (
            self._noted.get(port) and pairs.far_end(connection.near) is not None)
        try:
            pairs.announce(sock, port if wanted else 0)
        except OSError:
            self._fallbacks['shortcut_table_full'] += 1

    def forget(self, sock: socket.socket) -> None:
        """Say that a socket did not connect."""
        if self.ways.shortcut is not None:
            self.ways.shortcut.pairs.forget(sock)

    def tick(self, listeners: Iterable[Listener], now: float) -> None:
        """Look again at backends that were elsewhere; they may have moved here."""
        changed = [each for each in listeners if 0.0 < each.elsewhere_until <= now]
        for each in changed:
            each.elsewhere_until = 0.0
        if changed:
            self.ports(listeners)

    def begin(self, connection) -> None:
        """Begin to choose, once both sockets are established."""
        forward = connection.forward
        self.forget(connection.beyond)  # the program needs that no more, if it was attached
        if self._noted.get(forward.listen.port) and forward.path in ('auto', 'shortcut'):
            try:
                connection.paired = self.ways.shortcut.pairs.pair(
                    connection.near, connection.beyond, connection.own_bytes)
            except OSError:
                connection.paired = False

    def choose(self, connection) -> bool:
        """Choose now, if it is not decided; return False where to do so again soon."""
        if connection.end or connection.decided:
            return True
        reason = self._without_shortcut(connection)
        if reason is None:
            # Soon again, and later whenever something happens.
            return time.monotonic() - connection.connected > _SHOWS_UP
        connection.decided = True
        if not reason:
            connection.path = 'shortcut'
            return True
        connection.reason = reason
        self._fallbacks[reason] += 1
        reason = self._without_sk_skb(connection)
        if reason:
            self._fallbacks[reason] += 1
            if connection.forward.path != 'shortcut':
                connection.reason = f'{connection.reason}, {reason}'
        return True

    def end(self, connection) -> None:
        """Let go of what the kernel holds of a connection that ends."""
        if connection.kernel is not None:
            connection.kernel.close()

    def last_active(self, connection) -> float:
        """Return when a byte was last moved by the kernel, as time.monotonic()."""
        mover = connection.kernel or connection.joined
        return mover.last_active() if mover is not None else connection.active

    def _hands_on(self, path: str) -> bool:
        """Return whether connections of a forward may take the path sk_skb."""
        return self.ways.sk_skb is not None and (
            path == 'sk_skb' or path == 'auto' and self.ways.remote == 'sk_skb')

    def _without_shortcut(self, connection) -> str | None:
        """Return why there is no short cut, '' when there is one, None when that is open yet."""
        if connection.forward.path not in ('auto', 'shortcut'):
            return 'shortcut_forbidden'
        if self.ways.shortcut is None:
            return 'shortcut_unavailable'
        if not self._noted.get(connection.forward.listen.port):
            return 'shortcut_backend_elsewhere'
        if self.ways.shortcut.pairs.began(connection.near) is None:
            return 'shortcut_not_noted'
        if self.ways.shortcut.pairs.far_end(connection.near) is None:
            return 'shortcut_client_elsewhere'
        if not connection.paired:
            return 'shortcut_not_noted'
        listener = connection.listener
        if self.ways.shortcut.join(connection):
            listener.misses = 0
            return ''
        now = time.monotonic()
        if now - connection.connected < _AT_LAST:
            return None
        listener.misses += 1
        if listener.misses >= _MISSES:
            # A socket in the kernel's map that is never joined has only the drawbacks of it.
            listener.misses, listener.elsewhere_until = 0, now + _ELSEWHERE
            connection.engine.note_ports()
        return 'shortcut_backend_elsewhere'

    def _without_sk_skb(self, connection) -> str:
        """Return why the kernel does not hand on, '' when it does."""
        if connection.forward.path not in ('auto', 'sk_skb'):
            return 'sk_skb_forbidden'
        if self.ways.sk_skb is None:
            return 'sk_skb_unavailable'
        if connection.forward.path == 'auto' and self.ways.remote != 'sk_skb':
            return 'sk_skb_not_worth_it'
        try:
            self.ways.sk_skb.take(connection)
        except OSError:
            return 'sk_skb_refused'
        connection.engine.in_kernel(connection.kernel.cookies, connection)
        connection.wake()
        return ''
