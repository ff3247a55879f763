"""
Which addresses are on this host, in whatever network namespace: where a divert may take from.

The program asks a longest-prefix map (struct destination_key) whether a datagram would stay on
this host. It holds the unicast addresses of every namespace that kernel/namespaces.py finds, and
the prefixes that a bridge claims; never a broadcast or multicast address, and no more of a
namespace's own routes than its addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
import errno
import ipaddress
import re
import struct
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError, MapFullError
from ipc_bypass.kernel.namespaces import Namespaces
from ipc_bypass.udp.packets import MAPPED
from ipc_bypass.udp.prefixes import Prefixes

#: Values of the map; a claimed prefix has that plus the ring of its owner.
LOCAL, CLAIMED = 1, 2

_KEY = struct.Struct('=I16s')
_VALUE = struct.Struct('=I')
_ALL_IPV4 = ipaddress.ip_network('::ffff:0:0/96')
_ALWAYS = {'127.0.0.0/8', '::1/128'}
# proc(5), /proc/net/fib_trie: the tables that hold a namespace's own addresses, and an address.
# Others ('Id 100:') are for transparent proxies: there, anything may be called local.
_OWN_TABLES = (b'Main:', b'Local:')
_ADDRESS = re.compile(rb'\|-- ([0-9.]+)\n((?: +/.*\n)+)')
_HOST_LOCAL = re.compile(rb'/32 host LOCAL\b')
# if_inet6 shows enum IFA_F_*, uapi/linux/if_addr.h: not usable, as its uniqueness is not known.
_OPTIMISTIC, _FAILED, _TENTATIVE = 0x04, 0x08, 0x40


def packed(address: str | bytes) -> bytes:
    """Return an address (text, or 4 or 16 bytes) in 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    raw = ipaddress.ip_address(address.partition('%')[0] if isinstance(address, str)
                               else bytes(address)).packed
    return MAPPED + raw if len(raw) == 4 else raw


class Destinations:
    """
    The map's keeper; every method may be called from any thread.

    Nothing is written before the first refresh() or claim(). What the map holds then, of an
    earlier start, is taken for what was written.

    :param map_fd: BPF_MAP_TYPE_LPM_TRIE of struct destination_key and u32; it stays the caller's
    :param namespaces: what finds them, shared with others that refresh at the same time
    """

    def __init__(self, map_fd: int, namespaces: Namespaces | None = None) -> None:
        self._map_fd = map_fd
        self._namespaces = namespaces or Namespaces()
        self._lock = threading.RLock()
        self._addresses: dict[int, frozenset[bytes]] = {}
        self._texts: dict[int, tuple[bytes, ...]] = {}
        self._claims: dict[object, set[bytes]] = {}
        self._written: dict[bytes, int] | None = None

    def refresh(self, max_age: float = 0.5) -> bool:
        """
        Make the map what this host's addresses and the claims are; return whether it changed.

        :param max_age: seconds; namespaces that somebody else found so lately are not looked for
        :raises MapFullError: the map has no room; what fits is in it
        :raises BypassError: the map cannot be written
        """
        with self._lock:
            texts = self._namespaces.read('fib_trie', 'if_inet6', max_age=max_age)
            if texts != self._texts:
                self._addresses = {
                    inode: self._addresses[inode] if self._texts.get(inode) == text
                    else _addresses_of(*text) for inode, text in texts.items()}
                self._texts = texts
            return self._write()

    def claim(self, prefixes: Iterable[str], owner: object) -> None:
        """
        Let datagrams to these prefixes ('10.9.0.0/16', 'fd00:9::/64') be diverted, from now on.

        They replace what this owner claimed before. A prefix that holds all of IPv6 does not
        hold IPv4.

        :raises BypassError: one is no prefix, or a multicast one; the claims are as they were
        :raises MapFullError: as refresh()
        """
        keys = {key for network in Prefixes(prefixes).networks for key in _claimed_keys(network)}
        with self._lock:
            self._claims[owner] = keys
            self._write()

    def unclaim(self, owner: object) -> None:
        """Take back what an owner claimed; nothing to take back is no error."""
        with self._lock:
            if self._claims.pop(owner, None):
                self._write()

    def allows(self, raw: bytes, owner: object) -> bool:
        """Return whether what goes to an address (16 bytes) may be diverted to an owner."""
        number = int.from_bytes(raw, 'big')
        with self._lock:
            if _is_loopback(raw) or any(raw in there for there in self._addresses.values()):
                return True
            return any(not (number ^ int.from_bytes(address, 'big')) >> (128 - bits)
                       for bits, address in map(_KEY.unpack, self._claims.get(owner, ())))

    def namespaces_of_address(self, address: str | bytes) -> list[int]:
        """Return the inodes of the namespaces that have an address, as refresh() last saw it."""
        raw = packed(address)
        with self._lock:
            if _is_loopback(raw):
                return list(self._addresses)
            return [inode for inode, there in self._addresses.items() if raw in there]

    def namespace_of_address(self, address: str | bytes) -> str | None:
        """Return a file of the one namespace that has an address, None for none or several."""
        inodes = self.namespaces_of_address(address)
        if len(inodes) != 1:
            return None
        # A path by a pid is good only for as long as the process lives: not an older one.
        namespace = self._namespaces.find(max_age=1.0).get(inodes[0])
        return namespace and namespace.path

    def _wanted(self) -> dict[bytes, int]:
        wanted = {key: CLAIMED + (owner if isinstance(owner, int) else 0)
                  for owner, keys in self._claims.items() for key in keys}
        wanted.update((_KEY.pack(128, address), LOCAL)
                      for there in self._addresses.values() for address in there)
        wanted.update((_key(ipaddress.ip_network(prefix)), LOCAL) for prefix in _ALWAYS)
        return wanted

    def _write(self) -> bool:
        """Bring the map to what is wanted, added before removed."""
        wanted = self._wanted()
        if wanted == self._written:
            return False
        try:
            if self._written is None:
                self._written = {key: _VALUE.unpack(value)[0] for key, value in
                                 syscall.map_items(self._map_fd, _KEY.size, _VALUE.size)}
            added = {key: value for key, value in wanted.items()
                     if self._written.get(key) != value}
            removed = self._written.keys() - wanted.keys()
            try:
                self._add(added)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.E2BIG):
                    raise
                self._remove(removed)
                self._add(added)
            else:
                self._remove(removed)
        except OSError as error:
            self._written = None  # some of it may be there
            what = 'note the addresses of this host for divert'
            if error.errno in (errno.ENOSPC, errno.E2BIG):
                raise MapFullError(
                    what, f'{len(wanted)} addresses and prefixes do not fit into the map',
                    errno=error.errno, next_step='datagrams to the others go the usual way; '
                    'claim fewer prefixes') from error
            raise BypassError(what, errno=error.errno or 0) from error
        self._written = wanted
        return bool(added or removed)

    def _add(self, entries: dict[bytes, int]) -> None:
        values = b''.join(map(_VALUE.pack, entries.values()))
        syscall.map_update_batch(self._map_fd, b''.join(entries), values, len(entries))

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            syscall.map_delete(self._map_fd, key)


def _addresses_of(fib_trie: bytes, if_inet6: bytes) -> frozenset[bytes]:
    """Return the unicast addresses of a namespace, but for 127.0.0.0/8 and ::1."""
    found, own = set(), False
    # A line without a leading blank names a table: 'Main:', 'Local:', 'Id 100:'.
    for part in re.split(rb'^(\S.*)\n', fib_trie, flags=re.MULTILINE):
        if own:
            found.update(packed(match[1].decode()) for match in _ADDRESS.finditer(part)
                         if _HOST_LOCAL.search(match[2]))
        own = part in _OWN_TABLES
    for line in if_inet6.splitlines():
        fields = line.split()  # address, interface, prefix length, scope, flags, name
        flags = int(fields[4], 16)
        if not flags & _FAILED and (not flags & _TENTATIVE or flags & _OPTIMISTIC):
            found.add(bytes.fromhex(fields[0].decode()))
    return frozenset(raw for raw in found if not _is_loopback(raw))


def _is_loopback(raw: bytes) -> bool:
    return raw[:13] == MAPPED + b'\x7f' or raw == bytes(15) + b'\1'


def _claimed_keys(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[bytes]:
    """Return the keys of a claimed prefix: IPv4 has a place in IPv6 that is not meant."""
    if network.version == 6 and network.supernet_of(_ALL_IPV4) and network != _ALL_IPV4:
        return [_key(part) for part in network.address_exclude(_ALL_IPV4)]
    return [_key(network)]


def _key(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    return _KEY.pack(network.prefixlen + (96 if network.version == 4 else 0),
                     packed(network.network_address.packed))
