"""
The sockets of processes, by the tables of /proc/net (proc(5)) and the descriptors that hold them.

Of another user's process the descriptors are seen with CAP_SYS_PTRACE only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import ipaddress
import sys

from ipc_bypass.graph.model import Socket

_TABLES = ('udp', 'udp6', 'tcp', 'tcp6')
# TCP states of include/net/tcp_states.h.
_STATES = {0x01: 'established', 0x0a: 'listen'}


class SocketTables:
    """The tables of each network namespace, read once each; short-lived."""

    def __init__(self) -> None:
        self._read: dict[int, dict[int, tuple[str, str]]] = {}

    def find(self, pid: int, namespace: int, inodes: Iterable[int]) -> list[Socket]:
        """
        Return those sockets that are UDP's or TCP's in the namespace in which a process lives.

        A busy host has many more than those of DDS, so that only these are parsed.
        """
        if namespace not in self._read:
            lines = {inode: (line, name) for name in _TABLES
                     for inode, line in read_table(pid, name)}
            if not lines:
                return []  # the process ended: another one of its namespace may be asked
            self._read[namespace] = lines
        known = self._read[namespace]
        found = (parse_line(*known[inode]) for inode in dict.fromkeys(inodes) if inode in known)
        return [sock for sock in found if sock is not None]

    def every_udp(self) -> Iterator[tuple[int, Socket]]:
        """Yield (namespace, Socket) of each UDP socket of every namespace that was read."""
        for namespace, lines in self._read.items():
            for line, name in lines.values():
                if name.startswith('udp') and (found := parse_line(line, name)) is not None:
                    yield namespace, found


def read_table(pid: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield (inode, line) of the sockets of one table, nothing where it cannot be read."""
    try:
        with open(f'/proc/{pid}/net/{name}', encoding='ascii', errors='replace') as stream:
            next(stream, '')
            for line in stream:
                words = line.split(None, 10)
                # The socket of a connection that nobody has, or has any more, is 0.
                if len(words) > 9 and words[9].isdecimal() and words[9] != '0':
                    yield int(words[9]), line
    except OSError:
        return


def parse_line(line: str, name: str) -> Socket | None:
    """Return the socket of a line of the table 'udp', 'udp6', 'tcp' or 'tcp6'; None for none."""
    words = line.split()
    try:
        local, remote = _endpoint(words[1]), _endpoint(words[2])
        transport = name[:3]
        state = '' if transport == 'udp' else _STATES.get(int(words[3], 16), 'other')
        drops = int(words[12]) if transport == 'udp' else 0
        return Socket(transport, 6 if name.endswith('6') else 4, *local, *remote, state,
                      int(words[9]), drops)
    except (IndexError, ValueError):
        return None


def _endpoint(word: str) -> tuple[str, int]:
    """Return (address, port) of '0100007F:1F90'; an IPv4-mapped address counts as IPv4."""
    address, _, port = word.partition(':')
    # Words of 32 bits, each in the order of this machine.
    words = [bytes.fromhex(address[at:at + 8]) for at in range(0, len(address), 8)]
    octets = b''.join(word[::-1] if sys.byteorder == 'little' else word for word in words)
    found = ipaddress.ip_address(octets)
    mapped = getattr(found, 'ipv4_mapped', None)
    return str(mapped or found), int(port, 16)


def local_addresses(pid: int) -> set[str]:
    """Return the IPv4 addresses of a process's network namespace, of /proc/net/fib_trie."""
    try:
        with open(f'/proc/{pid}/net/fib_trie', encoding='ascii', errors='replace') as stream:
            lines = stream.read().splitlines()
    except OSError:
        return set()
    return {before.split()[-1] for before, line in zip(lines, lines[1:], strict=False)
            if '/32 host LOCAL' in line and before.split()}
