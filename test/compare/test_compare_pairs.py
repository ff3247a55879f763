"""Real pairs of Fast DDS, Cyclone DDS and zenoh, on each way that needs no node."""

import os
import sys
import time

from ipc_bypass.compare import ways
from ipc_bypass.compare.ddsperf_pair import DdsperfPair
from ipc_bypass.compare.messages import Message
from ipc_bypass.compare.pair import Pair
from ipc_bypass.compare.places import both
from ipc_bypass.compare.process import PairError, Process
import pytest

IMAGE, STATE = Message(256 << 10, 30.0), Message(200, 200.0)


def measured(kind, placed, backend, tmp_path):
    """Measure each way for a moment, and check what comes."""
    placement, places = placed
    made = ways.make(kind, placement, (places[0].address, places[1].address), tmp_path)
    pairs = [Pair(way, places, backend, [STATE, IMAGE]) for way in made]
    entered = []
    try:
        for pair in pairs:
            entered.append(pair.__enter__())
        for pair in pairs:
            pair.ready()
            found = pair.roundtrip(STATE, 0.2)
            assert 0 < found['p50_us'] <= found['p99_us'], pair.way.name
            found = pair.stream(IMAGE, IMAGE.rate, 0.4, 2.0)
            assert found['sent'] == 12
            assert found['lost'] == 0, pair.way.name
            assert found['cpu_ms_per_megabyte'] > 0
            assert pair.flat_out(IMAGE, 0.2)['messages_per_s'] > 0
    finally:
        for pair in entered:
            pair.__exit__(None, None, None)


def test_fast_dds_takes_each_way(rclpy_there, placed, tmp_path):
    measured('fastdds', placed, 'rclpy', tmp_path)


def test_zenoh_takes_each_way(placed, tmp_path):
    pytest.importorskip('zenoh', reason='needs eclipse-zenoh')
    measured('zenoh', placed, 'zenoh', tmp_path)


@pytest.mark.parametrize('name', [ways.UDP, ways.TCP])
def test_cyclone_takes_each_way(ddsperf_there, privileged, tmp_path, name):
    with both(ways.CONTAINERS) as places:
        made = ways.make('cyclonedds', ways.CONTAINERS, (places[0].address, places[1].address),
                         tmp_path)
        pair = DdsperfPair(next(way for way in made if way.name == name), places)
        pair.ready()
        assert 0 < pair.roundtrip(IMAGE, 1.0)['p50_us']
        found = pair.at_rate(IMAGE, 1.0)
        assert found['lost'] == 0
        assert found['cpu_ms_per_megabyte'] >= 0


def test_an_end_that_hangs_ends_the_wait_and_then_itself():
    with Process('x', [sys.executable, '-c', 'import time; print("on", flush=True); '
                                             'time.sleep(60)'], dict(os.environ)) as process:
        assert process.line(10) == 'on'
        begin = time.monotonic()
        with pytest.raises(PairError, match='no answer within 0 s / on'):
            process.line(0.3)
        assert process.cpu() >= 0
    assert time.monotonic() < begin + 10


def test_an_end_that_dies_says_why():
    with Process('x', [sys.executable, '-c', 'raise SystemExit("broken")'],
                 dict(os.environ)) as process:
        with pytest.raises(PairError, match='measure x: it has ended / broken'):
            process.line(10)
    with pytest.raises(PairError, match='start /nowhere'):
        Process('x', ['/nowhere'], {}).__enter__()
