"""The ports of DDS domains, held against the formulas and examples of DDSI-RTPS 2.5, 9.6.1.4."""

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.rules import rtps
from ipc_bypass.rules.rtps import parse_domain, tcp_ports, udp_ports
import pytest

# PB = 7400, DG = 250, PG = 2, d0 = 0, d1 = 10, d2 = 1, d3 = 11 (table 9.9 and 9.6.1.4):
# discovery multicast PB + DG * domain + d0, discovery unicast PB + DG * domain + d1 + PG * id,
# user multicast PB + DG * domain + d2, user unicast PB + DG * domain + d3 + PG * id.
EXAMPLES = [  # domain, participant, discovery unicast, user unicast
    (0, 0, 7410, 7411),
    (0, 1, 7412, 7413),
    (0, 9, 7428, 7429),
    (1, 0, 7660, 7661),
    (42, 0, 17910, 17911),
    (42, 5, 17920, 17921),
    (101, 0, 32660, 32661),
    (232, 0, 65410, 65411),
]


@pytest.mark.parametrize('domain, participant, discovery, user', EXAMPLES)
def test_unicast_ports(domain, participant, discovery, user):
    """One participant has its discovery port and its user port."""
    assert udp_ports(domain, participant, participant) == [(discovery, user)]


@pytest.mark.parametrize('domain, port', [(0, 7400), (1, 7650), (42, 17900), (232, 65400)])
def test_multicast_discovery(domain, port):
    """The port that all participants of a domain share."""
    assert rtps.multicast_discovery_port(domain) == port


def test_participants_are_one_range():
    """The ports of participants in a row have no gaps."""
    assert udp_ports(0, 0, 9) == [(7410, 7429)]
    assert udp_ports(42, 3, 4) == [(17916, 17919)]


def test_domains_do_not_meet():
    """The last participant of a domain is below the next domain, and below 65,536."""
    for domain in range(rtps.LAST_DOMAIN + 1):
        last = rtps.last_participant(domain)
        (first, end), = udp_ports(domain, 0, last)
        assert first == 7410 + 250 * domain
        assert end < min(7400 + 250 * (domain + 1), 65_536)
    assert rtps.last_participant(0) == 119
    assert rtps.last_participant(232) == 62  # 7400 + 250 * 232 + 11 + 2 * 62 = 65,535


@pytest.mark.parametrize('domain', [-1, 233, 1000])
def test_no_such_domain(domain):
    """ROS_DOMAIN_ID is 0 to 232."""
    for function in (udp_ports, tcp_ports, rtps.last_participant, rtps.multicast_discovery_port):
        with pytest.raises(RuleError, match='ROS_DOMAIN_ID is 0 to 232') as caught:
            function(domain)
        assert caught.value.code == 'INVALID_DOMAIN'


@pytest.mark.parametrize('domain, first, last', [
    (0, 0, 120), (0, 2, 1), (0, -1, 0), (232, 0, 63), (0, 120, 120)])
def test_no_such_participants(domain, first, last):
    """Participants rise, and stay within the domain's ports."""
    with pytest.raises(RuleError) as caught:
        udp_ports(domain, first, last)
    assert caught.value.code == 'INVALID_DOMAIN'


def test_tcp_ports():
    """Each domain has the 250 numbers of its UDP ports, the last one up to 65,535."""
    assert tcp_ports(0) == (7400, 7649)
    assert tcp_ports(42) == (17900, 18149)
    assert tcp_ports(232) == (65400, 65535)


@pytest.mark.parametrize('text, answer', [
    ('0', (0, 0, 119)), (' 42 ', (42, 0, 119)), ('0:3', (0, 3, 3)), ('0:0-9', (0, 0, 9)),
    ('232', (232, 0, 62))])
def test_parse_domain(text, answer):
    """A domain, with one participant, with a range, or with all of them."""
    assert parse_domain(text) == answer


@pytest.mark.parametrize('text', ['', 'x', '0:x', '0:1-x', '233', '-1', '0:9-0', '0:0-120',
                                  '0:-1', '0:1-', '1.5', ':1', '0:'])
def test_parse_domain_refuses(text):
    """What is no domain is refused."""
    with pytest.raises(RuleError) as caught:
        parse_domain(text)
    assert caught.value.code == 'INVALID_DOMAIN'
