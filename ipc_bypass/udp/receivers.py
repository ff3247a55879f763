"""
Which process receives the datagrams to a UDP port.

The sockets come from /proc/net/udp and udp6 of every network namespace (proc(5)), their owners
from the descriptors of processes. The program takes a pid by port from a table, which holds 0
where no process or several have the port; for events, an address decides among several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import os
import re
import struct
import threading
import time

from ipc_bypass.kernel.namespaces import Namespaces
from ipc_bypass.tcp.owners import comm
from ipc_bypass.tcp.owners import socket_descriptors as socket_descriptors
from ipc_bypass.tcp.views import ArrayView
from ipc_bypass.udp.destinations import packed
from ipc_bypass.udp.packets import MAPPED

PORTS = 65536
#: Seconds after which receiver_of() looks anew, and owners that were not found are looked for.
AGE, AGAIN = 1.0, 30.0

_ANY = (bytes(16), MAPPED + bytes(4))
# Local address and port, remote address and port, state, three fields, uid, timeout, inode.
_LINE = re.compile(rb'^ *\d+: ([0-9A-F]+):([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4})'
                   rb'(?: +\S+){6} +(\d+) ', re.MULTILINE)


class ReceiversView(ArrayView):
    """The program's map `receivers`, mapped: the pid of each port's receiver."""

    def __setitem__(self, port: int, pid: int) -> None:
        """Write the pid of a port, with one store."""
        self._narrow[port * self.stride // 4] = pid

    def tolist(self) -> list[int]:
        """Return the pids of all ports."""
        return self._narrow[::self.stride // 4].tolist()


@dataclass(frozen=True)
class UdpSocket:
    """A socket that is bound to a port; `address` in 16 bytes as packed() makes them."""

    namespace: int
    family: int
    address: bytes
    port: int
    connected: bool
    inode: int


class Receivers:
    """
    The sockets of enrolled ports and their owners; every method may be called from any thread.

    What the table holds of an earlier start goes with the first refresh().

    :param table: a ReceiversView, or a numpy array over the same words; None: no table is kept
    :param namespaces: what finds them, shared with others that refresh at the same time
    :param namespaces_of_address: Destinations.namespaces_of_address, so that a socket of another
        namespace than the address's does not count; None: every namespace counts
    """

    def __init__(self, table=None, namespaces: Namespaces | None = None,
                 namespaces_of_address: Callable[[bytes], list[int]] | None = None) -> None:
        self._table = table
        self._namespaces = namespaces or Namespaces()
        self._of_address = namespaces_of_address
        self._lock = threading.RLock()
        self._ports = bytes(PORTS)
        self._looked_at: tuple = ()
        self._by_port: dict[int, list[UdpSocket]] = {}
        self._bound: set[tuple[int, int]] = set()
        # By inode: where the socket is open, as (pid, descriptor).
        self._owners: dict[int, list[tuple[int, int]]] = {}
        self._commands: dict[int, str] = {}
        words = () if table is None else table.tolist()
        self._written = {port: pid for port, pid in enumerate(words) if pid}
        self._when = self._scanned = float('-inf')

    def enroll(self, ports: Iterable[int]) -> None:
        """Look after these ports, and no others, from the next refresh on."""
        enrolled = bytearray(PORTS)
        for port in ports:
            enrolled[port] = 1
        with self._lock:
            self._ports = bytes(enrolled)
            self._when = float('-inf')

    def refresh(self, max_age: float = 0.5) -> bool:
        """
        Look at the sockets, find owners where sockets changed, and write the table.

        :param max_age: seconds; namespaces that somebody else found so lately are not looked for
        :returns: whether the table changed
        """
        with self._lock:
            self._when = time.monotonic()
            ports = self._ports
            texts = self._namespaces.read('udp', 'udp6', max_age=max_age) if any(ports) else {}
            if (ports, texts) != self._looked_at:
                self._by_port, self._looked_at = _sockets(texts, ports), (ports, texts)
            bound = {(port, one.inode) for port, there in self._by_port.items() for one in there}
            missing = {inode for _, inode in bound} - self._owners.keys()
            if bound != self._bound or not self._owners_hold() or \
                    missing and self._when - self._scanned > AGAIN:
                self._find_owners({inode for _, inode in bound})
                self._bound = bound
            return self._write()

    def receiver_of(self, family: int, address: str | bytes, port: int) -> tuple[int, str] | None:
        """
        Return (pid, command) of the one process that gets datagrams to an address and port.

        As it was at most a second ago. A socket that is bound to the address comes before one
        that takes any, and one of the address's family before a dual-stack one (compute_score()
        in net/ipv4/udp.c); a multicast datagram goes to all of them.

        :param family: 4 or 6
        :param address: text, or 4 or 16 bytes
        :returns: None where no process or several get it, and for ports that are not enrolled
        """
        raw = packed(address)
        with self._lock:
            if not self._ports[port]:
                return None
            if time.monotonic() - self._when >= AGE:
                self.refresh()
            sockets = self._by_port.get(port, ())
            spaces = self._of_address(raw) if self._of_address and sockets else ()
            if spaces:
                sockets = [one for one in sockets if one.namespace in spaces]
            pids = self._pids(_takers(sockets, family, raw))
            if len(pids) != 1:
                return None
            pid, = pids
            return pid, self._commands[pid]

    def _owners_hold(self) -> bool:
        """Return whether every owner that is known still has its socket."""
        try:
            return all(os.readlink(f'/proc/{pid}/fd/{number}') == f'socket:[{inode}]'
                       for inode, places in self._owners.items() for pid, number in places)
        except OSError:
            return False

    def _find_owners(self, wanted: set[int]) -> None:
        self._scanned = time.monotonic()
        names = {f'socket:[{inode}]': inode for inode in wanted}
        self._owners = {}
        for pid in map(int, filter(str.isdigit, os.listdir('/proc')) if wanted else ()):
            for number, target in socket_descriptors(pid):
                if target in names:
                    self._owners.setdefault(names[target], []).append((pid, number))
        pids = {pid for places in self._owners.values() for pid, _ in places}
        self._commands = {pid: comm(pid) for pid in pids}

    def _pids(self, sockets: Iterable[UdpSocket]) -> set[int]:
        return {pid for one in sockets for pid, _ in self._owners.get(one.inode, ())}

    def _write(self) -> bool:
        pids = {}
        for port, sockets in self._by_port.items():
            owners = self._pids(sockets)
            if len(owners) == 1:
                pids[port], = owners
        changed = {port: pids.get(port, 0) for port in pids.keys() | self._written.keys()
                   if pids.get(port, 0) != self._written.get(port, 0)}
        if self._table is not None:
            for port, pid in changed.items():
                self._table[port] = pid
        self._written = pids
        return bool(changed)


def _sockets(texts: Mapping[int, tuple[bytes, ...]], enrolled: bytes
             ) -> dict[int, list[UdpSocket]]:
    """Return the sockets of enrolled ports, by port, from what udp and udp6 say by namespace."""
    found: dict[int, list[UdpSocket]] = {}
    for namespace, contents in texts.items():
        for family, text in zip((4, 6), contents, strict=True):
            for address, port, remote, inode in _LINE.findall(text):
                number = int(port, 16)
                if enrolled[number]:
                    found.setdefault(number, []).append(UdpSocket(
                        namespace, family, _address(address), number, remote != b'0000',
                        int(inode)))
    return found


def _takers(sockets: Iterable[UdpSocket], family: int, address: bytes) -> list[UdpSocket]:
    """Return the sockets that may get a datagram to an address."""
    best, takers, connected = 0, [], []
    for one in sockets:
        exact = one.address == address
        if not exact and (one.address not in _ANY or one.family == 4 != family):
            continue
        if one.connected:  # to whom it listens is not asked here: it counts beside the others
            connected.append(one)
            continue
        score = 4 * exact + 2 * (one.family == family) + 1
        if _is_multicast(address):
            score = 1
        if score > best:
            best, takers = score, []
        if score == best:
            takers.append(one)
    return takers + connected


def _is_multicast(address: bytes) -> bool:
    return address[0] == 0xff or address[:12] == MAPPED and 224 <= address[12] < 240


def _address(text: bytes) -> bytes:
    """Return an address as proc(5) writes it, words of the machine's byte order, in 16 bytes."""
    words = (int(text[start:start + 8], 16) for start in range(0, len(text), 8))
    return packed(b''.join(struct.pack('=I', word) for word in words))
