"""
Who is where: the ports of bridges, and the containers behind them.

What a container has is read of its own interface, at the other end of the veth: neither a
frame's word nor the neighbour table's is enough to send past the bridge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ipc_bypass.xdp.fast_path.rtnetlink import Asking, FORWARDING, ForwardingEntry, Link

#: FAST_ADDRESSES of bpf/tc_fast_path.h.
MOST_ADDRESSES = 8
_EGRESS_PLAIN = {'noqueue'}
_HOOKS = {'clsact', 'ingress'}


@dataclass(frozen=True)
class Container:
    """
    An interface at the other end of a bridge's veth.

    `namespace` is the number of its network namespace in ours, `index` the interface's there;
    addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d, sorted.
    """

    namespace: int
    index: int
    mac: bytes
    mtu: int
    addresses: tuple[bytes, ...]


@dataclass(frozen=True)
class BridgePort:
    """
    A port of a bridge.

    `container` is None and `obstacle` says why where its frames can only be looked at; with an
    obstacle nothing is handed over from it or to it.
    """

    index: int
    name: str
    bridge: int
    bridge_name: str
    container: Container | None
    obstacle: str


@dataclass(frozen=True)
class Picture:
    """All that was read at one time; links by (number of the namespace or -1, index)."""

    ports: dict[int, BridgePort]
    links: dict[tuple[int, int], Link]
    addresses: dict[tuple[int, int], frozenset[bytes]]


def read(asking: Asking, bridges: Iterable[str], traffic_control: Callable[[Link, set[str]], str],
         *, past_xdp: bool = True) -> Picture:
    """
    Return the ports of the bridges that these globs name.

    :param traffic_control: function of a Link and the kinds of queueing disciplines there: what
        else decides about frames at that port, '' where nothing does
    :param past_xdp: whether frames would go past an XDP program in the container
    :raises OSError: the kernel refused to tell
    """
    here = asking.links()
    named = {link.index: link for link in here.values() if link.kind == 'bridge'
             and any(fnmatchcase(link.name, pattern) for pattern in bridges)}
    ports = [link for link in here.values() if link.master in named]
    links = {(-1, link.index): link for link in (*named.values(), *ports)}
    addresses: dict[tuple[int, int], frozenset[bytes]] = {}
    for namespace in {port.peer_namespace for port in ports if port.peer_namespace >= 0}:
        for index, there in asking.addresses(namespace).items():
            addresses[namespace, index] = there
    qdiscs = asking.qdiscs() if ports else {}
    found = {}
    for port in ports:
        peer, where = None, (port.peer_namespace, port.peer)
        if port.kind == 'veth' and port.peer_namespace >= 0:
            peer = asking.link(port.peer, port.peer_namespace)
            if peer:
                links[where] = peer
        obstacle = _bridge_obstacle(named[port.master]) or _port_obstacle(port) \
            or _peer_obstacle(peer, past_xdp) \
            or traffic_control(port, qdiscs.get(port.index, set()))
        container = None if obstacle else Container(
            *where, peer.mac, min(port.mtu, peer.mtu),
            tuple(sorted(addresses.get(where, ()))[:MOST_ADDRESSES]))
        found[port.index] = BridgePort(port.index, port.name, port.master,
                                       named[port.master].name, container, obstacle)
    return Picture(_without_conflicts(found, asking.forwarding() if found else ()), links,
                   addresses)


def conflicts(port: BridgePort, entry: ForwardingEntry) -> bool:
    """Return whether a bridge's table says that a port's container is elsewhere."""
    return port.container is not None and entry.mac == port.container.mac \
        and entry.bridge == port.bridge and (entry.local or entry.port != port.index)


def other_traffic_control(kinds: set[str]) -> str:
    """Return what queueing discipline of a port frames would miss, '' for none."""
    strange = sorted(kinds - _EGRESS_PLAIN - _HOOKS)
    return f'it has a queueing discipline of its own ({strange[0]})' if strange else ''


def _without_conflicts(ports: dict[int, BridgePort],
                       table: Iterable[ForwardingEntry]) -> dict[int, BridgePort]:
    """Take out the containers of which it is not sure where they are."""
    macs = Counter((port.bridge, port.container.mac) for port in ports.values()
                   if port.container)
    # What the bridge has learned of a MAC that is not unique means nothing.
    elsewhere = {(entry.bridge, entry.mac, entry.port if not entry.local else 0)
                 for entry in table}
    of_mac: dict[tuple[int, bytes], set[int]] = {}
    for bridge, mac, port in elsewhere:
        of_mac.setdefault((bridge, mac), set()).add(port)
    found = {}
    for index, port in ports.items():
        obstacle = ''
        if port.container:
            where = port.bridge, port.container.mac
            if macs[where] > 1:
                obstacle = 'another container of the bridge has the same MAC'
            elif of_mac.get(where, {index}) != {index}:
                obstacle = "the bridge's forwarding table has its MAC elsewhere"
        found[index] = port if not obstacle else BridgePort(
            index, port.name, port.bridge, port.bridge_name, None, obstacle)
    return found


def _bridge_obstacle(bridge: Link) -> str:
    if bridge.vlan_filtering:
        return 'the bridge filters by VLAN'
    return '' if bridge.up else 'the bridge is down'


def _port_obstacle(port: Link) -> str:
    if port.kind != 'veth':
        return f'it is no veth but {port.kind or "a device"}'
    if port.peer_namespace < 0:
        return 'its other end is in the same network namespace'
    if port.isolated:
        return 'the port is isolated'
    if port.locked:
        return 'the port is locked'
    if not port.up or port.state != FORWARDING:
        return 'the port does not forward'
    return ''


def _peer_obstacle(peer: Link | None, past_xdp: bool) -> str:
    if peer is None:
        return 'its other end cannot be read'
    if not peer.up:
        return 'the interface in the container is down'
    if peer.master:
        return 'the interface in the container belongs to a bridge or bond there'
    if peer.xdp and past_xdp:
        # It runs before the place where frames are handed over.
        return 'the interface in the container has an XDP program'
    if len(peer.mac) != 6 or peer.mac[0] & 1:
        return 'the interface in the container has no usable MAC'
    return ''
