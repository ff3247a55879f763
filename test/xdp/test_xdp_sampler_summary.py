"""Summaries of samples: estimates that add up, of limited size."""

import random

from ipc_bypass.xdp.sample_summary import protocol_name, Share, Summarizer, Summary
from ipc_bypass.xdp.sampler import Sample
from support import frames


def sample(frame, *, every=1, family=4, protocol=17, port=7400, ethertype=0x0800, payload=42,
           time_ns=5):
    return Sample(time_ns, 2, 0, len(frame), frame[:128], every, 0, family, protocol, 16,
                  ethertype, 0, 14, payload, 1000, port)


def total(shares):
    """Return the sum of shares."""
    shares = list(shares)
    return Share(*(sum(getattr(each, name) for each in shares)
                   for name in ('samples', 'packets', 'bytes_')))


def test_nothing_is_an_empty_summary():
    assert Summarizer().take() == Summary()


def test_protocols_and_talkers():
    summarizer = Summarizer()
    rtps, plain = frames.udp4_frame(b'RTPS' + bytes(50)), frames.udp4_frame(bytes(10))
    summarizer.add([sample(rtps, every=100, time_ns=7), sample(plain, every=10, port=53),
                    sample(plain, every=10, port=53),
                    sample(bytes(60), family=0, ethertype=0x0806, port=0, time_ns=9)])
    summary = summarizer.take()
    assert (summary.begin_ns, summary.end_ns) == (7, 9)
    assert summary.whole == Share(4, 121, 100 * len(rtps) + 20 * len(plain) + 60)
    assert [name for name, _ in summary.protocols] == ['rtps', 'udp', 'arp']
    first = summary.talkers[0]
    assert (first.source, first.destination, first.protocol, first.destination_port) == \
        (frames.FAR, frames.NEAR, 'rtps', 7400)
    assert first.share == Share(1, 100, 100 * len(rtps))
    assert summary.talkers[1].share == Share(2, 20, 20 * len(plain))
    assert (summary.talkers[2].source, summary.talkers[2].protocol) == ('', 'arp')
    assert summarizer.take() == Summary()


def test_size_is_limited_and_sums_stay_whole():
    chance = random.Random(1)
    summarizer = Summarizer(most=5, memory=50)
    summarizer.add(sample(frames.udp4_frame(bytes(chance.randrange(99))), port=number % 120,
                          protocol=number % 9, every=3) for number in range(1000))
    summary = summarizer.take()
    assert len(summary.talkers) == 5 and len(summary.protocols) == 5
    assert summary.protocols[-1][0] == 'other'
    assert total(share for _, share in summary.protocols) == summary.whole
    assert total([*(talker.share for talker in summary.talkers), summary.rest]) == summary.whole
    assert summary.whole.samples == 1000 and summary.whole.packets == 3000


def test_names_of_protocols():
    frame = frames.udp4_frame(b'RTPX')
    assert protocol_name(sample(frame)) == 'rtps'
    assert protocol_name(sample(frame, payload=0)) == 'udp'
    assert protocol_name(sample(frame, protocol=6)) == 'tcp'
    assert protocol_name(sample(frame, protocol=47)) == 'ip 47'
    assert protocol_name(sample(frame, family=0, ethertype=0x88f7)) == 'ptp'
    assert protocol_name(sample(frame, family=0, ethertype=0x1234)) == 'ethertype 0x1234'
