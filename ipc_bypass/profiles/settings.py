"""What a profile is made for: a domain, its TCP ports, its peers and this host's buffers."""

from __future__ import annotations

from dataclasses import dataclass
import ipaddress
import os
from pathlib import Path
import re

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.rules.rtps import LAST_DOMAIN, tcp_ports
from ipc_bypass.rules.table import LAST_PORT

#: The largest message of both DDS over TCP: a UDP datagram's size is their upper bound there too.
MESSAGE_BYTES = 65500
#: What a socket's buffer should hold: an image of 4 MB in flight without a stop.
WANTED_BUFFER_BYTES = 4 << 20
#: The first ports of a domain are those of its discovery by UDP; a reader of `ss` is not misled.
_FIRST_PROCESS = 12
_WRITE_LIMIT, _READ_LIMIT = '/proc/sys/net/core/wmem_max', '/proc/sys/net/core/rmem_max'
# A host name (RFC 1123); an address is one too, or is an IPv6 address.
_NAME = re.compile(r'[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?')


class ProfileError(BypassError):
    """A profile cannot be made, written or tried."""


@dataclass(frozen=True)
class Settings:
    """
    What the profiles depend on.

    :param domain: ROS_DOMAIN_ID
    :param ports: TCP ports, of which each process takes one
    :param peers: other hosts' or containers' names or addresses, for what multicast does not reach
    :param address: IPv4 address of the one interface to use, '' for the DDS's own choice
    :param shared_memory: let processes that share /dev/shm use it
    :param udp_peers: also take data by UDP, from nodes without a profile (Fast DDS; sends twice)
    :param buffer_bytes: of a socket, each way; what this host grants at most
    """

    domain: int = 0
    ports: range = range(0)
    peers: tuple[str, ...] = ()
    address: str = ''
    shared_memory: bool = False
    udp_peers: bool = False
    buffer_bytes: int = WANTED_BUFFER_BYTES


def settings(domain: int = 0, *, ports: str = '', peers: tuple[str, ...] = (), address: str = '',
             shared_memory: bool = False, udp_peers: bool = False) -> Settings:
    """
    Return checked Settings for this host.

    :param ports: 'FIRST-LAST', '' for the domain's own
    :raises RuleError: for a domain that DDS does not have
    :raises ProfileError: for ports, peers or an address that cannot be
    """
    own = tcp_ports(domain)
    chosen = _port_range(ports) if ports else range(own[0] + _FIRST_PROCESS, own[1] + 1)
    for peer in peers:
        if not (_NAME.fullmatch(peer) or _is_address(peer)):
            raise ProfileError(f"use peer '{peer}'", 'it is no host name and no address')
    if address and not _is_address(address, 4):
        raise ProfileError(f"use address '{address}'", 'it is no IPv4 address')
    return Settings(domain, chosen, tuple(peers), address, shared_memory, udp_peers,
                    min(WANTED_BUFFER_BYTES, *map(_limit, (_WRITE_LIMIT, _READ_LIMIT))))


def domain_of_environment() -> int:
    """Return ROS_DOMAIN_ID, 0 where it is not set; raises ProfileError for what is none."""
    text = os.environ.get('ROS_DOMAIN_ID') or '0'
    if not text.isdecimal() or int(text) > LAST_DOMAIN:
        raise ProfileError(f"use ROS_DOMAIN_ID '{text}'", f'it is not 0 to {LAST_DOMAIN}')
    return int(text)


def buffer_advice(wanted: Settings) -> str:
    """Return the command that gives sockets the buffers they should have, '' where they do."""
    if wanted.buffer_bytes >= WANTED_BUFFER_BYTES:
        return ''
    return (f'sysctl -w net.core.wmem_max={WANTED_BUFFER_BYTES} '
            f'net.core.rmem_max={WANTED_BUFFER_BYTES}')


def _port_range(text: str) -> range:
    first, dash, last = text.partition('-')
    try:
        found = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = range(0)
    if not found or not 1 <= found[0] <= found[-1] <= LAST_PORT:
        raise ProfileError(f"use ports '{text}'", f'write FIRST-LAST, within 1 to {LAST_PORT}')
    return found


def _is_address(text: str, version: int = 0) -> bool:
    try:
        return version in (0, ipaddress.ip_address(text).version)
    except ValueError:
        return False


def _limit(path: str) -> int:
    """Return a limit of this host in bytes; without that file there is none to mind."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return WANTED_BUFFER_BYTES
