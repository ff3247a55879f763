"""
What rtnetlink says of links, addresses and forwarding tables, in this namespace and neighbours'.

A neighbour is a namespace that has a number in ours, as the kernel gives one to that at the
other end of a veth. Neither asking about it nor hearing of its changes needs a visit, or a socket
that would keep a namespace from ending.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import errno
import socket
import struct

from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.xdp.netlink import (
    attribute,
    attributes,
    head,
    messages,
    NetlinkError,
    NetlinkSocket,
    number_of,
    text_of,
)

# uapi/linux/rtnetlink.h
NEW_LINK, DEL_LINK, _GET_LINK = 16, 17, 18
NEW_ADDRESS, DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
NEW_NEIGHBOUR, _GET_NEIGHBOUR = 28, 30
NEW_QDISC, _GET_QDISC, _GET_FILTER = 36, 38, 46
#: Changes of links and addresses, here and at neighbours.
PLACES = 0x1 | 0x10 | 0x100
#: Changes of forwarding tables (and of neighbours, in the sense of ARP) and of traffic control.
TABLES = 0x4 | 0x8
# uapi/linux/netlink.h
_SOL_NETLINK, _LISTEN_ALL_NSID, _STRICT_CHECK = 270, 8, 12
# uapi/linux/if_link.h, uapi/linux/if_bridge.h
_ADDRESS, _NAME, _MTU, _LINK, _MASTER, _PROTINFO, _LINKINFO = 1, 3, 4, 5, 10, 12, 18
_LINK_NAMESPACE, _XDP, _TARGET_NAMESPACE = 37, 43, 46
_KIND, _DATA, _SLAVE_DATA = 1, 2, 5
_VLAN_FILTERING = 7
_STATE, _ISOLATED, _LOCKED = 1, 33, 39
_XDP_ATTACHED = 2
_UP = 0x1
# uapi/linux/if_addr.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_TARGET_NAMESPACE = 1, 2, 8, 10
_OPTIMISTIC, _FAILED, _TENTATIVE = 0x04, 0x08, 0x40
# uapi/linux/neighbour.h
_LLADDR, _NEIGHBOUR_MASTER, _PERMANENT = 2, 9, 0x80
AF_BRIDGE = 7
_LINK_HEADER = struct.Struct('=BxHiII')
_ADDRESS_HEADER = struct.Struct('=BBBBI')
_NEIGHBOUR_HEADER = struct.Struct('=BxxxiHBB')
_CONTROL_HEADER = struct.Struct('=BxxxiIII')
_MAPPED = bytes(10) + b'\xff\xff'
_ROOM = 1 << 18
FORWARDING = 3


@dataclass(frozen=True)
class Link:
    """
    What of an interface the fast path depends upon.

    `peer` and `peer_namespace` are the other end of a veth, the latter -1 where it is in the same
    namespace; `state` is the bridge port's (FORWARDING), -1 where it is none.
    """

    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    up: bool
    master: int
    peer: int
    peer_namespace: int
    xdp: bool
    vlan_filtering: bool
    state: int
    isolated: bool
    locked: bool


@dataclass(frozen=True)
class ForwardingEntry:
    """A line of a bridge's forwarding table; `local` is an address of the bridge itself."""

    bridge: int
    port: int
    mac: bytes
    local: bool


class Asking(NetlinkSocket):
    """Asks what there is; OSError where the kernel refuses."""

    def __init__(self) -> None:
        super().__init__()
        # Only so does a dump of addresses obey a neighbour's number (kernel 4.20).
        self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)

    def links(self) -> dict[int, Link]:
        """Return the links of this namespace by index."""
        return {link.index: link for link in map(
            parse_link, self.ask(_GET_LINK, _LINK_HEADER.pack(0, 0, 0, 0, 0), dump=True))}

    def link(self, index: int, namespace: int) -> Link | None:
        """Return a neighbour's link, None where it is gone."""
        try:
            answer, = self.ask(_GET_LINK, _LINK_HEADER.pack(0, 0, index, 0, 0)
                               + attribute(_TARGET_NAMESPACE, namespace))
        except NetlinkError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):
                return None
            raise
        return parse_link(answer)

    def addresses(self, namespace: int) -> dict[int, frozenset[bytes]]:
        """Return a neighbour's usable addresses by the link's index, IPv4 as ::ffff:a.b.c.d."""
        found: dict[int, set[bytes]] = {}
        try:
            answers = self.ask(_GET_ADDRESS, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0)
                               + attribute(_IFA_TARGET_NAMESPACE, namespace), dump=True)
        except NetlinkError as error:
            if error.errno != errno.EINVAL:
                raise
            return {}  # the namespace has just ended
        for index, address, usable in map(parse_address, answers):
            if usable:
                found.setdefault(index, set()).add(address)
        return {index: frozenset(there) for index, there in found.items()}

    def forwarding(self) -> list[ForwardingEntry]:
        """Return the forwarding tables of all bridges of this namespace."""
        found = map(parse_neighbour, self.ask(
            _GET_NEIGHBOUR, _NEIGHBOUR_HEADER.pack(AF_BRIDGE, 0, 0, 0, 0), dump=True))
        return [entry for entry in found if entry]

    def qdiscs(self) -> dict[int, set[str]]:
        """Return the kinds of queueing disciplines by the link's index."""
        found: dict[int, set[str]] = {}
        for body in self.ask(_GET_QDISC, _CONTROL_HEADER.pack(0, 0, 0, 0, 0), dump=True):
            index = head(_CONTROL_HEADER, body)[1]
            kind = text_of(attributes(body, _CONTROL_HEADER.size).get(1))
            found.setdefault(index, set()).add(kind)
        return found

    def filters(self, index: int, parent: int) -> list[dict]:
        """Return the filters at a place of a link: 'kind', 'handle', 'preference', 'name'."""
        found = []
        body = _CONTROL_HEADER.pack(0, index, 0, parent, 0)
        for answer in self.ask(_GET_FILTER, body, dump=True):
            _, _, handle, _, info = head(_CONTROL_HEADER, answer)
            said = attributes(answer, _CONTROL_HEADER.size)
            if handle:  # the others are the tables that hold them
                name = text_of(attributes(said.get(2, b'')).get(7))
                found.append({'kind': text_of(said.get(1)), 'handle': handle,
                              'preference': info >> 16, 'name': name})
        return found


class Listening:
    """
    Hears of changes.

    :param groups: PLACES or TABLES
    :param neighbours: hear of neighbours' changes too (CAP_NET_BROADCAST)
    """

    def __init__(self, groups: int, *, neighbours: bool) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            if neighbours:
                self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._socket.fileno()

    def take(self) -> Iterator[tuple[int, bytes, int] | None]:
        """
        Yield (type, body, number of the namespace) of what has come, -1 for our own namespace.

        None stands for messages that were lost because too many came at once.
        """
        while True:
            try:
                data, notes, _, _ = self._socket.recvmsg(_ROOM, 64)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            namespace = -1
            for level, kind, value in notes:
                if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
                    namespace, = struct.unpack('=i', value[:4])
            try:
                for number, _flags, _sequence, body in messages(data):
                    yield number, body, namespace
            except NetlinkError:
                yield None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def parse_link(body: bytes) -> Link:
    """Return the link of a message that is not of family AF_BRIDGE."""
    _, _, index, flags, _ = head(_LINK_HEADER, body)
    said = attributes(body, _LINK_HEADER.size)
    info = attributes(said.get(_LINKINFO, b''))
    data, port = attributes(info.get(_DATA, b'')), attributes(info.get(_SLAVE_DATA, b''))
    kind, master = text_of(info.get(_KIND)), number_of(said.get(_MASTER))
    return Link(
        index, printable(text_of(said.get(_NAME))), kind, said.get(_ADDRESS, b''),
        number_of(said.get(_MTU)), bool(flags & _UP), master,
        number_of(said.get(_LINK)) if kind == 'veth' else 0,
        number_of(said[_LINK_NAMESPACE]) if _LINK_NAMESPACE in said else -1,
        bool(number_of(attributes(said.get(_XDP, b'')).get(_XDP_ATTACHED))),
        kind == 'bridge' and bool(number_of(data.get(_VLAN_FILTERING))),
        *parse_port(port))


def parse_port(said: dict[int, bytes]) -> tuple[int, bool, bool]:
    """Return (state, isolated, locked) of IFLA_BRPORT_ attributes; -1 where it is no port."""
    return (number_of(said[_STATE]) if _STATE in said else -1,
            bool(number_of(said.get(_ISOLATED))), bool(number_of(said.get(_LOCKED))))


def family_and_index(body: bytes) -> tuple[int, int]:
    """Return the family and the link's index of a message about a link."""
    family, _, index, _, _ = head(_LINK_HEADER, body)
    return family, index


def port_of(body: bytes) -> tuple[int, bool, bool] | None:
    """Return what an AF_BRIDGE message about a link says as parse_port does, or None."""
    said = attributes(body, _LINK_HEADER.size).get(_PROTINFO)
    return None if said is None else parse_port(attributes(said))


def index_of_control(body: bytes) -> int:
    """Return the link's index of a message about traffic control."""
    return head(_CONTROL_HEADER, body)[1]


def parse_address(body: bytes) -> tuple[int, bytes, bool]:
    """Return (index of the link, address in 16 bytes, whether it takes packets in)."""
    family, _, flags, _, index = head(_ADDRESS_HEADER, body)
    said = attributes(body, _ADDRESS_HEADER.size)
    flags = number_of(said.get(_IFA_FLAGS), flags)
    raw = said.get(_IFA_LOCAL) or said.get(_IFA_ADDRESS) or b''
    usable = not flags & _FAILED and (not flags & _TENTATIVE or bool(flags & _OPTIMISTIC))
    return index, _MAPPED + raw if family == socket.AF_INET else raw, usable


def parse_neighbour(body: bytes) -> ForwardingEntry | None:
    """Return the line of a bridge's table, None where the message is about something else."""
    family, index, state, _, _ = head(_NEIGHBOUR_HEADER, body)
    if family != AF_BRIDGE:
        return None
    said = attributes(body, _NEIGHBOUR_HEADER.size)
    if _NEIGHBOUR_MASTER not in said:
        return None
    return ForwardingEntry(number_of(said[_NEIGHBOUR_MASTER]), index, said.get(_LLADDR, b''),
                           bool(state & _PERMANENT))
