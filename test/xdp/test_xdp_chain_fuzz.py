"""100,000 random and mutated frames through chains: no fault, and counters add up."""

import random
import socket
from types import SimpleNamespace

from ipc_bypass.xdp.bypass import Bypass, BypassSettings
from ipc_bypass.xdp.devmap import Devmap
from ipc_bypass.xdp.fast_path.containers import BridgePort, Container
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.kinds import DEFAULT_ORDER, slot_program
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.limits import parse_limit
from ipc_bypass.xdp.next_hops import Hop
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.sampler import Sampler
from ipc_bypass.xdp.sampler_settings import parse_rule, SamplerSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings
from support import frames
from support.slot_sources import ANSWER, own, set_answers
from support.xdp import DROP, PASS, REDIRECT, run_on, TX

FRAMES = 100_000
LARGEST = 2048
HOP_MAC = bytes.fromhex('02000000aa01')
ANSWERS = {7400 + index: value
           for index, value in enumerate((0, DROP, TX, REDIRECT, 77, -3))}
NAMES = {0: 'aborted', DROP: 'drop', PASS: 'pass', TX: 'tx', REDIRECT: 'redirect'}


def seeds():
    """Return whole frames of many kinds."""
    for port in (*ANSWERS, 7406, 7408, 53):
        ports = {'destination_port': port}
        yield frames.udp4_frame(**ports)
        yield frames.udp6_frame(vlans=[(0x8100, 5)], **ports)
        yield frames.udp4_frame(vlans=[(0x88a8, 5), (0x8100, 6)], **ports)
        yield frames.ethernet(frames.ip4(frames.tcp(b'RTPS', **ports), protocol=frames.TCP,
                                         options=bytes(12)))
        for offset, more in ((0, True), (3, True), (9, False), (0, False)):
            yield frames.ethernet(frames.ip6(frames.fragment6(
                frames.udp(b'RTPS' + bytes(20), **ports), frames.UDP, offset=offset, more=more),
                protocol=44), ethertype=0x86dd)
            yield frames.ethernet(frames.ip4(frames.udp(bytes(24), **ports),
                                             fragment=offset | 0x2000 * more))
        yield frames.ethernet(frames.ip6(frames.extension(frames.udp(**ports), frames.UDP,
                                                          units=3), protocol=60),
                              ethertype=0x86dd)
    yield frames.ethernet(frames.ip4(frames.icmp_echo(), protocol=frames.ICMP))
    yield frames.ethernet(bytes(28), ethertype=0x0806)


def random_frames(chance, count):
    """Yield frames of 14 to LARGEST bytes: mutated, of random bytes, and whole ones."""
    whole = list(seeds())
    for _ in range(count):
        kind = chance.random()
        if kind < 0.1:
            yield chance.randbytes(chance.choice((14, 60, chance.randint(14, LARGEST))))
            continue
        frame = bytearray(chance.choice(whole))
        if kind < 0.2:
            frame += bytes(chance.randint(0, LARGEST - len(frame)))
        if kind < 0.8:
            for _ in range(chance.choice((1, 1, 2, 5))):
                frame[min(chance.randrange(len(frame)), chance.randrange(14, len(frame)))] = \
                    chance.choice((0, 1, 4, 17, 44, 51, 60, 0x45, 0xff, chance.randrange(256)))
            if kind < 0.4:
                del frame[chance.randint(14, len(frame)):]
        yield bytes(frame)


def adds_up(array, count):
    """Check that each slot saw what the one before let through; return {verdict: packets}."""
    counters = array.counters()
    entered = counters['root']['pass']
    assert entered == sum(counters['root'].values()) == count
    ended = dict.fromkeys(counters['root'], 0)
    for index in sorted(array.slots):
        assert sum(counters[index].values()) == entered, (index, counters)
        entered = counters[index]['pass']
        for name, packets in counters[index].items():
            ended[name] += packets if name != 'pass' else 0
    assert all(not any(counters[index].values()) for index in range(8)
               if index not in array.slots)
    return {**ended, 'pass': entered}


class Workers:
    """Every slot of ours with something to do; their own counters add up, too."""

    def __init__(self, maps):
        """Set all of them up, by {kind: the slot's maps}."""
        Filter(maps['filter']).apply(FilterSettings(rules=(
            'deny udp dport 53', 'deny from fd00:125::/64', 'deny tcp 7400'),
            malformed_drop=True))
        self.sampler = Sampler(maps['sampler'])
        self.sampler.apply(SamplerSettings(every=9, snap=64, rules=(
            parse_rule('udp:7400-7402 from 10.124.0.0/16 every 3'), parse_rule('tcp'))))
        self.limiter = RateLimiter(maps['rate_limiter'])
        self.limiter.apply([parse_limit(text) for text in (
            '10.124.0.0/16 each /32 packets 2000 burst 100 ports 7404-7405',
            'fd00:124::/64 packets 20000 burst 5000', '0.0.0.0/0 packets 1000000 dry_run')])
        self.steering = Steering(maps['af_xdp'])
        self.steering.apply(SteeringSettings((7400, 7403), (7400,), neighbours=True, echo=True))
        self.devmap = self._devmap(maps['devmap'])
        self.bypass = self._bypass(maps['bypass'])
        self.samples = 0

    @staticmethod
    def _devmap(maps):
        devmap = Devmap(maps)
        devmap.enroll({'udp': [(7401, 7401)], 'tcp': [(7401, 7402)]})
        devmap.set_active(True)
        devmap.beat(1 << 62)
        devmap.set_source(frames.FAR_MAC)
        addresses = (bytes(10) + b'\xff\xff' + socket.inet_aton(frames.NEAR),
                     socket.inet_pton(socket.AF_INET6, frames.NEAR_V6))
        devmap.put(BridgePort(77, 'port1', 9, 'br0', Container(
            0, 2, frames.NEAR_MAC, 1500, addresses), ''))
        return devmap

    @staticmethod
    def _bypass(maps):
        bypass = Bypass(maps, 1)
        bypass._next_hops.close()  # the test says what is known of next hops
        bypass.apply(BypassSettings((
            'udp to 10.124.0.0/24 port 7406-7407 via 10.99.0.1', 'udp to any port 7406-7408 via '
            'fd00:99::1', 'any to any via 02:00:00:00:aa:02')))
        known = {'ifindex': 0, 'mtu': 1000, 'mac': HOP_MAC, 'source_mac': frames.NEAR_MAC,
                 'arrival_mac': frames.NEAR_MAC}
        bypass._write_hops([
            Hop((flow.hop, flow.interface), '', **known) if flow.family
            else Hop((flow.hop, flow.interface), 'not yet') for flow in bypass._flows])
        bypass.set_active(True)
        bypass._beat(1 << 62)
        return bypass

    def add_up(self, seen):
        """Check each worker's counters against {kind: the packets that its slot saw}."""
        self.samples += len(self.sampler.read())
        sampler, limiter = self.sampler.status(), self.limiter.status()
        assert sampler.seen == seen['sampler']
        assert sampler.selected == sum(sampler.by_rule) and min(sampler.by_rule[:3]) > 50
        reader = sampler.readers['node']
        assert (reader.written, self.sampler.resynchronised) == (self.samples, 0)
        assert reader.written + reader.full + reader.unread == sampler.selected
        totals = {name: count for name, count in limiter.totals.items() if 'bytes' not in name}
        assert limiter.seen == sum(totals.values()) == seen['rate_limiter'], totals
        for kind, counters in (('af_xdp', self.steering.counters()),
                               ('devmap', self.devmap.counters()),
                               ('bypass', self.bypass.counters())):
            counters.pop('bytes', None)
            assert sum(counters.values()) == seen[kind], (kind, counters)
            assert sum(count > 50 for count in counters.values()) >= 3, (kind, counters)

    def close(self):
        """Let go of them."""
        self.sampler.close()
        self.bypass.close()


def test_chain(templates, tmp_path):
    """Ours, all at work, and a user's at both ends, one of which answers all there is."""
    chance = random.Random('chain')
    interface = SimpleNamespace(index=1, mtu=1500)
    with RootArray(interface, RootSettings(pin_directory=''), templates=templates) as array:
        workers = Workers({kind: array.load(index, slot_program(kind)).maps
                           for index, kind in enumerate(DEFAULT_ORDER) if kind})
        for index in (0, 6):
            slot = array.load(index, own(tmp_path, ANSWER, 'answer_port'))
        set_answers(slot, ANSWERS)
        answers = dict.fromkeys((*NAMES.values(), 'invalid'), 0)
        for number, frame in enumerate(random_frames(chance, FRAMES)):
            if not number % 1000:
                workers.samples += len(workers.sampler.read())
            answered, left = run_on(array.root_program, frame)
            answers[NAMES.get(answered, 'invalid')] += 1
            assert answered != PASS or left == frame
        assert adds_up(array, FRAMES) == answers
        assert min(answers.values()) > 50, answers
        counters = array.counters()
        workers.add_up({kind: sum(counters[index].values())
                        for index, kind in enumerate(DEFAULT_ORDER) if kind})
        workers.close()
