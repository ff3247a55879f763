"""The sampler's program on frames: which packets it takes, and what it tells of them."""

import os
import random

from ipc_bypass.kernel import header
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp import sampler_layout as layout
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.reader_lease import ReaderError
from ipc_bypass.xdp.sampler import Sampler
from ipc_bypass.xdp.sampler_settings import parse_rule, SamplerSettings, SampleRule
import pytest
from support import frames
from support.waiting import wait_until
from support.xdp import PASS, run_on


@pytest.fixture(params=[False, True], ids=['plain', 'frags'])
def loaded(request, templates):
    template = templates.slot(slot_program('sampler'), 1, request.param)
    with template.instantiate(frags=request.param) as made:
        yield made


@pytest.fixture
def sampler(loaded):
    made = Sampler(loaded.maps)
    yield made
    made.close()


def run(loaded, frame, times=1):
    for _ in range(times):
        answer, left = run_on(loaded.programs['xdp_sampler'], frame)
        assert (answer, left) == (PASS, frame)


def adds_up(sampler):
    """Return the status, whose counters add up."""
    status = sampler.status()
    assert status.selected == sum(status.by_rule)
    assert status.selected <= status.seen
    for reader in status.readers.values():
        assert reader.written + reader.full + reader.unread == status.selected
    return status


@pytest.fixture
def one_processor():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures('one_processor')
def test_every_nth_packet_is_taken(loaded, sampler):
    sampler.apply(SamplerSettings(every=7, random=False, snap=64))
    assert sampler.read() == []
    run(loaded, frames.udp4_frame(), 70)
    status = adds_up(sampler)
    assert (status.seen, status.selected) == (70, 10)
    assert [sample.every for sample in sampler.read()] == [7] * 10
    run(loaded, frames.udp4_frame(), 6)
    assert sampler.read() == []
    run(loaded, frames.udp4_frame())
    assert len(sampler.read()) == 1


def test_random_gaps_have_the_mean(loaded, sampler):
    sampler.apply(SamplerSettings(every=10))
    sampler.read()
    run(loaded, frames.udp4_frame(), 4000)
    # The gaps are uniform over 1 to 19: a standard deviation of 11 samples of 400; eight of them.
    assert abs(adds_up(sampler).selected - 400) < 90


def test_nothing_is_taken_at_first(loaded, sampler):
    assert sampler.read() == []
    run(loaded, frames.udp4_frame(), 3)
    status = adds_up(sampler)
    assert (status.seen, status.selected, status.settings.every) == (3, 0, 0)


@pytest.mark.parametrize('size', [0, 1, 14, 63, 64, 65, 200, 255, 256, 257, 1400])
@pytest.mark.parametrize('snap', [0, 1, 64, 128, 255, 256])
def test_the_first_bytes_are_copied(loaded, sampler, size, snap):
    sampler.apply(SamplerSettings(every=1, snap=snap))
    sampler.read()
    frame = frames.udp4_frame(random.Random(size).randbytes(size))
    run(loaded, frame)
    sample, = sampler.read()
    assert sample.data == frame[:snap]
    assert sample.length == len(frame)


def test_what_a_sample_tells(loaded, sampler):
    sampler.apply(SamplerSettings(every=1, rules=(parse_rule('tcp:80 every 1'),)))
    sampler.read()
    run(loaded, frames.udp4_frame(vlans=[(0x8100, 5)]))
    run(loaded, frames.udp6_frame())
    run(loaded, frames.ethernet(frames.ip4(frames.tcp(source_port=80), protocol=frames.TCP)))
    run(loaded, frames.ethernet(bytes(60), ethertype=0x88cc))
    tagged, sixth, tcp, other = sampler.read()
    assert tagged.addresses == (frames.FAR, frames.NEAR)
    assert (tagged.vlan, tagged.network_offset, tagged.payload_offset) == (5, 18, 46)
    assert sixth.addresses == (frames.FAR_V6, frames.NEAR_V6)
    assert (sixth.family, sixth.protocol, sixth.source_port, sixth.destination_port) == \
        (6, frames.UDP, 1000, 7400)
    assert (tcp.rule, tcp.protocol, tcp.source_port) == (1, frames.TCP, 80)
    assert (other.family, other.ethertype, other.addresses) == (0, 0x88cc, ('', ''))
    assert [sample.rule for sample in (tagged, sixth, other)] == [0, 0, 0]
    times = [sample.time_ns for sample in (tagged, sixth, tcp, other)]
    assert times == sorted(times)


RULES = {
    'udp': ('4u', '6u'), 'tcp': ('4t',), 'any:7400': ('4u', '6u', '4t'), 'udp:1000-1001': (
        '4u', '6u'), 'udp:7401': (), 'any from 10.124.0.0/24': ('4u', '4t', '4f'),
    'any from 10.124.0.2/32 to 10.124.0.1/32': ('4u', '4t', '4f'),
    'any from 10.124.0.1/32': (), 'any to fd00:124::/64': ('6u',), 'any to fd00:125::/64': (),
    'any from ::/0': ('6u',), 'any from 0.0.0.0/0': ('4u', '4t', '4f'), 'icmp6': (),
    'any': ('4u', '6u', '4t', '4f', 'arp'),
}
FRAMES = {
    '4u': frames.udp4_frame(), '6u': frames.udp6_frame(),
    '4t': frames.ethernet(frames.ip4(frames.tcp(), protocol=frames.TCP)),
    '4f': frames.ethernet(frames.ip4(bytes(40), fragment=5, protocol=99)),
    'arp': frames.ethernet(bytes(46), ethertype=0x0806),
}


@pytest.mark.parametrize('text', RULES)
def test_rules_match(loaded, sampler, text):
    sampler.apply(SamplerSettings(rules=(parse_rule(text),)))
    sampler.read()
    taken = []
    for name, frame in FRAMES.items():
        run(loaded, frame)
        taken += [name] * len(sampler.read())
    assert tuple(taken) == RULES[text]


def test_the_first_rule_decides_and_rules_change_at_run_time(loaded, sampler):
    rules = [SampleRule(ports=(port, port)) for port in range(5000, 5000 + layout.PLACES - 1)]
    sampler.apply(SamplerSettings(rules=tuple(rules), every=1, random=False))
    sampler.read()
    last = frames.udp4_frame(destination_port=5000 + layout.PLACES - 2)
    run(loaded, last)
    assert [sample.rule for sample in sampler.read()] == [layout.PLACES - 1]
    rules[0] = SampleRule(every=0)
    sampler.apply(SamplerSettings(rules=tuple(rules), every=1))
    run(loaded, last, 5)
    assert sampler.read() == []
    sampler.apply(SamplerSettings(every=1))
    run(loaded, last, 5)
    assert len(sampler.read()) == 5
    assert adds_up(sampler).by_rule[0] == 5


def test_settings_are_read_back(sampler):
    settings = SamplerSettings(
        every=1000, snap=200, random=False, fresh_seconds=2.5, rules=tuple(
            parse_rule(text) for text in RULES if text != 'any from 0.0.0.0/0'))
    sampler.apply(settings)
    assert sampler.settings == settings
    assert [str(rule) for rule in settings.rules] == [
        text for text in RULES if text != 'any from 0.0.0.0/0']


@pytest.mark.parametrize('text', [
    '', 'foo', 'udp:70000', 'udp:9-8', 'udp from', 'udp from 10.0.0.1/8', 'udp every -1',
    'udp every 1 every 2', 'udp at 1', 'any from 10.0.0.0/8 to ::/0', '256', 'udp:',
    'udp every 2000000000'])
def test_nonsense_is_refused(text):
    with pytest.raises(BypassError, match='read the sample rule .*; write it as'):
        parse_rule(text)


@pytest.mark.parametrize('settings', [
    SamplerSettings(snap=257), SamplerSettings(every=-1), SamplerSettings(fresh_seconds=0),
    SamplerSettings(rules=(SampleRule(),) * layout.PLACES)])
def test_settings_out_of_range_change_nothing(sampler, settings):
    with pytest.raises(BypassError):
        sampler.apply(settings)
    assert sampler.settings.every == 0


def test_a_full_ring_loses_samples_and_counts_them(templates):
    template = templates.slot(slot_program('sampler'), 1, False)
    with template.instantiate(sizes={'sampler_samples': 4096}) as loaded:
        sampler = Sampler(loaded.maps)
        sampler.apply(SamplerSettings(every=1, snap=256))
        sampler.read()
        run(loaded, frames.udp4_frame(bytes(400)), 100)
        reader = adds_up(sampler).readers['node']
        assert 0 < reader.written < 100 and reader.full == 100 - reader.written
        assert len(sampler.read()) == reader.written
        run(loaded, frames.udp4_frame(), 3)
        assert len(sampler.read()) == 3
        sampler.close()


def test_a_ring_is_read_round_and_round(loaded, sampler):
    sampler.apply(SamplerSettings(every=1, snap=256))
    sampler.read()
    size = loaded.maps['sampler_samples'].max_entries
    rounds = random.Random(1)
    for number in range(2 * size // 300):
        frame = frames.udp4_frame(rounds.randbytes(rounds.randrange(300)))
        run(loaded, frame)
        if number % 10 == 9:
            assert len(sampler.read(most=4)) == 4
            rest = sampler.read()
            assert len(rest) == 6 and rest[-1].data == frame[:256]
    sampler.read()
    assert adds_up(sampler).readers['node'].written == number + 1


def test_what_cannot_be_a_record_is_skipped(loaded, sampler):
    """A length that none has, as of another program's map: reading goes on behind it."""
    sampler.apply(SamplerSettings(every=1, snap=64))
    sampler.read()
    run(loaded, frames.udp4_frame(), 3)
    sampler._ring._lengths = range(1, 9)
    assert sampler.read() == [] and sampler.resynchronised == 1
    sampler._ring._lengths = range(layout.SAMPLE.size, layout.SAMPLE.size + 65)
    run(loaded, frames.udp4_frame(), 2)
    assert len(sampler.read()) == 2
    sampler._ring._place += 4
    run(loaded, frames.udp4_frame())
    assert sampler.read() == []
    run(loaded, frames.udp4_frame())
    assert len(sampler.read()) == 1
    sampler.close()
    assert sampler.resynchronised == 2


def test_two_readers_do_not_steal_from_each_other(loaded, sampler):
    sampler.apply(SamplerSettings(every=1))
    capture = Sampler(loaded.maps, reader='capture', name='capture of a test')
    sampler.read()
    run(loaded, frames.udp4_frame(), 2)
    assert capture.read() == []  # nobody captured when they came
    run(loaded, frames.udp4_frame(), 3)
    assert (len(sampler.read()), len(capture.read())) == (5, 3)
    readers = adds_up(sampler).readers
    assert (readers['node'].unread, readers['capture'].unread) == (0, 2)
    assert readers['capture'].holder.startswith('capture of a te (pid ')
    other = Sampler(loaded.maps, reader='capture')
    with pytest.raises(ReaderError, match="'capture of a te' .* reads them; end it first"):
        other.read()
    capture.close()
    assert adds_up(sampler).readers['capture'].holder == ''
    run(loaded, frames.udp4_frame())
    assert other.read() == [] and adds_up(sampler).readers['capture'].unread == 3
    run(loaded, frames.udp4_frame())
    assert len(other.read()) == 1
    other.close()


def test_a_reader_that_hangs_is_succeeded(loaded):
    sampler = Sampler(loaded.maps, name='first')
    sampler.apply(SamplerSettings(every=1, fresh_seconds=0.1))
    sampler.read()
    run(loaded, frames.udp4_frame())
    second = Sampler(loaded.maps, name='second')

    def succeeded():
        try:
            return second.read() == []
        except ReaderError:
            return False
    wait_until(succeeded, 'the second reader')
    with pytest.raises(ReaderError, match='another process took them'):
        sampler.read()
    run(loaded, frames.udp4_frame())
    assert len(second.read(1.0)) == 1
    second.close()


def in_order(fields):
    """Return the names of a struct's fields in the order of their places."""
    return sorted(fields, key=lambda name: fields[name].offset)


def test_the_mirror_is_what_the_compiler_says(templates):
    source = bpf_source('xdp_sampler.bpf.c')
    template = templates.slot(slot_program('sampler'), 1, False)
    settings = template.maps['sampler_settings'].value
    state = template.maps['sampler_state'].value
    sample = template.maps['sampler_scratch'].value
    lease = template.maps['sampler_leases']
    assert settings.size == layout.SETTINGS_SIZE
    assert settings.fields['rule'].offset == layout.SETTINGS_HEAD.size
    assert settings.fields['rule'].nested.size == layout.RULE.size
    assert state.size == layout.STATE_SIZE and state.fields['left'].offset == layout.STATE.size
    assert sample.size == layout.SAMPLE.size + layout.SNAP
    assert sample.fields['data'].offset == layout.SAMPLE.size
    assert (lease.key.size, lease.value.size) == (layout.LEASE_KEY.size, layout.LEASE.size)
    assert in_order(lease.value.fields) == ['taken_ns', 'pid', 'pid_namespace', 'name']
    names = [name for name in in_order(sample.fields) if name not in ('facts', 'data')]
    assert names == ['time_ns', 'interface', 'queue', 'captured', 'every', 'place', 'unused']
    assert in_order(sample.fields['facts'].nested.fields) == [
        'magic', 'family', 'protocol', 'flags', 'ethertype', 'l3_offset', 'l4_offset',
        'payload_offset', 'source_port', 'destination_port', 'vlan', 'length']
    enums = header.enumerations(source.with_name('xdp_sampler.h'))
    assert enums['sampler_word']['SAMPLER_WORD_HEARTBEAT'] == layout.WORD_HEARTBEAT
    assert enums['sampler_flag'] == {'SAMPLER_RANDOM': layout.RANDOM,
                                     'SAMPLER_ADDRESSES': layout.ADDRESSES}
    assert set(layout.MAPS) <= set(template.maps)
