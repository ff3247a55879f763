"""The short cut: far ends on this host are brought together by the TCP path's redirect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import logging

from ipc_bypass.rules.table import Rule
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings


@dataclass(frozen=True)
class ShortcutSettings:
    """
    Settings of the short cut.

    :param max_connections: that it has room for at once
    :param budget_bytes: that a far end may have redirected and unread
    :param total_budget_bytes: all of them together
    :param cgroup_path: cgroup v2 folder whose processes' sockets it sees; '': all
    """

    max_connections: int = 16_384
    budget_bytes: int = 64 << 20
    total_budget_bytes: int = 512 << 20
    cgroup_path: str = ''


class Shortcut:
    """
    A TCP path of the proxy's own, whose programs note the gateway's sockets.

    `pairs` is its tcp.gateway.GatewayPairs.

    :raises BypassError: from configure(), when the kernel or the process may not have it
    """

    def __init__(self, settings: ShortcutSettings, logger: logging.Logger | None = None) -> None:
        # Nothing is pinned: the gateway's sockets end with the process, and so do connections.
        # Without the guard: what it turns to pass would go by the gateway.
        self._path = TcpPath(TcpSettings(
            tcp_path='sk_msg', pin_directory='', cgroup_path=settings.cgroup_path,
            max_connections=settings.max_connections, budget_bytes=settings.budget_bytes,
            total_budget_bytes=settings.total_budget_bytes, guard_rate=0),
            logger, gateway=True)
        self.pairs = None

    def configure(self) -> None:
        """Load, and check this kernel; raises BypassError and leaves nothing then."""
        self._path.configure()
        self.pairs = self._path.pairs

    def activate(self) -> None:
        """Attach: connections that are established from now on are noted."""
        self._path.activate()

    def deactivate(self) -> None:
        """Have all bytes go by the gateway from now on."""
        self._path.deactivate()

    def close(self) -> None:
        """Release everything."""
        self._path.cleanup()
        self.pairs = None

    def set_ports(self, ports: Mapping[int, bool]) -> None:
        """
        Note connections to these ports from now on, and those that the gateway makes for them.

        :param ports: by port, whether the far ends are to be brought together
        """
        self._path.set_rules([Rule('tcp', port, port, 'gateway' if together else 'note', number)
                              for number, (port, together) in enumerate(sorted(ports.items()), 1)])

    @property
    def notes(self) -> list[str]:
        """Return what is not at its best, and why."""
        return self._path.notes

    def counters(self) -> dict[str, int]:
        """Return the TCP path's counters by name; see tcp.flows.Reader.counters."""
        return self._path.counters()

    def clear_counters(self) -> None:
        """Count from 0 again; nothing may be open."""
        self._path.clear_counters()

    def join(self, connection) -> bool:
        """Return whether both far ends of a paired connection are here; `joined` is set then."""
        ends = [self.pairs.far_end(each) for each in (connection.near, connection.beyond)]
        if None in ends:
            return False
        found = [(index, self._path.sent(index)[0]) for index in ends]
        connection.joined = Joined(self._path, found)
        return True


class Joined:
    """What the far ends of one connection send to each other, past the gateway."""

    def __init__(self, path: TcpPath, records: list[tuple[int, int]]) -> None:
        """Take the (index, established_ns) of both ends' records, the client's first."""
        self._path, self._records = path, records
        self._last = [0, 0]

    def moved(self) -> tuple[int, int]:
        """Return the bytes that were redirected, (to the backend, to the client)."""
        for place, record in enumerate(self._records):
            found = self._path.sent(*record)
            if found:
                self._last[place] = found[2]
        return tuple(self._last)

    def last_active(self) -> float:
        """Return when one of them last sent, by time.monotonic(); 0.0 where that is not known."""
        return max((found[1] for found in (self._path.sent(*each) for each in self._records)
                    if found), default=0.0)
