"""Series that come and go: nothing is counted twice, nothing is lost, and they stay few."""

from hypothesis import given, settings
from hypothesis import strategies as st
from ipc_bypass.metrics.ledger import Ledger, OTHER, Source


def test_growth_only():
    ledger = Ledger(1, 10)
    ledger.update({1: Source('a', (100,)), 2: Source('a', (50,), new=True)})
    assert ledger.rows() == {'a': (50,)}  # what an old one had before is not growth
    ledger.update({1: Source('a', (130,)), 2: Source('a', (50,))})
    assert ledger.rows() == {'a': (80,)}
    ledger.update({1: Source('a', (10,))})  # another one under its name, from 0
    assert ledger.rows() == {'a': (90,)}
    ledger.update({})
    assert ledger.rows() == {'a': (90,)}


def test_fast_newcomer_takes_over():
    ledger = Ledger(1, 2)
    for turn in range(1, 30):
        ledger.update({name: Source(name, (speed * turn,), new=True) for name, speed in
                       (('slow', 1), ('middle', 100), ('late', 0))})
    assert set(ledger.rows()) == {'slow', 'middle'}
    for turn in range(1, 30):
        ledger.update({'late': Source('late', (1000 * turn,), new=True)})
    rows = ledger.rows()
    assert set(rows) == {'middle', 'late'}
    assert rows['late'] == (29_000,)


STEPS = st.lists(st.dictionaries(st.integers(0, 8), st.integers(0, 1000)), max_size=15)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 4))
def test_every_byte_is_in_one_series(steps, limit):
    """The growth of the sum over all series is that of the sources, whichever are shown."""
    ledger, totals, seen_before = Ledger(1, limit), {}, {}
    for step in steps:
        for name, amount in step.items():
            totals[name] = totals.get(name, 0) + amount
        present = {name: totals[name] for name in step}
        before = ledger.rows()
        ledger.update({name: Source(f's{name % 5}', (value,), new=name not in seen_before)
                       for name, value in present.items()})
        growth = sum(value - seen_before.get(name, 0) for name, value in present.items())
        after = ledger.rows()
        kept = sum(values[0] - before.get(name, (0,))[0] for name, values in after.items()
                   if name in before)
        fresh = sum(values[0] for name, values in after.items() if name not in before)
        assert kept + fresh == growth
        assert len(set(after) - {OTHER}) <= limit
        assert all(values[0] >= before[name][0] for name, values in after.items()
                   if name in before)
        seen_before = present
