"""
Hear the announcements of DDS participants, in the network namespaces of this host.

With CAP_NET_RAW a packet socket hears what goes to every participant, also by unicast; without
it, the multicast group of discovery is joined in this process's own namespace. Nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
import ctypes
import errno
import os
import selectors
import socket
import struct
import threading
import time

from ipc_bypass.graph.entering import enter
from ipc_bypass.graph.model import Participant
from ipc_bypass.graph.spdp import parse_announcement, PARTICIPANT_WRITER
from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.kernel.namespaces import NetworkNamespace
from ipc_bypass.rules.rtps import multicast_discovery_port

#: Fast DDS announces a participant each three seconds (its leaseDuration_announcementperiod).
ANNOUNCEMENT_SECONDS = 3.0
#: The group of discovery: 9.6.1.4.3.
GROUP = '239.255.0.1'

_LONGEST = 1 << 16
_MOST_PARTICIPANTS = 4096
_SO_ATTACH_FILTER, _IP_ADD_MEMBERSHIP = 26, 35
_ETHERNET_IPV4, _UDP = 0x0800, 17  # uapi/linux/if_ether.h, in.h
# Where SPDP's writer stands in a UDP payload: after the header (20), and none, one or both of
# INFO_TS (12) and INFO_DST (16), 12 bytes into the DATA submessage.
_WRITER_AT = (32, 44, 48, 60)
# Classic BPF: uapi/linux/bpf_common.h.
_LD_W, _LD_B, _LD_W_X, _LDX_HEADER = 0x20, 0x30, 0x40, 0xb1
_JUMP_EQUAL, _RETURN = 0x15, 0x06


class Listener:
    """
    Listens from its making on, in a thread; a context manager that ends it.

    `participants` holds them by (namespace inode, guid prefix); `cannot` says where it is deaf.

    :param namespaces: where to listen; those that may not be entered are left out
    :param domains: domains to join by multicast where packets may not be heard
    """

    def __init__(self, namespaces: Iterable[NetworkNamespace], domains: Iterable[int]) -> None:
        self.participants: dict[tuple[int, str], Participant] = {}
        self.cannot: list[str] = []
        self._sockets: dict[socket.socket, int] = {}
        self._begun, self._ending = time.monotonic(), False
        self._domains = list(domains)
        opening = threading.Thread(target=self._open, args=(list(namespaces),))
        opening.start()
        opening.join()
        self._thread = threading.Thread(target=self._listen, name='spdp', daemon=True)
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_exception) -> None:
        self._ending = True
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def heard_enough(self, seconds: float = ANNOUNCEMENT_SECONDS + 0.3) -> float:
        """Return how many seconds are left until everybody had reason to announce itself."""
        return max(0.0, self._begun + seconds - time.monotonic())

    def _open(self, namespaces):
        """Make a socket in each namespace; in a thread, which may move between them."""
        here = os.stat('/proc/thread-self/ns/net').st_ino
        refused = 0
        for namespace in namespaces:
            try:
                enter(namespace.path, namespace.inode)
                self._sockets[_packet_socket()] = namespace.inode
            except ProcessLookupError:
                continue  # it ended meanwhile
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self.cannot.append(f'announcements in every network namespace: '
                                       f'{error.strerror}; run after `ulimit -n 4096`')
                    break
                if namespace.inode == here:
                    self._join_multicast(namespace.inode)
                else:
                    refused += 1
        if refused:
            self.cannot.append(f'announcements in {refused} other network namespaces: needs '
                               'CAP_NET_RAW and CAP_SYS_ADMIN; run with sudo')
        # The thread ends here: what it entered does not matter to the others.

    def _join_multicast(self, inode):
        """Hear the multicast of discovery, as a user without CAP_NET_RAW may."""
        for domain in self._domains:
            try:
                self._sockets[_multicast_socket(multicast_discovery_port(domain))] = inode
            except (OSError, RuleError) as error:
                self.cannot.append(f'announcements of domain {domain}: {error}')
        self.cannot.append('announcements by unicast: needs CAP_NET_RAW; run with sudo')

    def _listen(self):
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ)
            while not self._ending:
                for key, _ in selector.select(0.1):
                    self._take(key.fileobj)

    def _take(self, sock):
        try:
            data = sock.recv(_LONGEST, socket.MSG_DONTWAIT)
        except OSError:
            return
        if sock.family == socket.AF_PACKET:
            data = _udp_payload(data)
        found = parse_announcement(data)
        if found is None:
            return
        inode = self._sockets[sock]
        key = inode, found.guid_prefix
        if key in self.participants or len(self.participants) < _MOST_PARTICIPANTS:
            found.namespace = inode
            self.participants[key] = found


def _packet_socket() -> socket.socket:
    """Return a socket that hears SPDP on every interface; the kernel filters."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC,
                         socket.htons(_ETHERNET_IPV4))
    try:
        program = _filter()
        buffer = ctypes.create_string_buffer(program)
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                        struct.pack('@HP', len(program) // 8, ctypes.addressof(buffer)))
    except BaseException:
        sock.close()
        raise
    return sock


def _filter() -> bytes:
    """Return a classic BPF program that keeps RTPS messages of SPDP's writer, in IPv4 and UDP."""
    magic = int.from_bytes(b'RTPS', 'big')
    # Each step is (code, next where true, next where false, operand), relative to the next one.
    steps = [(_LD_B, 0, 0, 9), (_JUMP_EQUAL, 0, 'drop', _UDP), (_LDX_HEADER, 0, 0, 0),
             (_LD_W_X, 0, 0, 8), (_JUMP_EQUAL, 0, 'drop', magic)]
    for offset in _WRITER_AT:
        steps += [(_LD_W_X, 0, 0, 8 + offset), (_JUMP_EQUAL, 'keep', 0, PARTICIPANT_WRITER)]
    labels = {'drop': len(steps), 'keep': len(steps) + 1}
    steps += [(_RETURN, 0, 0, 0), (_RETURN, 0, 0, _LONGEST)]

    def distance(target, place):
        return labels[target] - place - 1 if isinstance(target, str) else target
    return b''.join(
        struct.pack('=HBBI', code, distance(true, place), distance(false, place), value)
        for place, (code, true, false, value) in enumerate(steps))


def _multicast_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((GROUP, port))
        for index, _name in socket.if_nameindex():
            try:
                sock.setsockopt(socket.IPPROTO_IP, _IP_ADD_MEMBERSHIP, struct.pack(
                    '@4s4si', socket.inet_aton(GROUP), bytes(4), index))
            except OSError:
                continue  # an interface that is down, or the one that was joined already
    except BaseException:
        sock.close()
        raise
    return sock


def _udp_payload(packet: bytes) -> bytes:
    """Return the payload of an IPv4 packet with UDP."""
    return packet[4 * (packet[0] & 15) + 8:] if packet else b''
