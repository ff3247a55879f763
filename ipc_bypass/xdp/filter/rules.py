"""
The rules of the filter: their text, what they match, and which one decides.

    deny udp 7400-7500                  allow tcp dport 22         deny udp sport 53
    deny from 10.1.0.0/16               allow to ff00::/8          allow icmp6
    allow domain 3                      allow domain 0 from 10.1.0.0/16
    deny udp 7400 not-rtps

All conditions of a rule must hold. Of the rules that match a packet, the most specific one
decides, wherever it stands in the list: see `FilterRule.rank`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import ipaddress

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.rules import rtps
from ipc_bypass.rules.table import LAST_PORT

ACTIONS = ('allow', 'deny')
RTPS, NOT_RTPS = 'rtps', 'not-rtps'
TCP, UDP = 6, 17
#: IANA protocol numbers that have a word of their own.
PROTOCOLS = {'icmp': 1, 'tcp': TCP, 'udp': UDP, 'icmp6': 58}
_WORDS = {number: word for word, number in PROTOCOLS.items()}
_EXAMPLE = "write it as 'deny udp 7400-7500', 'allow from 10.1.0.0/16' or 'allow domain 0'"
# Ports that a rule leaves open count as more than any range.
_PROTOCOL_ONLY, _ANY = LAST_PORT + 2, LAST_PORT + 3

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class FilterRule:
    """
    One rule; what is None or '' is not asked for.

    action             'allow' or 'deny'
    protocol           IANA number behind extension headers, None for any
    source_ports       inclusive range, UDP or TCP
    destination_ports  inclusive range, UDP or TCP
    source             prefix
    destination        prefix
    payload            'rtps' or 'not-rtps', of UDP
    domain             the domain that destination_ports come from, as it was written
    id                 0 until it is added
    origin             'parameter' or 'service'
    """

    action: str
    protocol: int | None = None
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    source: Network | None = None
    destination: Network | None = None
    payload: str = ''
    domain: str = ''
    id: int = 0  # noqa: A003
    origin: str = 'parameter'

    @property
    def conditions(self) -> tuple:
        """Return what tells one rule from another; two rules of a table never share it."""
        return (self.protocol, self.source_ports, self.destination_ports, self.source,
                self.destination, self.payload)

    @property
    def fields(self) -> tuple[bool, bool, bool, bool]:
        """
        Return which fields of a packet the rule asks for.

        They are the source address, the destination address, the source port, and the service:
        destination port or protocol.
        """
        return (self.source is not None, self.destination is not None,
                self.source_ports is not None, self.asks_service)

    @property
    def asks_service(self) -> bool:
        """Return whether it names destination ports, or a protocol and no ports at all."""
        return self.destination_ports is not None or (
            self.protocol is not None and self.source_ports is None)

    @property
    def rank(self) -> tuple:
        """
        Return what rules are sorted by: the first one that matches a packet decides.

        The longest source prefix, of equals the longest destination prefix, then the fewest
        destination ports (a protocol alone comes behind all of them), the fewest source ports,
        the one that looks at the payload; of rules that are equal in all that, one that denies,
        and then the oldest.
        """
        return (-_bits(self.source), -_bits(self.destination),
                _width(self.destination_ports,
                       _PROTOCOL_ONLY if self.asks_service else _ANY),
                _width(self.source_ports, _ANY), not self.payload, self.action == 'allow',
                self.id)

    def __str__(self) -> str:
        """Return the text that `parse` takes."""
        words = [self.action]
        if self.domain:
            words += [*(['tcp'] if self.protocol == TCP else []), 'domain', self.domain]
        elif self.protocol is not None:
            word = _WORDS.get(self.protocol)
            words += [word] if word else ['protocol', str(self.protocol)]
            if self.destination_ports:
                words += ['dport', _span(self.destination_ports)]
        if self.source_ports:
            words += ['sport', _span(self.source_ports)]
        for word, network in (('from', self.source), ('to', self.destination)):
            if network is not None:
                words += [word, _network_text(network)]
        return ' '.join([*words, *([self.payload] if self.payload else [])])


def parse(text: str) -> FilterRule:
    """
    Return the rule that a text names; its id is 0.

    ACTION, then conditions in any order: `udp` or `tcp`, with destination ports or without;
    `dport PORTS`, `sport PORTS`; `domain N` or `domain N:FIRST-LAST` (participants), which is UDP
    unless `tcp` is said; `from PREFIX`, `to PREFIX`; `icmp`, `icmp6`, `protocol N`; `rtps`,
    `not-rtps`.

    :raises RuleError: INVALID_RULE
    """
    words = text.split()
    if not words or words[0] not in ACTIONS:
        raise _refusal(text, 'it begins with neither allow nor deny')
    found: dict = {}
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        try:
            if word in PROTOCOLS:
                _once(found, 'protocol', PROTOCOLS[word])
                if word in ('udp', 'tcp') and rest and rest[0][0].isdigit():
                    _once(found, 'destination_ports', _ports(rest.pop(0)))
            elif word == 'protocol':
                _once(found, 'protocol', _number(rest.pop(0), 255))
            elif word in ('dport', 'port'):
                _once(found, 'destination_ports', _ports(rest.pop(0)))
            elif word == 'sport':
                _once(found, 'source_ports', _ports(rest.pop(0)))
            elif word == 'domain':
                _once(found, 'domain', rest.pop(0))
            elif word in ('from', 'to'):
                _once(found, 'source' if word == 'from' else 'destination',
                      ipaddress.ip_network(rest.pop(0)))
            elif word in (RTPS, NOT_RTPS):
                _once(found, 'payload', word)
            else:
                raise ValueError(f"'{word}' is no condition")
        except IndexError:
            raise _refusal(text, f"nothing follows '{word}'") from None
        except ValueError as error:
            raise _refusal(text, str(error)) from None
    return check(FilterRule(words[0], **found), text)


def check(rule: FilterRule, text: str = '') -> FilterRule:
    """Return a rule with its domain's ports filled in; raises RuleError INVALID_RULE."""
    text = text or str(rule)
    if rule.action not in ACTIONS:
        raise _refusal(text, 'it begins with neither allow nor deny')
    if rule.domain:
        ports = _domain_ports(rule, text)
        if rule.destination_ports not in (None, ports):
            raise _refusal(text, 'a domain names the destination ports already')
        rule = replace(rule, protocol=UDP if rule.protocol is None else rule.protocol,
                       destination_ports=ports)
    if rule.protocol is None and not rule.source_ports and not rule.destination_ports \
            and rule.source is None and rule.destination is None and not rule.payload:
        raise _refusal(text, 'it has no condition', 'what no rule matches has a setting: '
                       'default_action')
    if (rule.source_ports or rule.destination_ports) and rule.protocol not in (UDP, TCP):
        raise _refusal(text, 'ports are those of udp or of tcp', "say which: 'deny udp 7400'")
    if rule.payload and rule.protocol != UDP:
        raise _refusal(text, f'{rule.payload} is asked of udp alone',
                       f"write 'deny udp 7400 {rule.payload}'")
    if rule.source is not None and rule.destination is not None \
            and rule.source.version != rule.destination.version:
        raise _refusal(text, 'no packet is of IPv4 and of IPv6')
    return rule


def _domain_ports(rule, text):
    if rule.protocol not in (None, UDP, TCP):
        raise _refusal(text, 'a domain has ports of udp and of tcp')
    try:
        domain, first, last = rtps.parse_domain(rule.domain)
        if rule.protocol == TCP:
            return rtps.tcp_ports(domain)
        ports, = rtps.udp_ports(domain, first, last)
    except RuleError as error:
        raise _refusal(text, error.what) from None
    # Without participants all of the domain are meant, and multicast.
    return ports if ':' in rule.domain else (rtps.multicast_discovery_port(domain), ports[1])


def _once(found, name, value):
    if found.get(name, value) != value:
        raise ValueError(f"{name.replace('_', ' ')} twice")
    found[name] = value


def _ports(text):
    first, dash, last = text.partition('-')
    span = _number(first, LAST_PORT), _number(last if dash else first, LAST_PORT)
    if span[1] < span[0]:
        raise ValueError(f'reversed port range {text}: give the lower port first')
    return span


def _number(text, most):
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ValueError(f"'{text}' is no number from 0 to {most}")
    return int(text)


def _span(ports):
    return str(ports[0]) if ports[0] == ports[1] else f'{ports[0]}-{ports[1]}'


def _network_text(network):
    host = network.prefixlen == network.max_prefixlen
    return str(network.network_address if host else network)


def _bits(network):
    return -1 if network is None else network.prefixlen


def _width(ports, otherwise):
    return otherwise if ports is None else ports[1] - ports[0] + 1


def _refusal(text, reason, next_step=_EXAMPLE):
    return RuleError(f"read the rule '{text}'", reason, code='INVALID_RULE', next_step=next_step)
