"""The flows of the bypass slot, as text: which packets, and where they go."""

from __future__ import annotations

from dataclasses import dataclass
import ipaddress
import re
import socket

from ipc_bypass.kernel.errors import BypassError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PROTOCOLS = {'udp': socket.IPPROTO_UDP, 'tcp': socket.IPPROTO_TCP, 'any': 0}
_MAC = re.compile(r'[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}')
_ALL_PORTS = (0, 65535)
_FORM = "write 'udp from 10.1.0.0/16 port 1024-65535 to 10.2.0.5 port 7400-7500 via 10.3.0.1 " \
    "dev eth1', or any part of it up to via; via may be a MAC"


@dataclass(frozen=True)
class BypassFlow:
    """
    An enrolled flow.

    `protocol` is the IP protocol's number, 0 for UDP and TCP; `source` and `destination` are
    prefixes of one family, None for any address; ports are (first, last). `hop` is the next hop:
    an address of that family, or a MAC (bytes); `interface` the way to it, '' for back where the
    packet came from. `routed` says whether the TTL goes down: it does towards an address, unless
    the text ends with 'bridged'; towards a MAC, where it ends with 'routed'.
    """

    text: str
    protocol: int
    source: Network | None
    source_ports: tuple[int, int]
    destination: Network | None
    destination_ports: tuple[int, int]
    hop: Address | bytes
    interface: str
    routed: bool

    @property
    def family(self) -> int:
        """Return 4 or 6 where an address or the next hop tells, 0 for packets of both."""
        return next((each.version for each in (self.source, self.destination, self.hop)
                     if not isinstance(each, bytes | None)), 0)


def parse_flow(text: str) -> BypassFlow:
    """
    Return the flow of a text such as 'udp to 10.2.0.5 port 7400-7500 via 10.3.0.1 dev eth1'.

    :raises BypassError: it makes no sense; the next step shows the form
    """
    try:
        return _parse(text, text.split())
    except (ValueError, IndexError, KeyError) as error:
        raise BypassError(f"enroll the flow '{text}'", str(error) or 'a word is missing',
                          next_step=_FORM) from None


def _parse(text: str, words: list[str]) -> BypassFlow:
    rest = iter(words)
    protocol = next(rest, '')
    if protocol not in _PROTOCOLS:
        raise ValueError(f"it begins with '{protocol}', not with udp, tcp or any")
    prefixes: dict[str, Network | None] = {'from': None, 'to': None}
    ports = {'from': _ALL_PORTS, 'to': _ALL_PORTS}
    hop, interface, routed, side = None, '', None, ''
    for word in rest:
        if word in ('from', 'to'):
            side = word
            prefixes[side] = _network(next(rest, ''))
        elif word == 'port' and side:
            ports[side] = _ports(next(rest, ''))
        elif word == 'via':
            hop, side = _hop(next(rest, '')), ''
        elif word == 'dev':
            interface = next(rest, '')
            if not interface:
                raise ValueError('dev needs a name')
        elif word in ('routed', 'bridged'):
            routed = word == 'routed'
        else:
            raise ValueError(f"'{word}' is out of place")
    if hop is None:
        raise ValueError('it has no next hop')
    given = {each.version for each in (*prefixes.values(), hop) if hasattr(each, 'version')}
    if len(given) > 1:
        raise ValueError('it mixes IPv4 and IPv6')
    return BypassFlow(text, _PROTOCOLS[protocol], prefixes['from'], ports['from'], prefixes['to'],
                      ports['to'], hop, interface,
                      not isinstance(hop, bytes) if routed is None else routed)


def _network(word: str) -> Network | None:
    return None if word == 'any' else ipaddress.ip_network(word)


def _ports(word: str) -> tuple[int, int]:
    first, dash, last = word.partition('-')
    found = int(first), int(last if dash else first)
    if not 0 <= found[0] <= found[1] <= 65535:
        raise ValueError(f"'{word}' is no range of ports")
    return found


def _hop(word: str) -> Address | bytes:
    if _MAC.fullmatch(word):
        mac = bytes.fromhex(word.replace(':', ''))
        if mac[0] & 1 or not any(mac):
            raise ValueError(f'{word} is no MAC of one interface')
        return mac
    found = ipaddress.ip_address(word)
    if found.is_multicast or found.is_unspecified or found.is_loopback:
        raise ValueError(f'{word} is no neighbour')
    return found
