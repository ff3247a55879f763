"""Answers to packets that are too big: built right, limited, and never where they may not be."""

import ipaddress
import struct

from filter_tools import fragment6, GROUP_MACS, ip4, ip6, rig, tcp, udp
from ipc_bypass.xdp.filter.model import Bucket, Model, TX
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.too_big import checksum
import pytest

DF = 0x4000
TAGS = {'untagged': (), 'tag': ((0x8100, 5),), 'tags': ((0x88a8, 5), (0x8100, 6))}


@pytest.fixture(scope='module')
def program():
    """Give the filter with answers on, as many as are asked for."""
    with rig() as made:
        yield made


def answering(program, *rules, **settings):
    program.apply(*rules, **{'ptb_send': True, 'ptb_mtu': 1300, 'ptb_max_pps': 1_000_000,
                             **settings})


@pytest.mark.parametrize('tags', TAGS.values(), ids=TAGS)
@pytest.mark.parametrize('size', [1301, 1400, 2000, 3000])
def test_ipv4(program, size, tags):
    answering(program)
    frame = ip4(udp(1, 2, bytes(size - 28)), fragment=DF, tags=tags)
    start = 14 + 4 * len(tags)
    verdict, answer = program.run(frame)
    assert verdict == TX
    assert answer == program.model.judge(frame).answer
    # What follows knows nothing of the model.
    assert answer[:6] == frame[6:12] and answer[6:12] == frame[:6]
    assert answer[12:start] == frame[12:start]
    packet = answer[start:]
    length, = struct.unpack_from('>H', packet, 2)
    assert length == len(packet) == 576
    assert packet[0] == 0x45 and packet[9] == 1
    assert checksum(packet[:20]) == checksum(packet[20:]) == 0
    assert packet[12:16] == ipaddress.ip_address('10.2.0.1').packed
    assert packet[16:20] == ipaddress.ip_address('10.1.0.1').packed
    assert packet[20:22] == b'\x03\x04' and packet[24:28] == struct.pack('>HH', 0, 1300)
    assert packet[28:] == frame[start:start + 548]


@pytest.mark.parametrize('tags', TAGS.values(), ids=TAGS)
@pytest.mark.parametrize('size', [1301, 1400, 2000, 3000])
def test_ipv6(program, size, tags):
    answering(program)
    frame = ip6(tcp(1, 2, bytes(size - 60)), 6, tags=tags)
    start = 14 + 4 * len(tags)
    verdict, answer = program.run(frame)
    assert verdict == TX
    assert answer == program.model.judge(frame).answer
    packet = answer[start:]
    assert len(packet) == 1280 and struct.unpack_from('>H', packet, 4)[0] == 1240
    assert packet[0] >> 4 == 6 and packet[6] == 58
    assert packet[8:24] == ipaddress.ip_address('fd00:2::1').packed
    assert packet[24:40] == ipaddress.ip_address('fd00:1::1').packed
    assert checksum(packet[8:40] + struct.pack('>II', 1240, 58) + packet[40:]) == 0
    assert packet[40:42] == b'\x02\x00' and packet[44:48] == struct.pack('>I', 1300)
    assert packet[48:] == frame[start:start + 1232]


def test_which_packets_are_too_big(program):
    answering(program, 'deny udp 7400', 'allow udp 7401')
    assert program.outcome(ip4(udp(1, 2, bytes(1300 - 28)), fragment=DF)) == 'default_pass'
    assert program.outcome(ip4(udp(1, 2, bytes(1301 - 28)), fragment=DF)) == 'ptb_sent_count'
    assert program.outcome(ip6(udp(1, 2, bytes(1300 - 48)))) == 'default_pass'
    assert program.outcome(ip6(udp(1, 2, bytes(1301 - 48)))) == 'ptb_sent_count'
    # A router could cut it up.
    assert program.outcome(ip4(udp(1, 2, bytes(1400)))) == 'default_pass'
    # What is dropped is not answered; what a rule allows is.
    assert program.outcome(ip6(udp(1, 7400, bytes(1400)))) == 'ip6_drop_count'
    assert program.outcome(ip6(udp(1, 7401, bytes(1400)))) == 'ptb_sent_count'
    # A frame may be longer than the packet in it.
    assert program.outcome(ip4(udp(1, 2), fragment=DF) + bytes(1400)) == 'default_pass'
    program.apply()
    assert program.outcome(ip6(udp(1, 2, bytes(1400)))) == 'default_pass'


@pytest.mark.parametrize('frame', {
    'broadcast': ip4(udp(1, 2, bytes(1400)), destination='255.255.255.255', fragment=DF),
    'multicast': ip4(udp(1, 2, bytes(1400)), destination='239.255.0.1', fragment=DF),
    'multicast6': ip6(udp(1, 2, bytes(1400)), destination='ff02::1'),
    'group mac': ip6(udp(1, 2, bytes(1400)), macs=GROUP_MACS),
    'no source': ip4(udp(1, 2, bytes(1400)), source='0.0.0.0', fragment=DF),
    'no source6': ip6(udp(1, 2, bytes(1400)), source='::'),
    'source loopback': ip4(udp(1, 2, bytes(1400)), source='127.0.0.1', fragment=DF),
    'source multicast': ip6(udp(1, 2, bytes(1400)), source='ff02::1'),
    'icmp error': ip4(b'\x03\x04' + bytes(1400), 1, fragment=DF),
    'icmp time exceeded': ip4(b'\x0b\x00' + bytes(1400), 1, fragment=DF),
    'icmp6 error': ip6(b'\x01\x00' + bytes(1400), 58),
    'icmp6 redirect': ip6(b'\x89\x00' + bytes(1400), 58),
    'later fragment': ip6(bytes(1400), extensions=[fragment6(10, 1)]),
    'later fragment4': ip4(bytes(1400), fragment=DF | 10)}.items(), ids=lambda item: item[0])
def test_what_may_not_be_answered_passes(program, frame):
    answering(program)
    assert program.outcome(frame[1]) == 'ptb_suppressed'


@pytest.mark.parametrize('frame', [
    ip4(b'\x08\x00' + bytes(1400), 1, fragment=DF), ip6(b'\x80\x00' + bytes(1400), 58),
    ip6(udp(1, 2, bytes(1400)), extensions=[fragment6(0, 1)])], ids=['ping', 'ping6', 'first'])
def test_questions_and_first_fragments_are_answered(program, frame):
    answering(program)
    assert program.outcome(frame) == 'ptb_sent_count'


def test_answers_are_limited(program):
    """With one answer a second, the second packet of a burst gets none, and is dropped."""
    answering(program, ptb_max_pps=1)
    frame = ip6(udp(1, 2, bytes(1400)))
    before = program.filter.status().outcomes
    verdicts = [program.run(frame)[0] for _ in range(50)]
    after = program.filter.status().outcomes
    sent = after['ptb_sent_count'] - before['ptb_sent_count']
    limited = after['ptb_rate_limited'] - before['ptb_rate_limited']
    assert sent + limited == 50 and limited >= 1
    assert verdicts.count('tx') == sent and verdicts.count('drop') == limited
    answering(program, ptb_max_pps=0)
    assert program.run(frame)[0] == 'drop'


def test_the_bucket_holds_a_tenth_of_a_second():
    now = [0]
    bucket = Bucket(FilterSettings(ptb_max_pps=100), lambda: now[0])
    assert [bucket.take() for _ in range(12)] == [True] * 10 + [False] * 2
    now[0] = 25_000_000
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] = 10_000_000_000
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]


def test_a_jumbo_frame_is_answered():
    """What is quoted of it stands in its first buffer."""
    with rig(frags=True) as made:
        answering(made, ptb_mtu=4000)
        for frame in (ip4(udp(1, 2, bytes(8000)), fragment=DF), ip6(udp(1, 2, bytes(8000)))):
            verdict, answer = made.run(frame)
            assert verdict == TX
            assert answer == Model(made.filter.settings, []).judge(frame).answer
