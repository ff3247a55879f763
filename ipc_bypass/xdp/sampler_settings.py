"""Which packets the sampler takes: rules as people write them, and as the program reads them."""

from __future__ import annotations

from dataclasses import dataclass
import errno
import ipaddress
import re
import socket

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.sampler_layout import (
    ADDRESSES,
    PLACES,
    RANDOM,
    RULE,
    SETTINGS_HEAD,
    SETTINGS_SIZE,
    SNAP,
)

#: Most rules of one sampler, and the largest N of 1 in N.
MOST_RULES, MOST_EVERY = PLACES - 1, 1_000_000_000
#: Protocols by name; 0 is any.
PROTOCOLS = {'any': 0, 'icmp': socket.IPPROTO_ICMP, 'tcp': socket.IPPROTO_TCP,
             'udp': socket.IPPROTO_UDP, 'icmp6': socket.IPPROTO_ICMPV6}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_FORM = ("write it as 'udp:7400-7500 from 10.0.0.0/8 to 239.255.0.1/32 every 10'; the protocol "
         f"is one of {', '.join(PROTOCOLS)}, or a number")
_HEAD = re.compile(r'(\w+)(?::(\d+)(?:-(\d+))?)?')
_ALL_PORTS = (0, 0xffff)
_MAPPED = bytes(10) + b'\xff\xff'
_NONE = bytes(16)


@dataclass(frozen=True)
class SampleRule:
    """
    One kind of packets.

    :param protocol: number of the IP protocol, 0 for any
    :param ports: first and last UDP or TCP port, of either end; (0, 65535) for any packet
    :param source: prefix, '' for any
    :param destination: prefix, '' for any; of the same family as the source
    :param every: take 1 in so many, 0 for none
    """

    protocol: int = 0
    ports: tuple[int, int] = _ALL_PORTS
    source: str = ''
    destination: str = ''
    every: int = 1

    def __str__(self) -> str:
        """Return it as parse_rule() reads it."""
        text = _NAMES.get(self.protocol, str(self.protocol))
        if self.ports != _ALL_PORTS:
            first, last = self.ports
            text += f':{first}' if first == last else f':{first}-{last}'
        for word, prefix in (('from', self.source), ('to', self.destination)):
            if prefix:
                text += f' {word} {prefix}'
        return text if self.every == 1 else f'{text} every {self.every}'

    def packed(self) -> bytes:
        """Return it as struct sampler_rule; raises BypassError where it makes no sense."""
        first, last = self.ports
        if not 0 <= first <= last <= 0xffff or not 0 <= self.protocol <= 255:
            raise _error(str(self), 'ports are 0 to 65535, first to last, a protocol is 0 to 255')
        _check_every(str(self), self.every)
        networks = [_network(str(self), prefix) for prefix in (self.source, self.destination)]
        families = {network.version for network in networks if network is not None}
        if len(families) > 1:
            raise _error(str(self), 'no packet has addresses of both families')
        addresses = [part for network in networks for part in _masked(network)]
        family = max(families, default=0)
        return RULE.pack(*addresses, self.every, first, last - first, self.protocol,
                         0xff if self.protocol else 0, family, 0xff if family else 0)


@dataclass(frozen=True)
class SamplerSettings:
    """
    What the sampler of one interface takes.

    :param every: take 1 in so many of the packets that no rule matches, 0 for none
    :param rules: at most MOST_RULES; the first that matches decides
    :param snap: most bytes of a packet to copy, 0 to 256
    :param random: whether the gaps between samples are random, 1 to 2N - 1, N in the mean (sFlow
        version 5 asks for it: traffic may have a period of its own); else every Nth packet is
        taken; counted by each processor for itself
    :param fresh_seconds: how long a reader is believed to live that does not read
    """

    every: int = 0
    rules: tuple[SampleRule, ...] = ()
    snap: int = 128
    random: bool = True
    fresh_seconds: float = 3.0

    def packed(self) -> bytes:
        """Return it as struct sampler_settings; raises BypassError where it makes no sense."""
        what = 'set the sampler'
        if len(self.rules) > MOST_RULES:
            raise BypassError(what, f'{len(self.rules)} rules are too many', errno=errno.E2BIG,
                              next_step=f'use at most {MOST_RULES}')
        if not 0 <= self.snap <= SNAP or not 0.1 <= self.fresh_seconds <= 60:
            raise BypassError(what, f'snap is 0 to {SNAP} bytes, fresh_seconds 0.1 to 60',
                              errno=errno.EINVAL)
        _check_every('the rest', self.every)
        flags = RANDOM if self.random else 0
        if any(rule.source or rule.destination for rule in self.rules):
            flags |= ADDRESSES
        head = SETTINGS_HEAD.pack(self.every, self.snap, len(self.rules), flags,
                                  int(self.fresh_seconds * 1e9))
        rules = b''.join(rule.packed() for rule in self.rules)
        return (head + bytes(RULE.size) + rules).ljust(SETTINGS_SIZE, b'\0')

    @classmethod
    def unpacked(cls, data: bytes) -> SamplerSettings:
        """Return the settings that a struct sampler_settings holds."""
        every, snap, count, flags, fresh_ns = SETTINGS_HEAD.unpack_from(data)
        rules = tuple(
            _unpacked_rule(data, SETTINGS_HEAD.size + place * RULE.size)
            for place in range(1, 1 + min(count, MOST_RULES)))
        return cls(every, rules, snap, bool(flags & RANDOM), fresh_ns / 1e9)


def parse_rule(text: str) -> SampleRule:
    """
    Return the rule that 'udp:7400-7500 from 10.0.0.0/8 to 239.255.0.1/32 every 10' names.

    All but the protocol may be left out. Raises BypassError.
    """
    words = text.split()
    match = _HEAD.fullmatch(words[0]) if words else None
    if match is None or len(words) % 2 == 0:
        raise _error(text, 'it is incomplete')
    name, first, last = match.groups()
    if name not in PROTOCOLS and not name.isdigit():
        raise _error(text, f"there is no protocol '{name}'")
    values: dict = {'protocol': PROTOCOLS[name] if name in PROTOCOLS else int(name)}
    if first:
        values['ports'] = int(first), int(last or first)
    meanings = {'from': 'source', 'to': 'destination', 'every': 'every'}
    for word, value in zip(words[1::2], words[2::2], strict=True):
        if word not in meanings or meanings[word] in values:
            raise _error(text, f"'{word}' stands there twice, or means nothing")
        if word == 'every':
            if not value.isdigit():
                raise _error(text, f"'{value}' is no number")
            values['every'] = int(value)
        else:
            values[meanings[word]] = str(_network(text, value))
    rule = SampleRule(**values)
    rule.packed()
    return rule


def _check_every(text: str, every: int) -> None:
    if not 0 <= every <= MOST_EVERY:
        raise _error(text, f'1 in {every}: it is 0 to {MOST_EVERY}')


def _network(text: str, prefix: str):
    try:
        return ipaddress.ip_network(prefix) if prefix else None
    except ValueError as error:
        raise _error(text, str(error)) from None


def _masked(network) -> tuple[bytes, bytes]:
    """Return (address, mask) of 16 bytes; what is IPv4 by its family needs no more bits."""
    if network is None:
        return _NONE, _NONE
    mask, address = network.netmask.packed, network.network_address.packed
    if network.version == 4:
        return _MAPPED + address, b'\xff' * 12 + mask
    return address, mask


def _unpacked_rule(data: bytes, offset: int) -> SampleRule:
    *addresses, every, first, span, protocol, _, family, _ = RULE.unpack_from(data, offset)
    source, destination = (
        _prefix(address, mask, family) if family and mask != _NONE else ''
        for address, mask in (addresses[:2], addresses[2:]))
    if family and not source and not destination:
        source = '::/0'
    return SampleRule(protocol, (first, first + span), source, destination, every)


def _prefix(address: bytes, mask: bytes, family: int) -> str:
    start = 12 if family == 4 else 0
    bits = int.from_bytes(mask[start:], 'big').bit_count()
    return f'{ipaddress.ip_address(address[start:])}/{bits}'


def _error(text: str, reason: str) -> BypassError:
    return BypassError(f"read the sample rule '{text}'", reason, errno=errno.EINVAL,
                       next_step=_FORM)
