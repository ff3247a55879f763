"""What the proxy shows: forwards, connections, and which way they take."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipc_bypass.proxy.forward import Forward

#: Paths that an open connection may be on.
PATHS = ('connecting', 'splice', 'sk_skb', 'shortcut')


@dataclass(frozen=True)
class ForwardStatus:
    """
    One forward.

    `open` are its connections by path, `counters` as Listener.counters, with bytes_onward and
    bytes_back of open connections, too; `health` 'unknown', 'up' or 'down' since a time in
    seconds of the epoch; `backends` the addresses that are tried, one after the other.
    """

    id: int  # noqa: A003
    forward: Forward
    origin: str
    listening: bool
    retired: bool
    health: str
    health_reason: str
    health_since: float
    backends: tuple[str, ...]
    open: dict[str, int]  # noqa: A003
    counters: dict[str, int]
    last_error: str = ''


@dataclass(frozen=True)
class ConnectionStatus:
    """One open connection; times in seconds, bytes (to the backend, to the client)."""

    forward_id: int
    client: str
    backend: str
    path: str
    reason: str
    age_s: float
    idle_s: float
    bytes_onward: int
    bytes_back: int


@dataclass(frozen=True)
class ProxyReport:
    """
    The whole proxy.

    `ways` says for each of 'shortcut' and 'sk_skb' whether it can be had, `reasons` why not, or
    with which limits; `remote` is what connections with an end elsewhere take. `counters` are
    connections by what kept them from a faster way (fallback_REASON), connections that ended by
    path (ended_PATH), and what the kernel's programs did (shortcut_* and sk_skb_*).
    """

    forwards: tuple[ForwardStatus, ...] = ()
    ways: dict[str, bool] = field(default_factory=dict)
    remote: str = 'splice'
    reasons: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what is not as it should be, a line each."""
        return tuple(f'forward {each.id}: {each.forward.backend} is down: {each.health_reason}'
                     for each in self.forwards if each.health == 'down' and each.listening)
