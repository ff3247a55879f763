"""Which limit holds for a packet, how limits change, and how they are written."""

import itertools

from ipc_bypass.kernel.errors import BypassError, MapFullError
from ipc_bypass.xdp import limiter_layout as layout
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.limits import Limit, parse_limit
from limiter_tools import Lab, MILLISECOND, packet
import pytest
from support import frames


@pytest.fixture
def lab(templates):
    with Lab(templates) as made:
        yield made


@pytest.mark.parametrize(('text', 'shares'), [
    ('10.0.0.0/8', [['10.1.1.1', '10.1.1.2', '10.1.2.1', '10.2.0.1']]),
    ('10.0.0.0/8 each /16', [['10.1.1.1', '10.1.1.2', '10.1.2.1'], ['10.2.0.1']]),
    ('10.0.0.0/8 each /24', [['10.1.1.1', '10.1.1.2'], ['10.1.2.1'], ['10.2.0.1']]),
    ('10.0.0.0/8 each /32', [['10.1.1.1'], ['10.1.1.2'], ['10.1.2.1'], ['10.2.0.1']]),
    ('0.0.0.0/0 each /9', [['10.1.1.1', '10.127.0.1'], ['10.128.0.0']]),
    ('::/0', [['fd00::1', '2001::1']]),
    ('fd00::/8 each /49', [['fd00::1', 'fd00:0:0:7fff::1'], ['fd00:0:0:8000::1']]),
    ('fd00::/8 each /128', [['fd00::1'], ['fd00::2']]),
])
def test_buckets_are_shared_as_asked(lab, text, shares):
    lab.apply(f'{text} packets 1 burst 6')
    for share in shares:
        sources = itertools.islice(itertools.cycle(share), 12)
        assert [lab.passes(packet(source)) for source in sources] == [True] * 6 + [False] * 6
    assert lab.checked(12 * len(shares)).buckets == len(shares)


def test_the_longest_prefix_decides(lab):
    lab.apply('10.0.0.0/8 packets 1 burst 1', '10.1.0.0/16 packets 1 burst 2',
              '10.1.1.1/32 packets 1 burst 3', 'fd00::/8 packets 1 burst 4',
              '::/0 packets 1 burst 5')
    for source, most in (('10.9.0.1', 1), ('10.1.0.9', 2), ('10.1.1.1', 3), ('fd00::1', 4),
                         ('2001::1', 5), ('192.168.0.1', 8)):
        assert lab.passed(packet(source), 8) == most
    totals = lab.checked(48).totals
    assert (totals['unlimited'], totals['passed']) == (8, 15)


def test_ports_and_discovery_and_the_rest(lab):
    lab.apply('10.0.0.0/8 packets 1 burst 1 ports 7400-7500,9000', '0.0.0.0/0 packets 1 burst 5',
              '10.0.0.0/8 packets 1 burst 2 discovery', '10.124.0.2/32 packets 1 burst 3 '
              'discovery ports 7650')
    assert lab.passed(packet(destination_port=7411), 4) == 1
    assert lab.passed(packet(destination_port=9000), 4) == 0  # the same share
    assert lab.passed(packet(destination_port=9001), 7) == 5
    assert lab.passed(packet(group=True, destination_port=7650), 7) == 3
    # The longest prefix decides, and its limit is for one domain: the others are but ports.
    assert lab.passed(packet(group=True, destination_port=7400), 4) == 0
    assert lab.passed(packet('10.2.0.1', group=True, destination_port=7400), 7) == 2
    assert lab.passed(packet('10.2.0.1', group=True, destination_port=7650), 7) == 0
    # Neither user data by multicast nor discovery by unicast.
    assert lab.passed(packet('10.2.0.1', group=True, destination_port=7401), 4) == 0
    assert lab.passed(packet('11.2.0.1', group=True, destination_port=7400), 4) == 0
    tcp = frames.ethernet(frames.ip4(frames.tcp(destination_port=9000), protocol=frames.TCP))
    assert not lab.passes(tcp)
    fragment = frames.ethernet(frames.ip4(bytes(40), fragment=5))
    assert not lab.passes(fragment)  # it has no ports: limited as everything is
    assert lab.passes(frames.ethernet(bytes(46), ethertype=0x0806))
    assert lab.checked(4 + 4 + 7 + 7 + 4 + 7 + 7 + 4 + 4 + 3).totals['not_ip'] == 1


@pytest.mark.parametrize('all_of_it', [False, True])
def test_a_dry_run_drops_nothing_and_counts(lab, all_of_it):
    word = '' if all_of_it else ' dry_run'
    lab.apply(f'10.0.0.0/8 packets 1 burst 3{word}', f'fd00::/8 bytes 100 byte_burst 200{word}',
              dry_run=all_of_it)
    assert lab.passed(packet(), 10) == 10
    assert lab.passed(packet(frames.FAR_V6), 10) == 10
    status = lab.checked(20)
    ipv4, ipv6 = (limit.counts for limit in status.limits)
    assert (ipv4['passed'], ipv4['would_drop_by_packets']) == (3, 7)
    assert (ipv6['passed'], ipv6['would_drop_by_bytes']) == (2, 8)
    assert ipv4['would_drop_bytes'] == 7 * len(packet())
    assert status.totals['dropped_bytes'] == 0 and status.dry_run == all_of_it
    lab.apply('10.0.0.0/8 packets 1 burst 3')
    assert lab.passed(packet(), 10) == 0  # the same bucket, in earnest


def test_limits_change_while_packets_flow(lab):
    assert lab.passed(packet(), 3) == 3
    lab.apply('10.0.0.0/8 packets 10 burst 2')
    assert lab.passed(packet(), 5) == 2
    lab.apply('10.0.0.0/8 packets 1000 burst 2')  # faster: the bucket stays, and is full sooner
    assert lab.passed(packet(), 5) == 0
    lab.at(MILLISECOND)
    assert lab.passed(packet(), 5) == 1
    lab.apply('10.0.0.0/8 packets 1 burst 50')
    lab.at(2 * MILLISECOND)
    assert lab.passed(packet(), 60) == 50 - 1  # what is missing of the bucket is 1.999 ms
    lab.apply('10.0.0.0/8 packets 1000 burst 10')  # what was 49 s is an empty bucket now
    assert lab.passed(packet(), 5) == 0
    lab.at(4 * MILLISECOND)
    assert lab.passed(packet(), 5) == 2
    lab.apply('10.124.0.0/16 packets 1 burst 4')
    assert lab.passed(packet(), 5) == 4
    status = lab.checked(3 + 5 + 5 + 5 + 60 + 5 + 5 + 5)
    assert [limit.counts['passed'] for limit in status.limits] == [4]
    assert status.totals['passed'] == 2 + 1 + 49 + 2 + 4
    lab.apply()
    assert lab.passed(packet(), 2) == 2
    assert lab.checked(95).totals['off'] == 5


def test_limits_of_another_process_are_adopted(lab):
    lab.apply('10.0.0.0/8 packets 1 burst 2', 'fd00::/8 packets 1 burst 2 ports 5')
    assert lab.passed(packet(), 3) == 2
    successor = RateLimiter(lab.loaded.maps)
    assert [limit.text for limit in successor.status().limits] == [
        'fd00::/8 (ports)', '10.0.0.0/8 (all)']
    successor.apply([parse_limit('10.0.0.0/8 packets 1 burst 2')])
    assert lab.passed(packet(), 3) == 0
    assert successor.status().limits[0].counts['dropped_by_packets'] == 4


def test_old_buckets_make_room(templates):
    with Lab(templates, limiter_buckets=64) as lab:
        lab.apply('0.0.0.0/0 each /32 packets 1 burst 1')
        sources = [f'10.0.{number >> 8}.{number & 255}' for number in range(1000)]
        assert sum(lab.passes(packet(source)) for source in sources) == 1000
        status = lab.checked(1000)
        assert status.totals['passed'] + status.totals['table_full'] == 1000
        assert status.buckets <= 128 and status.buckets + status.evicted == 1000


def test_as_many_limits_as_there_are_places(lab):
    limits = [Limit(f'10.{number >> 8}.{number & 255}.0/24', 1, 1)
              for number in range(layout.LIMITS)]
    lab.limiter.apply(limits)
    with pytest.raises(MapFullError, match='1025 are more than 1024'):
        lab.limiter.apply([*limits, Limit('fd00::/8', 1)])
    lab.limiter.apply([Limit(f'11.{number >> 8}.{number & 255}.0/24', 1, 2)
                       for number in range(layout.LIMITS)])
    assert lab.passed(packet('10.3.255.1'), 3) == 3
    assert lab.passed(packet('11.3.255.1'), 3) == 2
    assert len({limit.text for limit in lab.checked(6).limits}) == layout.LIMITS


@pytest.mark.parametrize('text', [
    '10.0.0.0/8 packets 1000', 'fd00::/8 each /64 packets 0.5 burst 3 bytes 100000 byte_burst '
    '70000 ports 7400-7500,9000 discovery dry_run', '0.0.0.0/0 each /32 bytes 64'])
def test_a_limit_is_written_as_it_is_read(text):
    assert str(parse_limit(text)) == text


@pytest.mark.parametrize('text', [
    '', 'x', '10.0.0.1/8 packets 1', '10.0.0.0/8', '10.0.0.0/8 packets', '10.0.0.0/8 packets x',
    '10.0.0.0/8 packets -1', '10.0.0.0/8 packets nan', '10.0.0.0/8 packets inf',
    '10.0.0.0/8 packets 1 packets 2', '10.0.0.0/8 each 24 packets 1',
    '10.0.0.0/8 each /7 packets 1', '10.0.0.0/8 each /33 packets 1', '10.0.0.0/8 bytes 1',
    '10.0.0.0/8 packets 1 ports 70000', '10.0.0.0/8 packets 1 ports 9-8',
    '10.0.0.0/8 packets 1 ports 1,2,3,4,5,6,7,8,9', '10.0.0.0/8 packets 1 burst 0',
    '10.0.0.0/8 packets 1 burst 100000', '10.0.0.0/8 packets 1 foo'])
def test_nonsense_is_refused(text):
    with pytest.raises(BypassError, match='read the limit .*; write it as'):
        parse_limit(text)


def test_two_limits_for_the_same_packets_are_refused(lab):
    lab.apply('10.0.0.0/8 packets 1 burst 1')
    with pytest.raises(BypassError, match='holds for the same packets'):
        lab.apply('10.0.0.0/8 packets 1', '10.0.0.0/8 packets 2')
    assert lab.passed(packet(), 2) == 1
