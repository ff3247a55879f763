"""What the demo listener counts."""

from ipc_bypass.nodes.demo_arrivals import Arrivals
from ipc_bypass.nodes.demo_streams import Identity
import pytest


def arrivals(*numbers, total=0, session='a', into=None):
    """Return Arrivals that were told of messages with these numbers, 1 ms after their sending."""
    found = into or Arrivals()
    for number in numbers:
        found.note(Identity(session, number, total, 0), 1_000_000, 10, True)
    return found


@pytest.mark.parametrize('numbers, lost, out_of_order, doubled', [
    ((0, 1, 2, 3), 0, 0, 0),
    ((7, 8, 9), 0, 0, 0),         # who joins late has lost nothing
    ((0, 1, 4), 2, 0, 0),
    ((0, 2, 1, 3), 0, 1, 0),
    ((0, 1, 1), 0, 0, 1),
    ((5, 4), 0, 1, 0),            # before the first one that came
    ((0, 3, 2), 1, 1, 0),
])
def test_counts(numbers, lost, out_of_order, doubled):
    found = arrivals(*numbers)
    told = found.summary()
    assert (told['lost'], told['out_of_order'], told['doubled']) == (lost, out_of_order, doubled)
    assert told['received'] == len(numbers)
    assert found.faultless == (not lost and not out_of_order and not doubled)


def test_a_talker_that_is_started_again_is_no_fault():
    found = arrivals(0, 1, 2)
    arrivals(0, 1, session='b', into=found)
    assert found.faultless
    assert found.summary()['sessions'] == 2


def test_complete():
    assert arrivals(0, 1, 2, total=3).complete
    assert not arrivals(0, 1, total=3).complete
    assert not arrivals(0, 2, total=3).complete
    assert arrivals(0, 2, 1, total=3).complete
    assert not arrivals(0, 1).complete
    assert arrivals(2, total=3, into=arrivals(0, 1)).complete  # the last one tells
    assert not Arrivals().complete


def test_damage_and_strangers():
    found = arrivals(0)
    found.note(Identity('a', 1, 0, 0), 1000, 10, False)
    found.note(None, 0, 10, False)
    told = found.summary()
    assert (told['damaged'], told['foreign'], told['received']) == (1, 1, 2)
    assert not found.faultless


def test_delays():
    found = Arrivals()
    for number in range(100):
        found.note(Identity('a', number, 0, 0), (number + 1) * 10_000, 10, True)
    period = found.period(2.0)
    assert (period['rate_hz'], period['bytes_per_second']) == (50.0, 500.0)
    assert (period['p50_us'], period['p99_us']) == (500.0, 990.0)
    assert found.period(1.0)['rate_hz'] == 0
    told = found.summary()
    assert told['p50_us'] == pytest.approx(500, rel=0.01)
    assert told['p99_us'] == pytest.approx(990, rel=0.01)
    assert told['max_us'] == pytest.approx(1000, rel=0.01)


def test_nothing():
    told = Arrivals().summary()
    assert (told['received'], told['first_sequence'], told['p99_us']) == (0, None, 0.0)
