"""The kernel path of connections with a far end elsewhere: an sk_skb program hands segments on."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import termios

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.proxy.splicing import Direction
from ipc_bypass.tcp.gateway import cookie_of, GatewayPairs
from ipc_bypass.tcp.offsets import kernel_offsets
from ipc_bypass.tcp.renewal import WakeRing

SOURCE, HEADER, VERDICT = 'proxy_path.bpf.c', 'proxy_path.h', 'skb_forward'
MAPS = ('proxy_sources', 'proxy_targets', 'proxied', 'proxy_totals', 'grants', 'wake')
#: Bytes that may be redirected and not be written yet, for each direction.
BUDGET = 4 << 20
#: How often a socket is read for the end of what it has, before the program may have it.
_TRIES = 3
#: How often a counter is read until nothing was acknowledged meanwhile.
_LOOKS = 1000
_OFFSETS = ('OFFSET_COOKIE', 'OFFSET_WRITE_SEQ')
_U64 = struct.Struct('=Q')
_MASK = (1 << 64) - 1
_TCP_INFO, _BYTES_ACKED, _INFO = 11, 120, 232  # uapi/linux/tcp.h: tcpi_bytes_acked
_IN, _OUT, _ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
_HUP, _RDHUP = select.EPOLLHUP, select.EPOLLRDHUP


class SkSkbPath:
    """
    The maps and the program; for one thread at a time.

    :param max_connections: that the maps take at once
    :param pairs: what knows how the gateway's sockets began
    :raises BypassError: when the program cannot be loaded
    """

    def __init__(self, max_connections: int, pairs: GatewayPairs) -> None:
        self._pairs = pairs
        offsets = kernel_offsets()
        if None in (offsets[name] for name in _OFFSETS):
            raise UnsupportedError('hand segments on by sk_skb',
                                   "the kernel's type information lacks struct tcp_sock")
        self._object = load_object(
            bpf_source(SOURCE), {'MAX_SOCKETS': 2 * max_connections,
                                 **{name: offsets[name] for name in _OFFSETS}},
            [ProgramSpec(VERDICT, ProgType.SK_SKB)], MAPS)
        names = enumerations(bpf_source(HEADER))['proxy_outcome']
        self._names = [name.removeprefix('PROXY_').lower() for name in names][:-1]
        try:
            self._attach()
            self._ring = WakeRing(self._object.maps['wake'], 'Q')
        except BaseException:
            self._object.close()
            raise

    def _attach(self) -> None:
        sockets, program = self._object.maps['proxy_sources'].fd, self._object.programs[VERDICT]
        try:
            syscall.prog_attach(sockets, program, AttachType.SK_SKB_VERDICT)
        except OSError as error:
            raise UnsupportedError('attach sk_skb', 'the kernel has no verdict without a parser '
                                   '(from 5.13)', errno=error.errno or 0) from error

    @property
    def wake_fd(self) -> int:
        """Return the descriptor that is readable when woken() has something."""
        return self._ring.fd

    def woken(self) -> set[int]:
        """Return the cookies of sockets whose segments go another way than at the last call."""
        return self._ring.drain()

    def take(self, connection) -> None:
        """
        Have a connection's bytes moved in the kernel from now on, in both directions.

        :raises OSError: when the kernel refuses, or the connection's beginning was not seen; it
            goes on as it did
        """
        ends = [self._pairs.began(each) for each in (connection.near, connection.beyond)]
        if None in ends:
            raise OSError('the beginning of the connection was not seen')
        made = Proxied(self, connection)
        sockets, entered = (connection.near, connection.beyond), False
        try:
            # What has been read is known: this thread is the only reader.
            for place, (direction, own) in enumerate(((connection.onward, connection.own_bytes),
                                                      (connection.back, 0))):
                source, target = ends[place], ends[1 - place]
                self._put(sockets[place], {
                    'other': cookie_of(sockets[1 - place]),
                    'target_address': target.socket_address,
                    'next_sequence': source.received_sequence + direction.read & 0xffffffff,
                    'first_sequence': source.received_sequence,
                    'target_base': target.sent_sequence + own & 0xffffffff})
            # Both are where segments may go before the first one is sent on.
            for name in ('proxy_targets', 'proxy_sources'):
                for sock in sockets[::-1]:
                    syscall.map_update(self._object.maps[name].fd, _U64.pack(cookie_of(sock)),
                                       _U64.pack(sock.fileno()))
                    entered = name == 'proxy_sources'
        except OSError:
            # A client that has half-closed by now is not taken: this process reads the rest of it.
            # The backend's socket stays: what has passed to it would go when it left the map.
            if not entered:
                self.remove(connection)
                raise
        connection.kernel, connection.path = made, 'sk_skb'

    def remove(self, connection) -> None:
        """Let go of a connection's sockets, which are about to close."""
        for sock in (connection.near, connection.beyond):
            key = _U64.pack(cookie_of(sock))
            for name in ('proxied', 'grants', 'proxy_sources', 'proxy_targets'):
                try:
                    syscall.map_delete(self._object.maps[name].fd, key)
                except OSError:
                    pass  # it was not there

    def grant(self, sock: socket.socket, on: bool) -> None:
        """Let the program redirect what a socket receives, or not; raises OSError."""
        syscall.map_update(self._object.maps['grants'].fd, _U64.pack(cookie_of(sock)),
                           int(on).to_bytes(4, sys.byteorder))

    def direction(self, sock: socket.socket) -> dict:
        """Return struct proxied of what a socket receives as a dict, {} without one."""
        entry = self._object.maps['proxied']
        found = syscall.map_lookup(entry.fd, _U64.pack(cookie_of(sock)), entry.value_size)
        return entry.value.unpack(found) if found else {}

    def counters(self) -> dict[str, int]:
        """Return the segments by what was done with them."""
        entry = self._object.maps['proxy_totals']
        size = (entry.value_size + 7) // 8 * 8
        raw = syscall.map_lookup(entry.fd, bytes(4), size * syscall.possible_cpus())
        rows = [entry.value.unpack(raw, place)['outcomes'] for place in range(0, len(raw), size)]
        return dict(zip(self._names, map(sum, zip(*rows, strict=True)), strict=True))

    def clear(self) -> None:
        """Count from 0 again."""
        entry = self._object.maps['proxy_totals']
        size = (entry.value_size + 7) // 8 * 8
        syscall.map_update(entry.fd, bytes(4), bytes(size * syscall.possible_cpus()))

    def close(self) -> None:
        """Unload; connections must have ended."""
        self._ring.close()
        self._object.close()

    def _put(self, sock: socket.socket, values: dict) -> None:
        entry = self._object.maps['proxied']
        empty = dict.fromkeys(entry.value.fields, 0) | {'budget': BUDGET}
        syscall.map_update(entry.fd, _U64.pack(cookie_of(sock)), entry.value.pack(empty | values))


class _Side:
    """One direction: what this process moves of it, and what the program redirects."""

    def __init__(self, path: SkSkbPath, direction: Direction) -> None:
        direction.copy_only()  # splice(2) does not take what passed
        self._path, self.direction = path, direction
        self._zero = written_exactly(direction.target) - direction.moved
        #: Whether epoll tells of what may be read, and whether the source sends no more.
        self.watched, self.hung_up = True, False

    @property
    def record(self) -> dict:
        """Return struct proxied."""
        return self._path.direction(self.direction.source)

    def step(self) -> bool:
        """Move what passed; return False where the kernel's worker has to be waited for."""
        direction, source = self.direction, self.direction.source
        if direction.blocked or direction.shut:
            return True
        # Without the grant what passes now passes on. A look that takes the socket's lock waits
        # for a program that is at it.
        self._path.grant(source, False)
        written(source)
        record = self.record
        self.watched = not record.get('redirecting', 0)
        if not self.watched and not self.hung_up:
            return True
        if not self._is_written(record):
            return False
        for _ in range(_TRIES):
            direction.pump()
            if direction.blocked or direction.ended:
                break
            if direction.dry:
                self._path.grant(source, True)
                break
        return True

    def _is_written(self, record: dict) -> bool:
        """Return whether all that was redirected is written."""
        direction = self.direction
        return (written(direction.target) - self._zero - direction.moved) & _MASK >= \
            record.get('bytes', 0)


class Proxied:
    """
    What a connection does while it is in the kernel's maps.

    This process reads what passes, as it did before, once all that was redirected is written;
    where segments are redirected it is told of nothing but the ends.
    """

    def __init__(self, path: SkSkbPath, connection) -> None:
        self._path, self._connection = path, connection
        self._sides = [_Side(path, connection.onward), _Side(path, connection.back)]
        self.cookies = [cookie_of(each.direction.source) for each in self._sides]

    def handle(self, fd: int, events: int) -> None:
        """Take what epoll says of one of the sockets; raises OSError."""
        connection = self._connection
        place = int(fd != connection.near.fileno())
        inward, outward = self._sides[place], self._sides[1 - place]
        if events & _ERR:
            number = inward.direction.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
        inward.hung_up |= bool(events & (_HUP | _RDHUP))
        if events & _OUT:
            outward.direction.flush()
        connection.active = connection.engine.now
        self._go_on()

    def wake(self) -> None:
        """Look anew: the program redirects what passed, or lets pass what it redirected."""
        self._go_on()

    def look(self) -> bool:
        """Move what may be moved; return whether there is nothing to wait for. Raises OSError."""
        waiting = [not side.step() for side in self._sides]
        if all(side.direction.shut for side in self._sides):
            self._connection.finish('finished')
            return True
        for place, sock in enumerate((self._connection.near, self._connection.beyond)):
            inward, outward = self._sides[place], self._sides[1 - place]
            mask = _OUT if outward.direction.blocked else 0
            if not (inward.direction.ended or inward.direction.blocked or waiting[place]
                    or inward.hung_up and not inward.watched):
                # Of segments that are redirected it is not told: each would wake it for nothing.
                mask |= _IN | _RDHUP if inward.watched else _RDHUP
            self._connection.watch(sock, mask)
        return not any(waiting)

    def _go_on(self) -> None:
        if not self.look():
            self._connection.engine.look_soon(self._connection)

    def moved(self) -> tuple[int, int]:
        """Return the bytes that the kernel moved, (to the backend, to the client)."""
        return tuple(side.record.get('bytes', 0) for side in self._sides)

    def last_active(self) -> float:
        """Return when a byte was last moved, by time.monotonic()."""
        return max(self._connection.active,
                   *(side.record.get('last_ns', 0) / 1e9 for side in self._sides))

    def close(self) -> None:
        """Take the sockets out of the maps."""
        self._path.remove(self._connection)


def written(sock: socket.socket) -> int:
    """
    Return how many bytes were written to a socket, but for a constant.

    Never more than that: what is acknowledged between the two looks is counted by neither.
    """
    acknowledged = _acknowledged(sock)
    return acknowledged + _queued(sock)


def written_exactly(sock: socket.socket) -> int:
    """Return the same where nothing is written meanwhile; raises OSError where it never rests."""
    for _ in range(_LOOKS):
        acknowledged = _acknowledged(sock)
        queued = _queued(sock)
        if acknowledged == _acknowledged(sock):
            return acknowledged + queued
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _acknowledged(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO)
    return _U64.unpack_from(info, _BYTES_ACKED)[0]


def _queued(sock: socket.socket) -> int:
    answer = array.array('i', [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, answer)
    return answer[0]
