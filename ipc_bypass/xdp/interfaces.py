"""Interfaces of the calling thread's network namespace: by name, by glob, by bridge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import contextlib
from dataclasses import dataclass
import errno
from fnmatch import fnmatchcase
import os
import re
import struct

from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.ethtool import Ethtool
from ipc_bypass.xdp.netlink import (
    attribute,
    attributes,
    head,
    NetlinkError,
    NetlinkSocket,
    number_of,
    text_of,
)

# uapi/linux/rtnetlink.h, uapi/linux/if_link.h, uapi/linux/if.h, uapi/linux/if_arp.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _LINKINFO, _EXT_MASK = 1, 3, 4, 5, 10, 18, 29
_TX_QUEUES, _RX_QUEUES, _LINK_NAMESPACE, _XDP, _TARGET_NAMESPACE = 31, 32, 37, 43, 46
_INFO_KIND = 1
_XDP_ATTACHED, _XDP_PROGRAM = 2, 4
# Which attribute has the program of each mode, where several are attached.
_XDP_PROGRAMS = {5: 'native', 6: 'generic', 7: 'offload'}
#: XDP_ATTACHED_*: the mode, '' where nothing is attached.
_MODES = ('', 'native', 'generic', 'offload', 'several')
_UP, _LOOPBACK = 1, 772
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_INFO = struct.Struct('=BxHiII')  # struct ifinfomsg: family, type, index, flags, change
_WRONG_NAME = re.compile(r'[/\s]|^\.\.?$')
_LONGEST = 15


@dataclass(frozen=True)
class Interface:
    """
    One interface, as it was when it was looked at.

    `kind` is what `ip -d link` calls it ('veth', 'bridge', ...), 'physical' or 'loopback'; queues
    are those in use; `peer_index` is that of the other end of a veth, in the namespace that
    `peer_namespace_id` numbers (-1: this one), 0 where there is none; `master` is the index of
    the bridge or bond that it belongs to, or 0. `xdp_mode` is '' where no program is attached,
    'several' where more than one is.
    """

    name: str
    index: int
    kind: str
    driver: str
    mtu: int
    mac: bytes
    rx_queues: int
    tx_queues: int
    peer_index: int
    peer_namespace_id: int
    master: int
    up: bool
    xdp_program_id: int
    xdp_mode: str


def find(name: str) -> Interface:
    """
    Return the interface of that name.

    :raises InterfaceError: when there is none
    """
    return _find(_name_attribute(name), f'find the interface {name}')


def find_index(index: int, namespace_id: int = -1) -> Interface:
    """
    Return the interface with an index.

    :param namespace_id: the number that a neighbouring namespace has in this one; -1: this one
    :raises InterfaceError: when there is none, or the neighbour's may not be read
    """
    where = '' if namespace_id < 0 else f' of the neighbouring namespace {namespace_id}'
    return _find(b'', f'find interface {index}{where}', index, namespace_id)


def _find(wanted: bytes, what: str, index: int = 0, namespace_id: int = -1) -> Interface:
    if namespace_id >= 0:
        wanted += attribute(_TARGET_NAMESPACE, namespace_id)
    with NetlinkSocket() as route, Ethtool() as ethtool:
        try:
            content, = route.ask(RTM_GETLINK, link_body(index) + wanted)
        except NetlinkError as error:
            gone = error.errno in (errno.ENODEV, errno.EINVAL) and not error.said
            raise InterfaceError(
                what, 'there is none in this network namespace' if gone else error.strerror,
                errno=error.errno, next_step='see: ip link' if namespace_id < 0 else '') from None
        # The ioctl of ethtool knows this namespace only.
        return parse(content, ethtool if namespace_id < 0 else None)


def find_index_by(route: NetlinkSocket, index: int) -> Interface:
    """Return the interface with an index in a socket's namespace; raises NetlinkError."""
    content, = route.ask(RTM_GETLINK, link_body(index))
    return parse(content)


def link_body(index: int) -> bytes:
    """Return how a request begins that is about one interface, or about all for 0."""
    return _INFO.pack(0, 0, index, 0, 0)


def interfaces() -> list[Interface]:
    """Return every interface of this network namespace, by index."""
    with NetlinkSocket() as route, Ethtool() as ethtool:
        body = link_body(0) + attribute(_EXT_MASK, _SKIP_STATISTICS)
        found = [parse(content, ethtool) for content in route.ask(RTM_GETLINK, body, dump=True)]
    return sorted(found, key=lambda interface: interface.index)


def select(patterns: Sequence[str], *, allow_none: bool = False) -> list[Interface]:
    """
    Return the interfaces that patterns name, each once, by index.

    A pattern is an exact name, a glob ('veth*', which leaves loopbacks out), or 'bridge:br0': the
    veths that are ports of that bridge (which may be a glob, too).

    :param allow_none: that a pattern names nothing now is no error
    :raises InterfaceError: when a pattern makes no sense, or names nothing
    """
    check_patterns(patterns)
    present = interfaces()
    if not allow_none:
        for pattern in patterns:
            if not matching([pattern], present):
                raise _names_nothing(pattern, present)
    return matching(patterns, present)


def matching(patterns: Iterable[str], present: Sequence[Interface]) -> list[Interface]:
    """
    Return those of the interfaces that patterns name, in their order.

    One whose name cannot be shown (the kernel lets it be almost any bytes) is named by none.
    """
    present = [interface for interface in present if interface.name.isprintable()]
    wanted = set()
    for pattern in patterns:
        wanted.update(interface.index for interface in _matching(pattern, present))
    return [interface for interface in present if interface.index in wanted]


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise InterfaceError for no pattern at all, or for one that can name no interface."""
    if isinstance(patterns, str) or not patterns:
        raise InterfaceError('choose interfaces', 'no name is given',
                             next_step="give names, globs as 'veth*', or 'bridge:br0'")
    for pattern in patterns:
        reason = _nonsense(pattern)
        if reason:
            raise InterfaceError(f'choose interfaces by {pattern!r}', reason, errno=errno.EINVAL,
                                 next_step="write a name, a glob as 'veth*', or 'bridge:br0'")


def namespace_inode() -> int:
    """Return the inode of the network namespace in which this thread is."""
    return os.stat('/proc/thread-self/ns/net').st_ino


def parse(content: bytes, ethtool: Ethtool | None = None) -> Interface:
    """
    Return the interface that the body of an RTM_NEWLINK or RTM_DELLINK message tells of.

    :param ethtool: asked for the driver and the queues in use; without it the driver is what
        the kind says, and queues are those that the interface was made with
    """
    _family, hardware, index, flags, _change = head(_INFO, content)
    told = attributes(content, _INFO.size)
    name = text_of(told.get(_IFNAME))
    kind = text_of(attributes(told.get(_LINKINFO, b'')).get(_INFO_KIND))
    driver, rx, tx = kind, number_of(told.get(_RX_QUEUES), 1), number_of(told.get(_TX_QUEUES), 1)
    if ethtool is not None:
        with contextlib.suppress(OSError):  # it may be gone already
            driver = ethtool.driver(name) or kind
            channels = ethtool.channels(name)
            rx, tx = channels.receiving or rx, channels.sending or tx
    is_veth = kind == 'veth'
    program, mode = _xdp(told.get(_XDP, b''))
    return Interface(
        name, index, kind or ('loopback' if hardware == _LOOPBACK else 'physical'), driver,
        number_of(told.get(_MTU)), told.get(_ADDRESS, b''), rx, tx,
        number_of(told.get(_LINK)) if is_veth else 0,
        number_of(told[_LINK_NAMESPACE]) if is_veth and _LINK_NAMESPACE in told else -1,
        number_of(told.get(_MASTER)), bool(flags & _UP), program, mode)


def _xdp(block: bytes) -> tuple[int, str]:
    """Return (id, mode) of the program in IFLA_XDP; of several, the one that runs first."""
    told = attributes(block)
    mode = _MODES[min(number_of(told.get(_XDP_ATTACHED)), len(_MODES) - 1)]
    program = number_of(told.get(_XDP_PROGRAM))
    if mode == 'several':
        program = next((number_of(told[kind]) for kind in _XDP_PROGRAMS if kind in told), 0)
    return program, mode


def _name_attribute(name: str) -> bytes:
    reason = _nonsense(name) or ('it is a pattern' if _is_pattern(name) else '')
    if reason:
        raise InterfaceError(f'find the interface {name!r}', reason, errno=errno.EINVAL,
                             next_step='see: ip link')
    return attribute(_IFNAME, _encoded(name) + b'\0')


def _encoded(name: str) -> bytes:
    """Return a name as the kernel has it: bytes that are no UTF-8 come as lone surrogates."""
    return name.encode('utf-8', 'surrogateescape')


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in '*?[')


def _nonsense(pattern: object) -> str:
    """Return why a pattern can name no interface, '' where it can."""
    if not isinstance(pattern, str) or not pattern:
        return 'it is empty'
    name = pattern.removeprefix('bridge:')
    if not name:
        return 'it names no bridge'
    if _WRONG_NAME.search(name):
        return 'names of interfaces have no slash and no white space'
    if ':' in name:
        return 'only bridge: can stand before a name'
    if not _is_pattern(name) and len(_encoded(name)) > _LONGEST:
        return f'names of interfaces have at most {_LONGEST} bytes'
    return ''


def _matching(pattern: str, present: Sequence[Interface]) -> list[Interface]:
    if pattern.startswith('bridge:'):
        bridges = {bridge.index for bridge in _bridges(pattern, present)}
        return [interface for interface in present
                if interface.kind == 'veth' and interface.master in bridges]
    if _is_pattern(pattern):
        return [interface for interface in present
                if interface.kind != 'loopback' and fnmatchcase(interface.name, pattern)]
    return [interface for interface in present if interface.name == pattern]


def _bridges(pattern: str, present: Sequence[Interface]) -> list[Interface]:
    name = pattern.removeprefix('bridge:')
    return [interface for interface in present
            if interface.kind == 'bridge' and fnmatchcase(interface.name, name)]


def _names_nothing(pattern: str, present: Sequence[Interface]) -> InterfaceError:
    reason = 'there is none in this network namespace'
    next_step = 'there are: ' + ', '.join(
        interface.name for interface in present if interface.name.isprintable())
    if pattern.startswith('bridge:'):
        name = pattern.removeprefix('bridge:')
        if _bridges(pattern, present):
            reason, next_step = 'the bridge has no veth among its ports', 'see: bridge link'
        elif any(interface.name == name for interface in present):
            reason, next_step = f'{name} is no bridge', 'see: ip link show type bridge'
        else:
            reason, next_step = 'there is no such bridge', 'see: ip link show type bridge'
    return InterfaceError(f'choose interfaces by {pattern!r}', reason, errno=errno.ENODEV,
                          next_step=next_step)
