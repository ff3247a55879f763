"""The bypass slot: flows as text, on frames, and between namespaces."""

from contextlib import ExitStack
import random
import socket
import struct
import subprocess
import threading

from fast_path_lab import drain, total
from ipc_bypass.kernel.errors import BypassError, MapFullError, UnsupportedError
from ipc_bypass.xdp import bypass as bypass_module
from ipc_bypass.xdp.bypass import Bypass, BypassSettings
from ipc_bypass.xdp.bypass_flows import parse_flow
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.next_hops import Hop
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.templates import Templates
import pytest
from support import frames
from support.capability import kernel_version
from support.frames import checksum, ethernet, FAR_MAC, ip4, ip6, NEAR_MAC, tcp, udp
from support.namespaces import Namespace
from support.waiting import wait_until
from support.xdp import PASS, REDIRECT, run_on, TX

HOP_MAC, OWN_MAC = '02:00:00:00:aa:01', bytes.fromhex('02000000aa02')
ROUTED = 'udp to 10.124.0.1 port 7400-7500 via 10.99.0.1 dev out0'


@pytest.fixture(scope='module')
def templates():
    return Templates()


@pytest.fixture
def loaded(templates):
    with templates.slot(slot_program('bypass'), 7, False).instantiate() as made:
        yield made


class Table:
    """A Bypass whose next hops the test gives."""

    def __init__(self, loaded):
        self.bypass, self._program = Bypass(loaded.maps, 1), loaded.programs['xdp_bypass']
        self.bypass._next_hops.close()
        self.bypass._next_hops.keep = lambda wanted, heartbeat_ms: None
        self.bypass.set_active(True)
        self.bypass._beat(1 << 62)

    def flows(self, *texts, **known):
        """Enroll flows, all resolved to the same hop."""
        self.bypass.apply(BypassSettings(texts))
        parsed = map(parse_flow, texts)
        self.bypass._write_hops([Hop((flow.hop, flow.interface), **{
            'obstacle': '', 'ifindex': 0, 'mtu': 1500,
            'mac': bytes.fromhex(HOP_MAC.replace(':', '')), 'source_mac': OWN_MAC,
            'arrival_mac': NEAR_MAC, **known}) for flow in parsed])

    def run(self, frame):
        """Return (why it went on or 'packets', the frame as it is then)."""
        before = self.bypass.counters()
        answer, left = run_on(self._program, frame)
        (name,) = [name for name, count in self.bypass.counters().items()
                   if count != before[name] and name != 'bytes']
        assert answer == PASS if name != 'packets' else answer in (TX, REDIRECT)
        if name != 'packets':
            assert left == frame
        return name.removeprefix('passed_'), left

    def verdict(self, frame):
        return self.run(frame)[0]


@pytest.fixture
def table(loaded):
    made = Table(loaded)
    yield made
    made.bypass.close()


def test_a_routed_packet_has_other_macs_and_less_to_live(table):
    table.flows(ROUTED)
    for lifetime in (64, 2, 255):
        verdict, left = table.run(ethernet(ip4(udp(b'abc'), ttl=lifetime)))
        assert verdict == 'packets'
        assert left[:12] == bytes.fromhex(HOP_MAC.replace(':', '')) + OWN_MAC
        assert left[22] == lifetime - 1 and checksum(left[14:34]) == 0
        assert left[34:] == ethernet(ip4(udp(b'abc')))[34:]
    table.flows('udp to fd00:124::1 via fd00:99::1')
    verdict, left = table.run(frames.udp6_frame(b'abc'))
    assert (verdict, left[21]) == ('packets', 63)


def test_checksums_stay_right_whatever_they_are(table):
    table.flows(ROUTED)
    for identifier in range(0, 65536, 97):
        _, left = table.run(ethernet(ip4(udp(), identifier=identifier)))
        assert checksum(left[14:34]) == 0 and left[24:26] != b'\xff\xff'


def test_a_bridged_packet_lives_as_long(table):
    table.flows(f'udp from any to any via {HOP_MAC}')
    verdict, left = table.run(ethernet(ip4(udp(), ttl=1), destination=b'\2\0\0\0\0\x77'))
    assert verdict == 'packets'
    assert left[12:] == ethernet(ip4(udp(), ttl=1))[12:]


@pytest.mark.parametrize(('reason', 'frame'), [
    ('not_enrolled', frames.udp4_frame(destination_port=7501)),
    ('not_enrolled', ethernet(ip4(udp(), destination='10.124.0.2'))),
    ('not_enrolled', ethernet(ip4(tcp(), protocol=6))),
    ('not_enrolled', frames.udp6_frame()),
    ('not_enrolled', ethernet(ip4(udp(), fragment=185))),
    ('not_enrolled', ethernet(bytes(46), ethertype=0x0806)),
    ('not_enrolled', ethernet(ip4(udp())[:24])),
    ('fragment', ethernet(ip4(udp(), fragment=frames.MORE_FRAGMENTS))),
    ('vlan', frames.udp4_frame(vlans=((0x8100, 5),))),
    ('options', ethernet(ip4(udp(), options=bytes(4)))),
    ('addressee', ethernet(ip4(udp()), destination=FAR_MAC)),
    ('addressee', ethernet(ip4(udp()), destination=b'\xff' * 6)),
    ('lifetime', ethernet(ip4(udp(), ttl=1))), ('lifetime', ethernet(ip4(udp(), ttl=0))),
    ('packets', frames.udp4_frame(b'x' * 1472)), ('too_big', frames.udp4_frame(b'x' * 1473))])
def test_every_reason(table, reason, frame):
    table.flows(ROUTED)
    assert table.verdict(frame) == reason
    status, = table.bypass.flows()
    assert (status.packets, status.passed) == (
        reason == 'packets', reason not in ('packets', 'not_enrolled'))


def test_an_ipv6_hop_limit_and_extension(table):
    table.flows('any to fd00:124::1 via fd00:99::1')
    assert table.verdict(ethernet(ip6(udp(), hop_limit=1), ethertype=0x86dd)) == 'lifetime'
    frame = ethernet(ip6(frames.extension(udp(), 17), protocol=0), ethertype=0x86dd)
    assert table.verdict(frame) == 'options'


def test_states_in_which_all_goes_on(table):
    table.flows(ROUTED, obstacle='nobody knows')
    assert table.verdict(frames.udp4_frame()) == 'unresolved'
    assert table.bypass.flows()[0].obstacle == 'nobody knows'
    table.flows(ROUTED)
    table.bypass._beat(1)
    assert table.verdict(frames.udp4_frame()) == 'stale'
    table.bypass.set_active(False)
    assert table.verdict(frames.udp4_frame()) == 'inactive'


def test_what_a_flow_is(table):
    table.flows(f'udp from 10.124.0.0/24 port 1000 to 10.0.0.0/8 port 7400 via {HOP_MAC}',
                f'tcp from 10.124.0.2 port 2000-3000 via {HOP_MAC}',
                f'any from fd00:124::/32 to any port 9 via {HOP_MAC}')
    assert table.verdict(frames.udp4_frame()) == 'packets'
    assert table.verdict(frames.udp4_frame(source_port=1001)) == 'not_enrolled'
    assert table.verdict(ethernet(ip4(udp(), source='10.125.0.2'))) == 'not_enrolled'
    assert table.verdict(ethernet(ip4(tcp(source_port=3000), protocol=6))) == 'packets'
    assert table.verdict(ethernet(ip4(tcp(source_port=3001), protocol=6))) == 'not_enrolled'
    assert table.verdict(frames.udp6_frame(destination_port=9)) == 'packets'
    assert table.verdict(frames.udp4_frame(destination_port=9)) == 'not_enrolled'
    assert [status.packets for status in table.bypass.flows()] == [1, 1, 1]


def test_flows_change_while_packets_come(table):
    first, second = f'udp to any port 7400 via {HOP_MAC}', f'udp to any port 7401 via {HOP_MAC}'
    table.flows(first, second)
    assert table.verdict(frames.udp4_frame(destination_port=7401)) == 'packets'
    table.flows(f'udp to any port 7402 via {HOP_MAC}', second)
    assert table.verdict(frames.udp4_frame(destination_port=7400)) == 'not_enrolled'
    assert table.verdict(frames.udp4_frame(destination_port=7402)) == 'packets'
    assert table.verdict(frames.udp4_frame(destination_port=7401)) == 'packets'
    assert [status.packets for status in table.bypass.flows()] == [1, 2], 'the place counts on'
    table.flows()
    assert table.verdict(frames.udp4_frame(destination_port=7401)) == 'not_enrolled'


@pytest.mark.parametrize(('flow', 'taken'), [
    ('udp to any port 7400 via fd00::1', {6}), ('udp to any port 7400 via 10.0.0.1', {4}),
    ('udp from ::/0 via 02:00:00:00:aa:01', {6}), ('any to 0.0.0.0/0 via 02:00:00:00:aa:01', {4}),
    ('udp to any via 02:00:00:00:aa:01', {4, 6})])
def test_a_flow_is_of_its_next_hop_s_family(table, flow, taken):
    table.flows(flow)
    for family, frame in ((4, frames.udp4_frame()), (6, frames.udp6_frame())):
        assert table.verdict(frame) == ('packets' if family in taken else 'not_enrolled')


def test_an_entry_is_not_written_again_while_it_is_read(table, monkeypatch):
    done, flows = [], table.bypass._maps['bypass_flows'].fd
    update = bypass_module.syscall.map_update

    def put(fd, *rest):
        done.extend(['put'] if fd == flows else [])
        update(fd, *rest)
    monkeypatch.setattr(bypass_module.syscall, 'map_update', put)
    monkeypatch.setattr(bypass_module, 'wait_for_programs', lambda: done.append('wait'))
    table.flows(ROUTED, f'udp to any via {HOP_MAC}')
    table.bypass._write_hops([Hop(hop.wanted, 'gone') for hop in table.bypass._hops.values()])
    assert done.count('put') == 6
    assert all(done[place + 1] == 'wait' for place, what in enumerate(done) if what == 'put')


def test_a_frame_of_several_buffers(templates):
    with templates.slot(slot_program('bypass'), 7, True).instantiate(frags=True) as loaded:
        table = Table(loaded)
        table.flows(ROUTED, 'udp to fd00:124::1 via fd00:99::1', mtu=9000)
        for frame in (ethernet(ip4(udp(bytes(8900)))), frames.udp6_frame(bytes(8900))):
            verdict, left = table.run(frame)
            assert verdict == 'packets' and len(left) == len(frame)
            assert left[:12] == bytes.fromhex(HOP_MAC.replace(':', '')) + OWN_MAC
            assert left[40:] == frame[40:]
        assert table.verdict(ethernet(ip4(udp(bytes(9000))))) == 'too_big'
        assert table.bypass.counters()['bytes'] == 2 * (8900 + 8 + 14) + 20 + 40
        table.bypass.close()


def looking():
    return [each for each in threading.enumerate() if each.name == 'next-hops']


def test_a_thread_while_there_are_flows(loaded, monkeypatch):
    bypass, flow = Bypass(loaded.maps, 1), f'udp to any via {HOP_MAC}'
    assert not looking()
    for _ in range(2):
        bypass.apply(BypassSettings((flow,)))
        wait_until(lambda: bypass._hops, 'a look')
        bypass.apply(BypassSettings())
        wait_until(lambda: not looking(), 'no thread')
    bypass.apply(BypassSettings((flow,)))
    with monkeypatch.context() as broken:
        def fail(hops):
            raise OSError(28, 'no room')
        broken.setattr(bypass._next_hops, '_write', fail)
        bypass.apply(BypassSettings((flow, flow)))
        wait_until(lambda: 'no room' in bypass.problem, 'said')
        assert 'are not looked after ([Errno 28] no room)' in bypass.flows()[0].obstacle
    wait_until(lambda: not bypass.problem, 'the thread went on')
    bypass.close()
    assert not looking()


@pytest.mark.parametrize('text', [
    '', 'icmp via 10.0.0.1', 'udp', 'udp to 10.0.0.1', 'udp to 10.0.0.1 via', 'udp via 224.0.0.1',
    'udp via 01:00:5e:00:00:01', 'udp to 10.0.0.1 via fd00::1', 'udp port 5 via 10.0.0.1',
    'udp to 10.0.0.1/8 via 10.0.0.1', 'udp to any port 7-5 via 10.0.0.1',
    'udp to any port x via 10.0.0.1', 'udp to any via 10.0.0.1 dev', 'udp sideways via 10.0.0.1'])
def test_texts_that_make_no_sense(table, text):
    with pytest.raises(BypassError, match='; write'):
        table.bypass.apply(BypassSettings((text,)))
    with pytest.raises(MapFullError):
        table.bypass.apply(BypassSettings((ROUTED,) * 17))


def test_random_frames_add_up(table):
    table.flows(ROUTED, 'any to any via fd00:99::1', f'any to any via {HOP_MAC}')
    chosen, seeds = random.Random(6), [frames.udp4_frame(), frames.udp6_frame(),
                                       ethernet(ip4(tcp(), protocol=6))]
    for _ in range(3000):
        frame = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randrange(5)):
            frame[chosen.randrange(len(frame))] = chosen.randrange(256)
        run_on(table._program, bytes(frame[:chosen.randrange(14, len(frame) + 1)]))
    assert total(table.bypass.counters()) == 3000


class Road:
    """A near and a far namespace, and one between, which does not forward by itself."""

    def __init__(self, stack, templates):
        self.near, self.between, self.far = (
            stack.enter_context(Namespace(name)) for name in 'nbf')
        for space, name, net in ((self.near, 'in0', 1), (self.far, 'out0', 2)):
            self.between.ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns',
                            space.name)
            for each, link, host in ((self.between, name, 1), (space, 'eth0', 2)):
                each.ip('link', 'set', link, 'up')
                each.ip('address', 'add', f'10.126.{net}.{host}/24', 'dev', link)
            space.ip('route', 'add', 'default', 'via', f'10.126.{net}.1')
            subprocess.run(space.command('ethtool', '-K', 'eth0', 'gro', 'on', 'tx', 'off'),
                           check=True, capture_output=True)
        with self.between.entered():
            self.array = stack.enter_context(RootArray(
                find('in0'), RootSettings(pin_directory=''), templates=templates))
            slot = self.array.load(7, slot_program('bypass'))
            self.array.attach('native')
            self.bypass = Bypass(slot.maps, self.array.interface.index)
        stack.callback(self.bypass.close)
        self.bypass.set_active(True)

    def socket(self, space, port=None):
        with space.entered():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        if port is not None:
            made.bind(('', port))
        return made

    def resolved(self):
        wait_until(lambda: all(not status.obstacle for status in self.bypass.flows()), 'resolved')

    def need_features(self):
        """Raise UnsupportedError where the kernel does not tell what a veth takes."""
        if kernel_version() >= (6, 3):
            return
        self.bypass.apply(BypassSettings(('udp to any via 10.126.2.2 dev out0',)))
        self.obstructed('kernel 6.3')
        raise UnsupportedError('route past the stack', self.bypass.flows()[0].obstacle)

    def obstructed(self, reason):
        wait_until(lambda: reason in self.bypass.flows()[0].obstacle, reason)


@pytest.fixture
def road(templates):
    with ExitStack() as stack:
        made = Road(stack, templates)
        made.need_features()
        yield made


def test_to_a_next_hop_on_another_interface(road):
    road.bypass.apply(BypassSettings(
        ('udp to 10.126.2.0/24 port 7400 via 10.126.2.2 dev out0',), heartbeat_ms=5000))
    road.resolved()  # the kernel was asked to find it out
    with road.socket(road.far, 7400) as server, road.socket(road.near) as client:
        for number in range(20):
            client.sendto(struct.pack('=I', number), ('10.126.2.2', 7400))
            data, source = server.recvfrom(100)
            assert (data, source[0]) == (struct.pack('=I', number), '10.126.1.2')
        counters = road.bypass.counters()
        assert counters['packets'] == 20
        # The next hop gets another MAC, and tells.
        road.far.ip('link', 'set', 'eth0', 'address', '02:00:00:00:88:01')
        road.between.ip('neigh', 'replace', '10.126.2.2', 'lladdr', '02:00:00:00:88:01', 'dev',
                        'out0')
        wait_until(lambda: road.bypass.flows()[0].mac == '02:00:00:00:88:01', 'the new MAC')
        client.sendto(b'again', ('10.126.2.2', 7400))
        assert server.recv(100) == b'again'
        # Without NAPI over there, frames would vanish: they go the usual way, which ends here.
        subprocess.run(road.far.command('ethtool', '-K', 'eth0', 'gro', 'off'), check=True,
                       capture_output=True)
        road.obstructed('takes no redirected frames')
        client.sendto(b'unresolved', ('10.126.2.2', 7400))
        wait_until(lambda: road.bypass.counters()['passed_unresolved'], 'by the kernel')
        assert drain(server) == []


def test_a_next_hop_that_is_not_there(road):
    road.bypass.apply(BypassSettings(
        ('udp to 10.126.2.0/24 via 10.126.2.77 dev out0',), heartbeat_ms=5000))
    road.obstructed('has no MAC')
    with road.socket(road.near) as client:
        client.sendto(b'x', ('10.126.2.2', 7400))
        wait_until(lambda: road.bypass.counters()['passed_unresolved'], 'counted')
    road.bypass.apply(BypassSettings(('udp to any via 10.126.2.2 dev nowhere',)))
    road.obstructed('there is no nowhere')
    road.bypass.apply(BypassSettings(('udp to any via 10.126.2.2 dev out0',)))
    road.resolved()
    road.between.ip('link', 'set', 'out0', 'down')
    road.obstructed('is down')


def test_back_out_of_the_same_interface(road):
    with road.near.entered():
        mac = find('eth0').mac.hex(':')
    road.bypass.apply(BypassSettings((f'udp to any port 7400 via {mac}',), heartbeat_ms=5000))
    road.resolved()
    road.near.sysctl('net.ipv4.conf.all.accept_local', 1)
    road.near.sysctl('net.ipv4.conf.all.rp_filter', 0)
    road.near.sysctl('net.ipv4.conf.eth0.rp_filter', 0)
    with road.near.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.bind(('eth0', 3))
    with tap, road.socket(road.near) as client:
        tap.settimeout(20)
        client.sendto(b'reflected', ('10.126.2.2', 7400))
        came = []
        while not came:
            frame, (_, _, kind, *_) = tap.recvfrom(2000)
            if b'reflected' in frame and kind == 0:  # PACKET_HOST: it came in
                came.append(frame)
    assert came[0][:6].hex(':') == mac
    assert road.bypass.counters()['packets'] == 1
