"""The rate limiter's program: exact against a model of token buckets, at times that tests set."""

import ctypes
from fractions import Fraction
import os
import random
import struct
import threading

from ipc_bypass.kernel import header
from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import BpfCmd
from ipc_bypass.xdp import limiter_layout as layout
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.limits import Limit
from limiter_tools import Lab, MILLISECOND, packet, SECOND, START
import pytest


@pytest.fixture
def lab(templates):
    with Lab(templates) as made:
        yield made


class Bucket:
    """A token bucket, in fractions."""

    def __init__(self, rate, burst):
        """Begin full."""
        self.rate, self.burst, self.tokens, self.time = Fraction(rate), burst, burst, 0

    def look(self, now):
        """Return what there is."""
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate / SECOND)
        self.time = now
        return self.tokens


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(('packets', 'burst', 'bytes_', 'byte_burst'), [
    (1000, 5, 0, 0), (0, 0, 1_000_000, 3000), (1000, 20, 500_000, 5000), (8, 1, 4000, 1500),
    (100_000, 1000, 0, 0)])
def test_each_decision_is_that_of_token_buckets(lab, seed, packets, burst, bytes_, byte_burst):
    lab.limiter.apply([Limit('10.0.0.0/8', packets, burst, bytes_, byte_burst)])
    chance = random.Random(seed)
    by_packets, by_bytes = Bucket(packets, burst), Bucket(bytes_, byte_burst)
    mean = SECOND / packets if packets else SECOND * 500 / bytes_
    now, expected = 0, dict.fromkeys(layout.COUNTS, 0)
    for _ in range(800):
        # In bursts and pauses, around the rate; on whole nanoseconds the model is exact.
        now += round(chance.choice((0, 0, 0.5, 1, 2, 4, 20)) * mean * chance.random())
        size = chance.choice((0, 18, 300, 1000))
        frame = packet(size=size)
        length = len(frame)
        enough = not packets or by_packets.look(now) >= 1
        enough_bytes = not bytes_ or by_bytes.look(now) >= length
        lab.at(now)
        assert lab.passes(frame) == (enough and enough_bytes)
        if enough and enough_bytes:
            by_packets.tokens -= 1
            by_bytes.tokens -= length
            expected['passed'] += 1
            expected['passed_bytes'] += length
        else:
            name = 'dropped_by_bytes' if enough else 'dropped_by_packets'
            expected[name] += 1
            expected['dropped_bytes'] += length
    status = lab.checked(800)
    assert status.limits[0].counts == expected
    assert min(expected['passed'], expected['dropped_bytes']) > 0 or packets == 100_000


def test_the_clock_may_wrap(lab):
    # Times are kept modulo 2^56 ns.
    lab.apply('10.0.0.0/8 packets 1000 burst 3')
    for start in ((1 << 56) - START - MILLISECOND, (1 << 56) - START + 10 * SECOND):
        for step in range(4):
            lab.at(start + step * MILLISECOND)
            assert lab.passed(packet(), 5) == (1 if step else 3)


def test_a_bucket_of_more_than_a_year_ago_is_empty_and_fills(lab):
    lab.apply('10.0.0.0/8 packets 1000 burst 3')
    assert lab.passed(packet(), 5) == 3
    later = (1 << 55) + 10 * SECOND  # where its time looks as if it were to come
    lab.at(later)
    assert lab.passed(packet(), 5) == 0
    lab.at(later + 2 * MILLISECOND)
    assert lab.passed(packet(), 5) == 2
    lab.at(later + SECOND)
    assert lab.passed(packet(), 5) == 3


def test_a_clock_that_is_behind_takes_nothing_away(lab):
    lab.apply('10.0.0.0/8 packets 1000 burst 4')
    lab.at(10 * MILLISECOND)
    assert lab.passed(packet(), 2) == 2
    lab.at(9 * MILLISECOND)  # another processor's look at the clock
    assert lab.passed(packet(), 2) == 1
    lab.at(10 * MILLISECOND)
    assert lab.passed(packet(), 2) == 1


def run_many(program, frame, times):
    given, answer = buffer_of(frame), ctypes.create_string_buffer(len(frame) + 256)
    bpf(BpfCmd.PROG_TEST_RUN, bytearray(struct.pack(
        '=IIIIQQIIIIQQ', program, 0, len(frame), len(answer), address(given), address(answer),
        times, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(('text', 'passing'), [
    ('packets 1 burst 5000', 5000), ('bytes 1000 byte_burst 1000000', 1_000_000 // 74),
    ('packets 1 burst 9000 bytes 1000 byte_burst 296000', 4000)])
def test_processors_share_a_bucket_without_locks(lab, text, passing):
    frame = packet()
    assert len(frame) == 74
    lab.apply(f'10.0.0.0/8 {text}')
    threads, times = 2 * (os.cpu_count() or 1), 100_000
    running = [threading.Thread(target=run_many, args=(
        lab.loaded.programs['xdp_limiter'], frame, times)) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    totals = lab.checked(threads * times).totals
    # The clock stands: what a full bucket holds passes, and what could not be decided.
    assert totals['passed'] == passing
    assert totals['contended'] + totals['dropped_by_packets'] + totals['dropped_by_bytes'] == \
        threads * times - passing


def test_the_mirror_is_what_the_compiler_says(templates):
    maps = templates.slot(slot_program('rate_limiter', LIMITER_CLOCK_MAP=1), 3, False).maps
    limit, prefix = maps['limiter_limits'].value, maps['limiter_limits'].key
    assert (limit.size, prefix.size) == (layout.LIMIT.size, layout.PREFIX.size)
    assert list(limit.fields) == [
        'packet_cost', 'packet_capacity', 'byte_cost', 'byte_capacity', 'identity', 'place',
        'flags', 'unused', 'mask', 'range']
    assert prefix.fields['address'].offset == 4 + layout.PREFIX_HEAD_BITS // 8
    assert maps['limiter_buckets'].key.size == layout.BUCKET_KEY.size
    assert maps['limiter_buckets'].value.size == layout.BUCKET.size
    assert tuple(maps['limiter_counts'].value.fields) == layout.COUNTS
    assert tuple(maps['limiter_totals'].value.fields) == (*layout.TOTALS, 'limited')
    assert maps['limiter_totals'].value.size == layout.TOTALS_STRUCT.size
    assert maps['limiter_counts'].max_entries == layout.LIMITS
    source = bpf_source('xdp_limiter.h')
    enums, text = header.enumerations(source), source.read_text()
    assert list(enums['limiter_kind'])[:-1] == [f'LIMITER_{kind.upper()}' for kind in layout.KINDS]
    assert enums['limiter_word']['LIMITER_WORD_DRY_RUN'] == layout.WORD_DRY_RUN
    assert enums['limiter_word']['LIMITER_WORD_CLOCK'] == layout.WORD_CLOCK
    assert enums['limiter_flag'] == {'LIMITER_DRY_RUN': layout.DRY_RUN,
                                     'LIMITER_PACKETS': layout.PACKETS,
                                     'LIMITER_BYTES': layout.BYTES}
    for name, value in (('TIME', layout.TIME_SHIFT), ('COST', layout.COST_SHIFT)):
        assert f'#define LIMITER_{name}_SHIFT' in text
        assert text.split(f'#define LIMITER_{name}_SHIFT')[1].split()[0] == str(value)
    assert set(layout.MAPS) <= set(maps)
