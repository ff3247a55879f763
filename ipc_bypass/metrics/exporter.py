"""What the nodes said last, as metrics, for as long as it is fresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import threading
import time

from ipc_bypass.metrics.bypass import Flows, statistics_families
from ipc_bypass.metrics.families import gauge
from ipc_bypass.metrics.heard import Heard
from ipc_bypass.metrics.helpers import proxy_families, xdp_families

#: Prefix of `up` -> what it says.
_PARTS = {'': 'node', 'xdp_': 'node xdp_helper', 'proxy_': 'node sockmap_helper'}


class Exporter:
    """
    Takes messages of the nodes and turns them into metric families, from any thread.

    :param limit: most series of flows, and of endpoints
    :param stale_after: seconds without a message after which a node counts as gone; three
        periods of its topic, where that is longer
    :param publishers: called with '' (ipc_bypass), 'xdp_' or 'proxy_', returns how many
        publishers the node's topic has now
    :param port_of: as for bypass.Flows
    """

    def __init__(self, *, limit: int, stale_after: float, publishers: Callable[[str], int],
                 port_of: Callable | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._publishers = threading.Lock(), publishers
        self._heard = {part: Heard(stale_after, clock) for part in _PARTS}
        self._flows = Flows(limit, port_of)

    def take_statistics(self, message) -> None:
        """Take a BypassStatistics message."""
        with self._lock:
            self._heard[''].take(message)
            self._flows.take_endpoints(message)

    def take_flows(self, message) -> None:
        """Take a FlowArray message."""
        with self._lock:
            self._flows.take_flows(message)

    def take_xdp(self, message) -> None:
        """Take an XdpStatus message."""
        with self._lock:
            self._heard['xdp_'].take(message)

    def take_proxy(self, message) -> None:
        """Take a ProxyStatus message."""
        with self._lock:
            self._heard['proxy_'].take(message)

    def families(self) -> Iterator:
        """Return what is fresh; `up` is there always."""
        with self._lock:
            fresh = {part: heard.fresh(self._publishers(part))
                     for part, heard in self._heard.items()}
            found = [gauge(f'{part}up', f'1 where the {what} answers, 0 where not.',
                           [(float(fresh[part] is not None),)]) for part, what in _PARTS.items()]
            if fresh[''] is None:
                self._flows.forget()
            else:
                found += statistics_families(fresh[''])
                found += self._flows.families()
            if fresh['xdp_'] is not None:
                found += xdp_families(fresh['xdp_'])
            if fresh['proxy_'] is not None:
                found += proxy_families(fresh['proxy_'])
        return iter(found)
