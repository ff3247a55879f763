"""ddsperf's own output, as 0.10.2 printed it here, and short runs of it."""

from contextlib import contextmanager
import os
from pathlib import Path
import signal

from ipc_bypass.bench import ddsperf, profiles
from ipc_bypass.bench.containers import Containers, Namespace
import pytest

PING = """\
[12647] participant vm:12647: new (self)
[12647] participant vm:12631: new
[12647] 2.000  vm:12631 size 1048576 mean 1028.465us min 615.101us 50% 929.161us \
90% 1183.178us 99% 2776.418us max 23560.231us cnt 482
[12647] 2.000  rss:17.3MB vcsw:4394 ivcsw:2347 recv:5%+12% ping:7%+0% pong:14%+13%
[12647] 3.001  vm:12631 size 1048576 mean 1604.136us min 589.097us 50% 906.878us \
90% 1271.653us 99% 22776.806us max 23460.914us cnt 304
[12647] 3.001  rss:17.4MB vcsw:2480 ivcsw:1283 recv:3%+8% ping:7%+0% pong:10%+9%
"""
# The first second is the one in which they find each other; the last one a stall, as -1 has it.
SUB = """\
[12591] participant vm:12591: new (self)
[12591] participant vm:12601: new
[12591] 1.000  size 0 total 0 lost 0 delta 0 lost 0 rate 0.00 kS/s 0.00 Mb/s (0.00 kS/s 0.00 Mb/s)
[12591] 2.000  size 16384 total 312 lost 0 delta 312 lost 0 rate 0.31 kS/s 40.97 Mb/s \
(0.03 kS/s 4.70 Mb/s)
[12591] 2.000  rss:12.2MB vcsw:1061 ivcsw:1030 tev:0%+1% recv:4%+9%
[12591] 3.000  size 16384 total 9312 lost 0 delta 9000 lost 0 rate 9.00 kS/s 53.31 Mb/s \
(0.09 kS/s 792.78 Mb/s)
[12591] 5.000  size 16384 total 10312 lost 3 delta 1000 lost 3 rate 0.50 kS/s 7.32 Mb/s \
(0.18 kS/s 1545.13 Mb/s)
[12591] 6.000  size 16384 total 10312 lost 3 delta 0 lost 0 rate 0.00 kS/s 0.00 Mb/s \
(0.18 kS/s 1545.13 Mb/s)
[12591] participant vm:12601: gone
"""


def seconds_of(text):
    return [second for second in map(ddsperf.parse, text.splitlines()) if second]


def test_a_round_trip_is_twice_what_is_printed():
    first, second = seconds_of(PING)
    assert (first.time, first.size) == (2.0, 1048576)
    assert first.values == pytest.approx(
        {'p50_us': 1858.322, 'p99_us': 5552.836, 'mean_us': 2056.93})
    assert second.values['mean_us'] == pytest.approx(3208.272)


def test_samples_and_losses_of_a_second():
    seconds = seconds_of(SUB)
    assert [second.values['count'] for second in seconds] == [0, 312, 9000, 1000, 0]
    assert [second.lost for second in seconds] == [0, 0, 0, 3, 0]


def test_a_rate_is_by_the_time_that_passed_and_begins_after_the_first_traffic():
    metrics = ddsperf.measured(seconds_of(SUB), drop=0)
    assert metrics == [{'samples_per_s': 9000.0}, {'samples_per_s': 500.0}, {'samples_per_s': 0.0}]
    assert ddsperf.measured(seconds_of(SUB), drop=1) == metrics
    assert ddsperf.measured(seconds_of(SUB), drop=2) == metrics[1:]


def test_round_trips_drop_as_many_seconds_as_asked():
    values = [second.values for second in seconds_of(PING)]
    assert ddsperf.measured(seconds_of(PING), drop=0) == values
    assert ddsperf.measured(seconds_of(PING), drop=1) == values[1:]
    assert ddsperf.measured([]) == []


@contextmanager
def one_host(_role=''):
    with Namespace('test') as place:
        yield place, place


@pytest.mark.parametrize('places', [one_host, Containers])
@pytest.mark.parametrize('transport', ['udp', 'tcp'])
@pytest.mark.parametrize('workload', [ddsperf.ROUNDTRIP, ddsperf.THROUGHPUT])
def test_real_peers_are_measured(privileged, ddsperf_there, places, transport, workload):
    with places() as (here, there):
        uris = ('', '')
        if transport == 'tcp':
            uris = (profiles.tcp(here.address, 27440, there.address, 27441),
                    profiles.tcp(there.address, 27441, here.address, 27440))
        elif here is there:
            uris = (profiles.loopback_udp(),) * 2
        metrics = ddsperf.run(workload, 1024, ddsperf.Peer(here, uris[0]),
                              ddsperf.Peer(there, uris[1]), seconds=1, drop=0)
    assert len(metrics) == 1
    names = {ddsperf.ROUNDTRIP: {'p50_us', 'p99_us', 'mean_us'},
             ddsperf.THROUGHPUT: {'samples_per_s'}}
    assert set(metrics[0]) == names[workload]
    assert all(value > 0 for value in metrics[0].values())


def test_a_killed_peer_is_an_error_and_leaves_nothing(privileged, ddsperf_there, ours):
    def kill_the_ponger():
        for pid in peers_of(place):
            if b'pong' in Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0'):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(ddsperf.DdsperfError, match='ddsperf pong: it ended with status -9'):
        with Namespace('test') as place:
            peer = ddsperf.Peer(place, profiles.loopback_udp())
            ddsperf.run(ddsperf.ROUNDTRIP, 1024, peer, peer, seconds=5, tick=kill_the_ponger)
    assert ours(os.getpid()) == []


def test_a_peer_that_refuses_its_configuration_is_an_error(privileged, ddsperf_there):
    with Namespace('test') as place:
        peer = ddsperf.Peer(place, '<CycloneDDS><Domain><NoSuch/></Domain></CycloneDDS>')
        with pytest.raises(ddsperf.DdsperfError, match='NoSuch'):
            ddsperf.run(ddsperf.ROUNDTRIP, 1024, peer, peer, seconds=1)


def peers_of(place):
    """Return the ids of our ddsperf processes in a place."""
    holder = os.stat(f'/proc/{place.holder_pid}/ns/net').st_ino
    found = []
    for path in Path('/proc').glob('[0-9]*'):
        try:
            if (path / 'comm').read_text().strip() == 'ddsperf' and (
                    os.stat(path / 'ns/net').st_ino == holder):
                found.append(int(path.name))
        except OSError:
            continue
    return found
