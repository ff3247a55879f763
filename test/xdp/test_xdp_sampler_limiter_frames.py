"""Sampler and rate limiter on frames of every kind, cut anywhere, and random ones."""

import random

from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.limits import parse_limit
from ipc_bypass.xdp.sampler import Sampler
from ipc_bypass.xdp.sampler_settings import parse_rule, SamplerSettings
import pytest
from support import frames
from support.xdp import DROP, PASS, run_on

IPV6 = 0x86dd
KINDS = {
    'v4': frames.udp4_frame(),
    'v6': frames.udp6_frame(),
    'vlan': frames.udp4_frame(vlans=[(0x8100, 7)]),
    'two vlans': frames.udp6_frame(vlans=[(0x88a8, 7), (0x8100, 8)]),
    'options': frames.ethernet(frames.ip4(frames.udp(bytes(20)), options=bytes(40))),
    'tcp': frames.ethernet(frames.ip4(frames.tcp(bytes(20)), protocol=frames.TCP)),
    'first fragment': frames.ethernet(frames.ip4(frames.udp(bytes(24)),
                                                 fragment=frames.MORE_FRAGMENTS)),
    'fragment': frames.ethernet(frames.ip4(bytes(24), fragment=3)),
    'extensions': frames.ethernet(frames.ip6(frames.extension(
        frames.fragment6(frames.udp(bytes(8)), frames.UDP, more=True), 44), protocol=0),
        ethertype=IPV6),
    'late fragment': frames.ethernet(frames.ip6(frames.fragment6(
        bytes(24), frames.UDP, offset=2), protocol=44), ethertype=IPV6),
    'icmp': frames.ethernet(frames.ip4(frames.icmp_echo(), protocol=frames.ICMP)),
    'arp': frames.ethernet(bytes(28), ethertype=0x0806),
}
# Bytes of a frame's headers, behind which no cut makes a difference.
LEAST, MOST = 14, 110


class Pair:
    """Both programs, with every part of them at work."""

    def __init__(self, templates, frags):
        """Load them."""
        self.sampling = templates.slot(slot_program('sampler'), 1, frags).instantiate(frags=frags)
        self.limiting = templates.slot(slot_program('rate_limiter'), 3, frags).instantiate(
            frags=frags)
        self.sampler = Sampler(self.sampling.maps)
        self.limiter = RateLimiter(self.limiting.maps)
        self.seen = 0
        self.sampler.apply(SamplerSettings(every=1, snap=96, rules=tuple(map(parse_rule, (
            'udp:7400-7500 from 10.124.0.0/16', 'any from fd00:124::/64 to ::/0', 'tcp:80',
            '2:5 to 0.0.0.0/0')))))
        self.limiter.apply(map(parse_limit, (
            '10.0.0.0/8 each /24 packets 1 burst 5 bytes 1000 byte_burst 9000', 'fd00::/8 each '
            '/64 bytes 100 byte_burst 300 ports 7400-7500', '::/0 each /128 packets 1 burst 1',
            '0.0.0.0/0 packets 1 burst 1 discovery', '0.0.0.0/0 each /8 packets 100 dry_run')))
        self.sampler.read()

    def run(self, frame):
        """Have both see a frame; return its sample."""
        self.seen += 1
        assert run_on(self.sampling.programs['xdp_sampler'], frame) == (PASS, frame)
        answer, left = run_on(self.limiting.programs['xdp_limiter'], frame)
        assert answer in (PASS, DROP) and left == frame
        sample, = self.sampler.read()
        assert (sample.data, sample.length) == (frame[:96], len(frame))
        return sample

    def close(self):
        """Let go of them; their counters add up."""
        status = self.sampler.status()
        assert (status.seen, status.selected) == (self.seen, self.seen)
        assert status.readers['node'].written == self.seen and not status.not_copied
        assert self.limiter.status().seen == self.seen
        self.sampler.close()
        for each in (self.sampling, self.limiting):
            each.close()


@pytest.fixture
def pair(templates):
    made = Pair(templates, False)
    yield made
    made.close()


@pytest.mark.parametrize('kind', KINDS)
def test_frames_cut_at_every_byte(pair, kind):
    frame = KINDS[kind]
    whole = pair.run(frame)
    assert whole.family == (0 if kind == 'arp' else 6 if frame.find(b'\x86\xdd') in (12, 16, 20)
                            else 4)
    for length in range(LEAST, min(MOST, len(frame))):
        sample = pair.run(frame[:length])
        # The packet says that it is longer.
        assert sample.family == 0 and sample.addresses == ('', '')


def test_frames_of_several_buffers(templates):
    pair = Pair(templates, True)
    for size in (1500, 4000, 9000, 20000):
        pair.run(frames.udp4_frame(bytes(size)))
        pair.run(frames.udp6_frame(random.Random(size).randbytes(size)))
    pair.close()


def test_random_and_mutated_frames(pair):
    chance = random.Random(4)
    known = list(KINDS.values())
    for number in range(50_000):
        frame = bytearray(chance.choice(known))
        if number % 4 == 0:
            frame = bytearray(chance.randbytes(chance.randrange(LEAST, 200)))
        for _ in range(chance.randrange(6)):
            frame[chance.randrange(len(frame))] = chance.choice((0, 255, chance.randrange(256)))
        pair.run(bytes(frame[:chance.randrange(LEAST, len(frame) + 1)]))
