"""
Raw sockets in other network namespaces: they send IP packets as these are.

A socket belongs to the namespace in which it was made, and entering one concerns a thread alone:
each look into another namespace is made in a thread of its own that ends at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import contextlib
import errno
import os
import socket
import threading
import time

from ipc_bypass.kernel.namespaces import enter
from ipc_bypass.udp.fragments import fragments
from ipc_bypass.udp.packets import addresses

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

# uapi/asm-generic/socket.h, linux/in.h, linux/in6.h; Python has no names for these.
_SO_SNDBUFFORCE = 32
_MTU_OPTION = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}
#: Bytes: several of the largest datagrams, and what the kernel adds to each.
_SEND_BUFFER = 1 << 22


class RawSockets:
    """
    One raw socket a namespace and family, made when first needed; thread-safe.

    An open socket keeps its namespace alive: those not used lately go with `trim`.

    :param exempt: called with each socket that will send
    :param most: sockets that are open at once; the one unused for longest goes
    """

    def __init__(self, exempt: Callable[[socket.socket], object], most: int = 16) -> None:
        self._exempt, self._most = exempt, most
        self._lock = threading.RLock()
        self._open: OrderedDict[tuple[int, int], list] = OrderedDict()
        self._scopes: OrderedDict[tuple[int, bytes], int | None] = OrderedDict()

    def send(self, path: str, packet: bytes, scope: int = 0) -> None:
        """
        Send a packet of `packets.build_packet` from a namespace, in fragments if need be.

        :param path: file of the namespace, as /proc/PID/ns/net
        :param scope: interface of a link-local IPv6 destination
        :raises OSError: as of setns(2), socket(2) and sendto(2); nothing is waited for
        """
        family = packet[0] >> 4
        destination = socket.inet_ntop(FAMILIES[family], addresses(packet)[1])
        target = (destination, 0) if family == 4 else (destination, 0, 0, scope)
        with self._lock:
            sock = self._socket(path, family)
            try:
                sock.sendto(packet, target)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                mtu = inside(path, lambda: _route_mtu(family, target))
                pieces = fragments(packet, mtu)
                if len(pieces) == 1:
                    raise
                for piece in pieces:
                    sock.sendto(piece, target)

    def scope(self, path: str, address: bytes) -> int | None:
        """
        Return the interface of a link-local address, 0 for others, None where it is not there.

        :param path: file of the namespace in which it is looked for
        :param address: 4 or 16 bytes
        :raises OSError: as of setns(2)
        """
        key = os.stat(path).st_ino, address
        with self._lock:
            if key not in self._scopes:
                self._scopes[key] = inside(path, lambda: _scope_here(address))
                if len(self._scopes) > 64 * self._most:
                    self._scopes.popitem(last=False)
            return self._scopes[key]

    def trim(self, idle: float = 5.0) -> None:
        """Close the sockets that sent nothing for `idle` seconds, and forget addresses."""
        with self._lock:
            now = time.monotonic()
            for key in [key for key, (_, used) in self._open.items() if now - used >= idle]:
                self._open.pop(key)[0].close()
            self._scopes.clear()

    def close(self) -> None:
        """Close every socket; a later send opens what it needs."""
        self.trim(0.0)

    def __len__(self) -> int:
        """Return how many sockets are open."""
        return len(self._open)

    def _socket(self, path, family):
        key = os.stat(path).st_ino, family
        found = self._open.pop(key, None)
        if found is None:
            sock = inside(path, lambda: socket.socket(
                FAMILIES[family], socket.SOCK_RAW, socket.IPPROTO_RAW))
            try:
                sock.setblocking(False)
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
                self._exempt(sock)
            except BaseException:
                sock.close()
                raise
            found = [sock, 0.0]
        found[1] = time.monotonic()
        self._open[key] = found
        if len(self._open) > self._most:
            self._open.popitem(last=False)[1][0].close()
        return found[0]


def inside(path: str, function: Callable):
    """Return what `function()` returns in a thread that is in a namespace; raises what it does."""
    answer: list = []

    def run():
        try:
            enter(path)
            answer.append((function(), None))
        except BaseException as error:
            answer.append((None, error))
    thread = threading.Thread(target=run, name='in-namespace')
    thread.start()
    thread.join()
    value, error = answer[0]
    if error is not None:
        raise error
    return value


def _route_mtu(family, target):
    """Return the MTU of the way to an address, in bytes, path MTU discovery counted in."""
    with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as probe:
        probe.connect((target[0], 9, *target[2:]))  # sends nothing
        return probe.getsockopt(*_MTU_OPTION[family])


def _scope_here(address):
    if address[:1] == b'\xfe' and len(address) == 16 and address[1] & 0xc0 == 0x80:
        with open('/proc/thread-self/net/if_inet6', encoding='ascii') as stream:
            lines = [line.split() for line in stream]
        return next((int(fields[1], 16) for fields in lines if fields[0] == address.hex()), None)
    family = FAMILIES[4 if len(address) == 4 else 6]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((socket.inet_ntop(family, address), 0))
        except OSError:
            return None
    return 0
