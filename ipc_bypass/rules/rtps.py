"""
The ports that a DDS domain uses.

UDP by DDSI-RTPS 2.5, 9.6.1.4 (default port numbers): PB + DG * domain + offset, with the
parameters' default values PB 7400, DG 250, PG 2, d0 0, d1 10, d2 1, d3 11.
"""

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.rules.table import ACTIONS, LAST_PORT

PORT_BASE = 7400
DOMAIN_GAIN = 250
PARTICIPANT_GAIN = 2
MULTICAST_DISCOVERY = 0
UNICAST_DISCOVERY = 10
MULTICAST_USER = 1
UNICAST_USER = 11

#: The largest domain whose multicast discovery port is a port: 7400 + 250 * 232 = 65,400.
LAST_DOMAIN = (LAST_PORT - PORT_BASE) // DOMAIN_GAIN
#: The largest participant id whose ports do not belong to the next domain.
LAST_PARTICIPANT = (DOMAIN_GAIN - 1 - UNICAST_USER) // PARTICIPANT_GAIN


def _domain_base(domain):
    if not 0 <= domain <= LAST_DOMAIN:
        raise RuleError(
            f'invalid domain {domain}: ROS_DOMAIN_ID is 0 to {LAST_DOMAIN}',
            code='INVALID_DOMAIN')
    return PORT_BASE + DOMAIN_GAIN * domain


def last_participant(domain):
    """Return the largest participant id of a domain that keeps every port below 65,536."""
    room = LAST_PORT - _domain_base(domain) - UNICAST_USER
    return min(LAST_PARTICIPANT, room // PARTICIPANT_GAIN)


def multicast_discovery_port(domain):
    """Return the UDP port of a domain's multicast discovery."""
    return _domain_base(domain) + MULTICAST_DISCOVERY


def udp_ports(domain, participant_first=0, participant_last=0):
    """
    Return the unicast UDP ports of participants as one inclusive range in a list.

    The discovery port of participant p is base + 10 + 2p and its user port the one after it, so
    that a range of participants is a range of ports. Raises RuleError INVALID_DOMAIN.
    """
    base = _domain_base(domain)
    most = last_participant(domain)
    if not 0 <= participant_first <= participant_last <= most:
        raise RuleError(
            f'invalid participants {participant_first}-{participant_last} of domain {domain}: '
            f'give a rising range within 0 to {most}', code='INVALID_DOMAIN')
    return [(base + UNICAST_DISCOVERY + PARTICIPANT_GAIN * participant_first,
             base + UNICAST_USER + PARTICIPANT_GAIN * participant_last)]


def tcp_ports(domain):
    """
    Return the inclusive range of TCP ports of a domain's DDS profile.

    RTPS names no TCP ports. Our profiles give each domain the same 250 numbers that it has by
    UDP, so that two domains never meet: 7400 + 250 * domain and up, cut at 65,535.
    """
    base = _domain_base(domain)
    return base, min(base + DOMAIN_GAIN - 1, LAST_PORT)


def parse_udp_domain(text):
    """
    Return (domain, participant_first, participant_last, action) of '0:0-9:divert'.

    Participants and action may be left out, the action is 'mirror' then. Raises RuleError
    INVALID_DOMAIN or UNKNOWN_ACTION.
    """
    rest, colon, action = text.strip().rpartition(':')
    if not colon or action[:1].isdigit():
        rest, action = text, ACTIONS['udp'][0]
    if action not in ACTIONS['udp']:
        raise RuleError(f"unknown action '{action}' in domain '{text}': "
                        f"use one of {', '.join(ACTIONS['udp'])}", code='UNKNOWN_ACTION')
    return *parse_domain(rest), action


def parse_domain(text):
    """
    Return (domain, participant_first, participant_last) of '0', '0:3' or '0:0-9'.

    Without participants all of the domain are meant. Raises RuleError INVALID_DOMAIN.
    """
    domain_text, colon, span = text.strip().partition(':')
    first, dash, last = span.partition('-')
    try:
        domain = int(domain_text)
        participants = (int(first), int(last if dash else first)) if colon else None
    except ValueError:
        raise RuleError(
            f"cannot read domain '{text}': write DOMAIN or DOMAIN:FIRST-LAST",
            code='INVALID_DOMAIN') from None
    participants = participants or (0, last_participant(domain))
    udp_ports(domain, *participants)
    return domain, *participants
