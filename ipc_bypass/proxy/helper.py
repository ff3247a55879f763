"""The proxy as one object: its settings, its life, its forwards, and what it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
import random
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.proxy.choice import Ways
from ipc_bypass.proxy.endpoint import Endpoint, plain_address
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.forward import Forward
from ipc_bypass.proxy.shortcut import Shortcut, ShortcutSettings
from ipc_bypass.proxy.sk_skb import SkSkbPath
from ipc_bypass.proxy.status import ConnectionStatus, ForwardStatus, ProxyReport
from ipc_bypass.proxy.trial import try_out
from ipc_bypass.tcp.gateway import cookie_of
from ipc_bypass.xdp.managed import raise_open_files

#: Connections of a forward whose bytes are counted anew for one report.
_LOOKED_AT = 1000
KERNEL_PATHS = ('auto', 'never', 'required')


@dataclass(frozen=True)
class ProxySettings:
    """
    Settings of the proxy; the node's parameters of the same names.

    :param forwards: texts as Forward.parse takes them
    :param kernel_path: 'auto' (what can be had), 'never' (all in user space), 'required' (fail
        where the short cut cannot be had)
    :param path: of forwards that name none; likewise the four that follow
    :param health_interval_s: seconds without a connection after which a backend is asked; 0: never
    :param kernel_max_connections: that the kernel's maps take
    :param budget_bytes: that a far end may have redirected and unread
    :param total_budget_bytes: all far ends together
    :param cgroup_path: cgroup v2 folder whose sockets are seen; '': all
    """

    forwards: tuple[str, ...] = ()
    kernel_path: str = 'auto'
    path: str = 'auto'
    idle_timeout_s: float = 0.0
    connect_timeout_s: float = 5.0
    max_connections: int = 10_000
    proxy_protocol: bool = False
    health_interval_s: float = 5.0
    kernel_max_connections: int = 16_384
    budget_bytes: int = 64 << 20
    total_budget_bytes: int = 512 << 20
    cgroup_path: str = ''

    def __post_init__(self) -> None:
        """Refuse what makes no sense; raises BypassError."""
        if self.kernel_path not in KERNEL_PATHS:
            raise BypassError(f"use kernel_path '{self.kernel_path}'", 'there is no such choice',
                              next_step='use one of ' + ', '.join(KERNEL_PATHS))
        self.parsed()

    def defaults(self) -> Forward:
        """Return a forward with the options of those that name none."""
        return Forward(Endpoint('::', 1), Endpoint('::1', 1), self.path, self.idle_timeout_s,
                       self.connect_timeout_s, self.max_connections, self.proxy_protocol)

    def parsed(self) -> list[Forward]:
        """Return the forwards; raises ForwardError."""
        defaults = self.defaults().check()
        return [Forward.parse(text, defaults) for text in self.forwards]


class ProxyHelper:
    """
    The proxy of one network namespace; safe for several threads.

    :param settings: ProxySettings
    :param tell: called with one line for each thing that happened by itself, from any thread
    :param logger: for what the kernel path's parts say
    """

    def __init__(self, settings: ProxySettings, tell: Callable[[str], object] = lambda line: None,
                 logger=None) -> None:
        self.settings, self._tell, self._logger = settings, tell, logger
        self._ways, self._engine = Ways(), None

    def configure(self) -> None:
        """
        Load what the kernel is to do, check it, and see that each forward can listen.

        :raises BypassError: where a forward cannot be had, or what is required
        """
        raise_open_files()
        try:
            self._ways = self._find_ways()
            self._engine = Engine(self._ways, self._tell,
                                  health_interval_s=self.settings.health_interval_s)
            for forward in self.settings.parsed():
                self._engine.add(forward, 'parameter')
        except BaseException:
            self.close()
            raise

    def activate(self) -> None:
        """Listen; raises ForwardError where one cannot, and nothing listens then."""
        if self._ways.shortcut is not None:
            self._ways.shortcut.activate()
            with self._engine.listeners():  # what ended while nothing was attached is forgotten
                self._ways.shortcut.pairs.keep(map(cookie_of, self._engine.sockets()))
        try:
            self._engine.start()
        except BaseException:
            if self._ways.shortcut is not None:
                self._ways.shortcut.deactivate()
            raise

    def deactivate(self) -> None:
        """Listen no more; open connections go on, by way of this process, until they end."""
        self._engine.stop()
        if self._ways.shortcut is not None:
            self._ways.shortcut.deactivate()

    def close(self) -> None:
        """End every connection, and let go of everything."""
        engine, self._engine = self._engine, None
        ways, self._ways = self._ways, Ways()
        try:
            if engine is not None:
                engine.close()
        finally:
            _release(ways)

    def add(self, forward: Forward, backends: tuple[Endpoint, ...] = ()) -> int:
        """Forward from now on, see Engine.add; return the forward's id. Raises ForwardError."""
        return self._engine.add(forward, backends=backends).id

    def remove(self, identifier: int, close_connections: bool = False,
               origin: str = '') -> Forward:
        """Listen no more for a forward; raises ForwardError."""
        return self._engine.remove(identifier, close_connections=close_connections,
                                   origin=origin)

    def report(self) -> ProxyReport:
        """Return what there is now."""
        engine = self._engine
        if engine is None:
            return ProxyReport()
        ways, counters = self._ways, Counter()
        with engine.listeners() as listeners:
            forwards = tuple(_forward_status(each) for each in listeners)
            counters.update({f'fallback_{name}': count
                             for name, count in engine.fallbacks.items()})
            counters.update({f'ended_{name}': count
                             for name, count in engine.ended_by_path.items()})
            if ways.sk_skb is not None:
                counters.update({f'sk_skb_{name}': count
                                 for name, count in ways.sk_skb.counters().items()})
        if ways.shortcut is not None:
            counters.update({f'shortcut_{name}': count
                             for name, count in ways.shortcut.counters().items()})
        return ProxyReport(forwards, {'shortcut': ways.shortcut is not None,
                                      'sk_skb': ways.sk_skb is not None},
                           ways.remote, dict(ways.reasons), dict(counters))

    def connections(self, forward_id: int = 0, most: int = 1000) -> list[ConnectionStatus]:
        """Return open connections, of one forward or of all (0), so many at the most."""
        found: list[ConnectionStatus] = []
        with self._engine.listeners() as listeners:
            for listener in listeners:
                if forward_id in (0, listener.id):
                    for connection in list(listener.connections)[:most - len(found)]:
                        found.append(_connection_status(self._engine, connection))
        return found

    # Inside -----------------------------------------------------------------------------------

    def _find_ways(self) -> Ways:
        settings, ways = self.settings, Ways()
        if settings.kernel_path == 'never':
            ways.reasons = dict.fromkeys(('shortcut', 'sk_skb'),
                                         'forbidden by parameter kernel_path')
            return ways
        shortcut = Shortcut(ShortcutSettings(
            settings.kernel_max_connections, settings.budget_bytes, settings.total_budget_bytes,
            settings.cgroup_path), self._logger)
        try:
            shortcut.configure()
        except BypassError as error:
            if settings.kernel_path == 'required':
                raise
            ways.reasons = {'shortcut': str(error),
                            'sk_skb': 'it needs the programs of the short cut'}
            self._tell(f'connections are moved in user space: {error}')
            return ways
        ways.shortcut = shortcut
        if shortcut.notes:
            ways.reasons['shortcut'] = '; '.join(shortcut.notes)
        try:
            self._find_sk_skb(ways)
        except BaseException:
            _release(ways)
            raise
        return ways

    def _find_sk_skb(self, ways: Ways) -> None:
        path = None
        try:
            path = SkSkbPath(self.settings.kernel_max_connections,
                             ways.shortcut.pairs)
            # For the trial's sockets alone: nothing listens yet.
            ways.shortcut.activate()
            try:
                ways.remote, ways.reasons['sk_skb'] = try_out(ways.shortcut, path)
            finally:
                ways.shortcut.set_ports({})
                ways.shortcut.deactivate()
                path.clear()
                ways.shortcut.clear_counters()
        except BypassError as error:
            if path is not None:
                path.close()
            ways.reasons['sk_skb'] = str(error)
            return
        ways.sk_skb = path


def _release(ways: Ways) -> None:
    try:
        if ways.sk_skb is not None:
            ways.sk_skb.close()
    finally:
        if ways.shortcut is not None:
            ways.shortcut.close()


def _forward_status(listener) -> ForwardStatus:
    opened, counters = Counter(), Counter(listener.counters)
    connections = list(listener.connections)
    # Nothing moves meanwhile: of very many, some are looked at each time.
    for connection in connections if len(connections) <= _LOOKED_AT else random.sample(
            connections, _LOOKED_AT):
        connection.known = connection.moved()
    for connection in connections:
        opened[connection.path] += 1
        counters['bytes_onward'] += connection.known[0]
        counters['bytes_back'] += connection.known[1]
    return ForwardStatus(
        listener.id, listener.forward, listener.origin, listener.listening, listener.retired,
        listener.health, listener.health_reason, listener.health_since,
        tuple(map(str, listener.backends)), dict(opened), dict(counters), listener.last_error)


def _connection_status(engine, connection) -> ConnectionStatus:
    onward, back = connection.moved()
    now = time.monotonic()
    return ConnectionStatus(
        connection.listener.id, _peer(connection.near),
        _peer(connection.beyond) or str(connection.forward.backend),
        connection.path, connection.reason, now - connection.begun,
        max(0.0, now - max(connection.active, engine.last_active(connection))), onward, back)


def _peer(sock) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, AttributeError):
        return ''
    return str(Endpoint(plain_address(host), port))
