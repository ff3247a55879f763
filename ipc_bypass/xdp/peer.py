"""The other end of a veth, also where it is in another network namespace."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import struct
import threading
from typing import TypeVar

from ipc_bypass.kernel.namespaces import enter, network_namespaces, NetworkNamespace
from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.interfaces import find_index, Interface, namespace_inode
from ipc_bypass.xdp.netlink import attribute, attributes, NetlinkSocket

# uapi/linux/rtnetlink.h, uapi/linux/net_namespace.h
_RTM_GETNSID, _NSID, _FD = 90, 1, 3
_Answer = TypeVar('_Answer')


def peer(interface: Interface) -> Interface | None:
    """
    Return the other end of a veth, None where there is none that may be seen.

    Another namespace is not entered for it, so that the driver is what the kind says and the
    queues are those that it was made with. Its peer number is not of this namespace.
    """
    if not interface.peer_index:
        return None
    with contextlib.suppress(InterfaceError, OSError):
        return find_index(interface.peer_index, interface.peer_namespace_id)
    return None


def peer_namespace(interface: Interface) -> NetworkNamespace | None:
    """
    Return the namespace of a veth's other end, None where it cannot be found.

    It can where a process of this host lives in it, or where it has a name.
    """
    if not interface.peer_index:
        return None
    found = network_namespaces()
    if interface.peer_namespace_id < 0:
        here = namespace_inode()
        return found.get(here, NetworkNamespace(here, '/proc/thread-self/ns/net', 0))
    with NetlinkSocket() as route:
        for namespace in found.values():
            if _number(route, namespace.path) == interface.peer_namespace_id:
                return namespace
    return None


def inside(namespace: NetworkNamespace, function: Callable[[], _Answer]) -> _Answer:
    """
    Return what a function answers in a namespace, called in a thread that enters it and ends.

    :raises OSError: when it cannot be entered, or ended meanwhile; and what the function raises
    """
    answers: list[_Answer] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace.path)
            if namespace_inode() != namespace.inode:
                raise FileNotFoundError(f'the network namespace {namespace.inode} is gone')
            answers.append(function())
        except BaseException as error:
            failures.append(error)

    if namespace_inode() == namespace.inode:
        return function()
    thread = threading.Thread(target=run, name='xdp-peer')
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]


def _number(route: NetlinkSocket, path: str) -> int:
    """Return the number that a namespace has in this one, -1 for none."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # struct rtgenmsg: the family, and padding.
            answer, = route.ask(_RTM_GETNSID, bytes(4) + attribute(_FD, fd))
        finally:
            os.close(fd)
        return struct.unpack('=i', attributes(answer, 4)[_NSID])[0]
    return -1
