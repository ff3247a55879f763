"""The filter's program on frames of every kind, held against the model, by PROG_TEST_RUN."""

import struct

import filter_tools as tools
from filter_tools import fragment6, ip4, ip6, rig, RTPS, tcp, udp
import pytest

TAGS = {'untagged': (), 'tag': ((0x8100, 5),), 'tags': ((0x88a8, 5), (0x8100, 6))}
HOP_BY_HOP = (0, bytes(6))
ROUTING = (43, bytes(14))
DESTINATION = (60, bytes(22))
AUTHENTICATION = (51, bytes(14))


@pytest.fixture(scope='module')
def program():
    """Give the filter, for rules of each test's own."""
    with rig() as made:
        yield made


@pytest.mark.parametrize('tags', TAGS.values(), ids=TAGS)
@pytest.mark.parametrize('build', [ip4, ip6])
def test_ports(program, build, tags):
    program.apply('deny udp 7400-7500', 'deny tcp sport 22', 'allow udp 7450')
    family = 'ip_drop_count' if build is ip4 else 'ip6_drop_count'
    for port, outcome in ((7399, 'default_pass'), (7400, family), (7450, 'rule_pass'),
                          (7500, family), (7501, 'default_pass')):
        assert program.outcome(build(udp(1, port), tags=tags)) == outcome
        assert program.outcome(build(udp(port, 1), tags=tags)) == 'default_pass'
        assert program.outcome(build(tcp(1, port), 6, tags=tags)) == 'default_pass'
    assert program.outcome(build(tcp(22, 7400), 6, tags=tags)) == family
    assert program.outcome(build(udp(22, 1), tags=tags)) == 'default_pass'


def test_the_longest_prefix_decides_and_the_source_comes_first(program):
    program.apply('deny from 10.0.0.0/8', 'allow from 10.1.0.0/16', 'deny from 10.1.2.0/24',
                  'allow from 10.1.2.3', 'deny to 10.9.0.0/16', 'allow to 10.9.9.9',
                  'deny from fd00::/16', 'allow from fd00:1::/32', 'deny from fd00:1::7',
                  'deny from ::/0')
    for source, destination, outcome in (
            ('10.7.7.7', '10.9.9.9', 'ip_drop_count'), ('10.1.7.7', '10.9.9.8', 'rule_pass'),
            ('10.1.2.4', '10.9.9.9', 'ip_drop_count'), ('10.1.2.3', '10.9.9.8', 'rule_pass'),
            ('11.0.0.1', '10.9.9.9', 'rule_pass'), ('11.0.0.1', '10.9.9.8', 'ip_drop_count'),
            ('11.0.0.1', '11.0.0.2', 'default_pass')):
        assert program.outcome(ip4(udp(1, 2), source=source,
                                   destination=destination)) == outcome
    for source, outcome in (('fd00:2::1', 'ip6_drop_count'), ('fd00:1::1', 'rule_pass'),
                            ('fd00:1::7', 'ip6_drop_count'), ('fe80::1', 'ip6_drop_count')):
        assert program.outcome(ip6(udp(1, 2), source=source)) == outcome


def test_all_conditions_of_a_rule_must_hold(program):
    program.apply('allow domain 0 from 10.1.0.0/16', 'allow udp 9000 sport 9001',
                  'allow icmp from 10.3.0.0/16 to 10.4.0.1', 'deny udp 7410 from 10.1.5.0/24',
                  default_action='deny')
    for frame, outcome in (
            (ip4(udp(1, 7400)), 'rule_pass'), (ip4(udp(1, 7650)), 'default_drop'),
            (ip4(udp(1, 7400), source='10.2.0.1'), 'default_drop'),
            (ip4(udp(1, 7410), source='10.1.5.1'), 'ip_drop_count'),
            (ip4(udp(1, 7411), source='10.1.5.1'), 'rule_pass'),
            (ip4(udp(9001, 9000), source='1.2.3.4'), 'rule_pass'),
            (ip4(udp(9002, 9000), source='1.2.3.4'), 'default_drop'),
            (ip6(udp(9001, 9000)), 'rule_pass'),
            (ip4(bytes(8), 1, '10.3.1.1', '10.4.0.1'), 'rule_pass'),
            (ip4(bytes(8), 1, '10.3.1.1', '10.4.0.2'), 'default_drop'),
            (ip4(udp(1, 2), 17, '10.3.1.1', '10.4.0.1'), 'default_drop')):
        assert program.outcome(frame) == outcome


def test_rtps(program):
    program.apply('deny udp 7400 not-rtps', 'deny udp 7401 rtps', 'deny udp 7402')
    for port, rtps, other in ((7400, 'default_pass', 'not_rtps'),
                              (7401, 'ip_drop_count', 'default_pass'),
                              (7402, 'ip_drop_count', 'ip_drop_count')):
        assert program.outcome(ip4(udp(1, port, RTPS))) == rtps
        for payload in (b'', b'RTP', b'RTPX' + bytes(20), b'rtps', bytes(30)):
            assert program.outcome(ip4(udp(1, port, payload))) == other
        # What stands behind the datagram's end is not its payload.
        assert program.outcome(ip4(udp(1, port, RTPS, length=8))) == other
    # With TCP the same four bytes mean nothing.
    assert program.outcome(ip4(tcp(1, 7400, RTPS), 6)) == 'default_pass'


def test_a_rule_that_looks_at_the_payload_leaves_the_rest_to_the_next(program):
    program.apply('allow udp 7400 rtps', 'deny udp 7000-8000', 'deny udp 7500 not-rtps')
    assert program.outcome(ip4(udp(1, 7400, RTPS))) == 'rule_pass'
    assert program.outcome(ip4(udp(1, 7400))) == 'ip_drop_count'
    assert program.outcome(ip4(udp(1, 7500, RTPS))) == 'ip_drop_count'
    assert program.outcome(ip4(udp(1, 7500))) == 'not_rtps'


@pytest.mark.parametrize('drop', [False, True], ids=['kept', 'dropped'])
def test_fragments(program, drop):
    """A later fragment has no ports: prefixes and protocols judge it, and the default."""
    program.apply('deny udp 7400', 'deny from 10.5.0.0/16', 'deny protocol 89', frags_drop=drop)
    first, middle, last = 0x2000, 0x2010, 0x0020
    for fragment, outcome in ((first, 'ip_drop_count'), (middle, 'default_pass'),
                              (last, 'default_pass')):
        expected = 'ip_frag_drop_count' if drop else outcome
        assert program.outcome(ip4(udp(1, 7400), fragment=fragment)) == expected
        frame = ip4(udp(1, 2), source='10.5.0.1', fragment=fragment)
        assert program.outcome(frame) == ('ip_frag_drop_count' if drop else 'ip_drop_count')
    for extension, outcome in ((fragment6(0, 1), 'ip6_drop_count'),
                               (fragment6(16, 1), 'default_pass'),
                               (fragment6(32, 0), 'default_pass')):
        expected = 'ip6_frag_drop_count' if drop else outcome
        assert program.outcome(ip6(udp(1, 7400), extensions=[extension])) == expected
    # An atomic fragment is a whole packet (RFC 6946).
    assert program.outcome(ip6(udp(1, 7400), extensions=[fragment6(0, 0)])) == 'ip6_drop_count'
    frame = ip6(bytes(40), 89, extensions=[fragment6(16, 1)])
    assert program.outcome(frame) == ('ip6_frag_drop_count' if drop else 'ip6_drop_count')


def test_a_transport_without_ports_means_its_fragments_too(program):
    program.apply('deny udp')
    for frame in (ip4(udp(1, 2)), ip4(udp(1, 2), fragment=0x2010), ip6(udp(65535, 0)),
                  ip6(udp(1, 2), extensions=[fragment6(16, 0)])):
        assert program.outcome(frame) in ('ip_drop_count', 'ip6_drop_count')
    assert program.outcome(ip4(tcp(1, 2), 6)) == 'default_pass'


@pytest.mark.parametrize('extensions', [
    [HOP_BY_HOP], [ROUTING, DESTINATION], [HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION],
    [DESTINATION] * 7, [(60, bytes(2046))]], ids=str)
def test_extension_headers(program, extensions):
    program.apply('deny udp 7400')
    program.judge(ip6(udp(1, 7400), extensions=extensions))
    program.judge(ip6(udp(1, 7401), extensions=extensions))


def test_options(program):
    program.apply('deny udp 7400', 'deny tcp 7400')
    for words in range(1, 11):
        options = b'\x01' * 4 * words
        assert program.outcome(ip4(udp(1, 7400), options=options)) == 'ip_drop_count'
        assert program.outcome(ip4(tcp(1, 7400, words=5 + words), 6)) == 'ip_drop_count'


def test_frames_that_are_not_ip(program):
    arp, lldp = tools.ethernet(bytes(28), 0x0806), tools.ethernet(bytes(40), 0x88cc)
    program.apply('deny udp 7400', default_action='deny')
    assert program.outcome(arp) == program.outcome(lldp) == 'other_pass'
    program.apply(other_drop=True)
    assert program.outcome(arp) == program.outcome(lldp) == 'other_drop'
    assert program.outcome(ip4(udp(1, 2))) == 'default_pass'


@pytest.mark.parametrize('drop', [False, True], ids=['passed', 'dropped'])
def test_frames_cut_at_every_byte(program, drop):
    """PROG_TEST_RUN takes no frame shorter than an Ethernet header."""
    program.apply('deny udp 7400', 'allow from 10.0.0.0/8', malformed_drop=drop)
    seen = set()
    for tags in TAGS.values():
        for frame in (ip4(udp(1, 7400, RTPS), tags=tags), ip6(tcp(1, 7400), 6, tags=tags),
                      ip4(tcp(5, 6, words=7), 6, options=bytes(8), tags=tags),
                      ip6(udp(1, 7400), extensions=[HOP_BY_HOP, fragment6(0, 1)], tags=tags)):
            seen |= {program.outcome(frame[:length]) for length in range(14, len(frame) + 1)}
            # Cut and mended: the IP header's length is that of what is left.
            start = 14 + 4 * len(tags)
            for length in range(start + 40, len(frame)):
                mended = bytearray(frame[:length])
                if frame[start] >> 4 == 4:
                    struct.pack_into('>H', mended, start + 2, length - start)
                else:
                    struct.pack_into('>H', mended, start + 4, length - start - 40)
                seen.add(program.outcome(bytes(mended)))
    assert {'eth_frame_err', 'ip_header_err', 'ip6_header_err', 'transport_err'} <= seen


def test_headers_that_contradict_themselves(program):
    program.apply(default_action='deny')
    good = bytearray(ip4(udp(1, 2)))
    for offset, value in ((14, 0x55), (14, 0x44), (14, 0x4f), (16, 0xff)):
        frame = bytearray(good)
        frame[offset] = value
        program.judge(bytes(frame))
    frame = bytearray(ip4(tcp(1, 2), 6))
    frame[14 + 20 + 12] = 0x40
    assert program.outcome(bytes(frame)) == 'transport_err'
    frame = bytearray(ip6(udp(1, 2)))
    frame[14] = 0x40
    assert program.outcome(bytes(frame)) == 'ip6_header_err'


def test_frames_of_several_buffers():
    """A jumbo frame: what is in the second buffer is counted, and the first is judged."""
    with rig(frags=True) as made:
        made.apply('deny udp 7400', 'deny udp 7401 not-rtps')
        for size in (3000, 6000, 8900):
            frame = ip4(udp(1, 7400, bytes(size)))
            assert made.outcome(frame) == 'ip_drop_count'
            assert made.outcome(ip6(udp(1, 7401, RTPS + bytes(size)))) == 'default_pass'
            assert made.outcome(ip6(udp(1, 7401, bytes(size)))) == 'not_rtps'
            before = made.filter.status().rules[0].bytes
            made.run(frame)
            assert made.filter.status().rules[0].bytes == before + len(frame)
