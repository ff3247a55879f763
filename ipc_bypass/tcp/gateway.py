"""
The ends beyond a proxy of ours: which of the gateway's sockets belong together.

For each connection that goes through it a gateway has two sockets. The program notes them when
they are established (bpf/tcp_gateway.bpf.h); here the gateway says which two are one connection.
From then on each far end sends into the other's queue, as soon as the program has seen, at the
moment of a send, that nothing of that direction is left on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from dataclasses import dataclass
import socket
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.tcp.objects import TcpObjects

_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
_U64 = struct.Struct('=Q')


@dataclass(frozen=True)
class Beginning:
    """A socket when it was established: where the kernel has it, and the first bytes' numbers."""

    socket_address: int
    sent_sequence: int
    received_sequence: int


class GatewayPairs:
    """The pairs of one TcpObjects that was loaded with `gateway`; for one thread at a time."""

    def __init__(self, objects: TcpObjects) -> None:
        maps = objects.maps
        self._ends, self._keys = maps['gateway_ends'], maps['gateway_keys']
        self._sockets, self._entered = maps['gateway_sockets'], maps['ends']

    def announce(self, sock: socket.socket, port: int) -> None:
        """
        Say that a socket is about to connect to a backend, before it does.

        :param port: that the gateway listens on; 0: the socket, and its peer, stay as they are
        :raises OSError: ENOSPC or E2BIG when there are as many as the maps take
        """
        syscall.map_update(self._sockets.fd, _U64.pack(cookie_of(sock)), _U64.pack(port))

    def pair(self, near: socket.socket, beyond: socket.socket, own_bytes: int = 0) -> bool:
        """
        Have the far ends of two established sockets of the gateway brought together, for good.

        :param own_bytes: that the gateway wrote to `beyond` by itself, before anything else
        :returns: False where the program did not note them both: it goes by the gateway then
        :raises OSError: when a map cannot be written
        """
        keys = [self._key(each) for each in (near, beyond)]
        if None in keys:
            return False
        ends = [syscall.map_lookup(self._ends.fd, key, self._ends.value_size) for key in keys]
        if None in ends:
            return False
        # `beyond` first: the program looks at its own bytes by way of `near`.
        for place, own in ((1, own_bytes), (0, 0)):
            value = self._ends.value.unpack(ends[place])
            value |= {'other_key': self._ends.key.unpack(keys[1 - place]), 'paired': 1,
                      'own_bytes': own}
            syscall.map_update(self._ends.fd, keys[place], self._ends.value.pack(value))
        return True

    def far_end(self, sock: socket.socket) -> int | None:
        """Return the index of the flow record of a socket's peer, None where it has none."""
        key = self._key(sock)
        found = key and syscall.map_lookup(self._entered.fd, self._mirrored(key),
                                           self._entered.value_size)
        return self._entered.value.unpack(found)['flow_index'] if found else None

    def began(self, sock: socket.socket) -> Beginning | None:
        """Return how a socket of the gateway began, None where the program did not note it."""
        key = self._key(sock)
        found = key and syscall.map_lookup(self._ends.fd, key, self._ends.value_size)
        if not found:
            return None
        numbers = self._ends.key.unpack(key)
        return Beginning(self._ends.value.unpack(found)['socket_address'],
                         numbers['sent_sequence'], numbers['received_sequence'])

    def forget(self, sock: socket.socket) -> None:
        """Forget a socket that could not connect."""
        with contextlib.suppress(OSError):
            syscall.map_delete(self._sockets.fd, _U64.pack(cookie_of(sock)))

    def count(self) -> int:
        """Return how many of the gateway's sockets are noted."""
        return len(list(syscall.map_keys(self._keys.fd, _U64.size)))

    def keep(self, cookies: Iterable[int]) -> None:
        """Forget all but these: those that closed while nothing was attached."""
        kept = {*cookies}
        for packed, key in list(syscall.map_items(self._keys.fd, 8, self._keys.value_size)):
            if _U64.unpack(packed)[0] not in kept:
                for entry, name in ((self._ends, key), (self._keys, packed),
                                    (self._sockets, packed)):
                    with contextlib.suppress(OSError):
                        syscall.map_delete(entry.fd, name)

    def _key(self, sock: socket.socket) -> bytes | None:
        return syscall.map_lookup(self._keys.fd, _U64.pack(cookie_of(sock)),
                                  self._keys.value_size)

    def _mirrored(self, key: bytes) -> bytes:
        values = self._ends.key.unpack(key)
        return self._ends.key.pack({
            'local_address': values['remote_address'], 'remote_address': values['local_address'],
            'local_port': values['remote_port'], 'remote_port': values['local_port'],
            'sent_sequence': values['received_sequence'],
            'received_sequence': values['sent_sequence']})


def cookie_of(sock: socket.socket) -> int:
    """Return the kernel's number of a socket, which is never given twice."""
    return _U64.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _U64.size))[0]
