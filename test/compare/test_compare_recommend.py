"""The rule that chooses a way, on rows that stand for each of its conditions."""

from ipc_bypass.compare.recommend import recommend
import pytest

RATE = 'at 30 Hz'
DEFAULT = {('round trip', 'p50_us'): 20000, ('round trip', 'p99_us'): 30000,
           ('round trip', 'lost'): 0, (RATE, 'p50_us'): 10000, (RATE, 'p99_us'): 15000,
           (RATE, 'lost'): 0, (RATE, 'cpu_ms_per_megabyte'): 8,
           ('flat out', 'messages_per_s'): 100}
BETTER = {('round trip', 'p50_us'): 2000, ('round trip', 'p99_us'): 3000,
          ('round trip', 'lost'): 0, (RATE, 'p50_us'): 1000, (RATE, 'p99_us'): 1500,
          (RATE, 'lost'): 0, (RATE, 'cpu_ms_per_megabyte'): 2,
          ('flat out', 'messages_per_s'): 800}


@pytest.fixture
def chosen(row):
    """Return a function that gives the recommendation for {way: {(workload, metric): value}}."""
    def recommended(**ways):
        rows = [row(name.replace('_', ' '), workload, metric, value)
                for name, figures in ways.items() for (workload, metric), value in figures.items()]
        return recommend(rows, 'fastdds', 'containers')
    return recommended


def test_a_way_that_is_better_is_taken_with_its_figures(chosen):
    found = chosen(default=DEFAULT, tcp_redirected=BETTER)
    assert found.way == 'tcp redirected'
    assert found.changes
    assert '2,000 µs in place of 20,000 µs (10.0 times shorter)' in found.text
    # 8 ms/MB at 30 Hz of 1.05 MB.
    assert '62.9 ms of CPU time a second, by default 252' in found.text
    assert 'nothing was lost' in found.text


def test_alike_is_left_as_it_is(chosen):
    found = chosen(default=DEFAULT, udp=DEFAULT, tcp={
        key: value / 1.05 if key[1] == 'p50_us' else value for key, value in DEFAULT.items()})
    assert not found.changes
    assert found.text.startswith('Leave things as they are')
    assert all('no median and no CPU time is better by 10%' in line for line in found.refused)
    assert len(found.refused) == 2


@pytest.mark.parametrize(('key', 'value', 'reason'), [
    ((RATE, 'lost'), 1, 'at 30 Hz: lost 1'),
    (('round trip', 'lost'), 1, 'round trip: lost 1'),
    ((RATE, 'p50_us'), 11100, 'median 11,100'),
    ((RATE, 'p99_us'), 22600, '99th percentile 22,600'),
    ((RATE, 'cpu_ms_per_megabyte'), 8.9, 'CPU time a second'),
    (('flat out', 'messages_per_s'), 50, 'messages/s 50')])
def test_one_figure_that_is_worse_speaks_against_a_way(chosen, key, value, reason):
    found = chosen(default=DEFAULT, tcp={**BETTER, key: value})
    assert not found.changes
    assert reason in found.refused[0]


@pytest.mark.parametrize(('key', 'value'), [
    ((RATE, 'p50_us'), 10900), ((RATE, 'p99_us'), 22000),
    ((RATE, 'cpu_ms_per_megabyte'), 8.7), (('flat out', 'messages_per_s'), 61)])
def test_what_is_within_the_bounds_does_not(chosen, key, value):
    assert chosen(default=DEFAULT, tcp={**BETTER, key: value}).way == 'tcp'


def test_a_difference_of_a_wake_up_is_none(chosen):
    short = {**DEFAULT, ('round trip', 'p50_us'): 150, ('round trip', 'p99_us'): 400}
    assert chosen(default=short, tcp={**BETTER, ('round trip', 'p50_us'): 240,
                                      ('round trip', 'p99_us'): 1300}).way == 'tcp'
    assert not chosen(default=short, tcp={**BETTER, ('round trip', 'p50_us'): 260}).changes


def test_what_the_default_loses_too_may_be_lost(chosen):
    losing = {**DEFAULT, (RATE, 'lost'): 5}
    found = chosen(default=losing, tcp={**BETTER, (RATE, 'lost'): 2})
    assert found.way == 'tcp'
    assert '2 messages were lost' in found.text
    assert not chosen(default=losing, tcp={**BETTER, (RATE, 'lost'): 6}).changes


def test_a_tie_goes_to_what_takes_less(chosen):
    close = {key: value / 1.05 if key[1] in ('p50_us', 'cpu_ms_per_megabyte') else value
             for key, value in BETTER.items()}
    found = chosen(default=DEFAULT, tcp_redirected=close, tcp=BETTER)
    assert found.way == 'tcp'
    assert 'tcp redirected' in found.refused[0]
    assert 'which takes less to use' in found.refused[0]
    found = chosen(default=DEFAULT, tcp_redirected=BETTER, shared_memory=BETTER)
    assert found.way == 'shared memory'


def test_a_clear_gain_goes_before_what_takes_less(chosen):
    clear = {key: value / 2 if key[1] in ('p50_us', 'cpu_ms_per_megabyte') else value
             for key, value in BETTER.items()}
    assert chosen(default=DEFAULT, tcp=BETTER, tcp_redirected=clear).way == 'tcp redirected'


def test_what_could_not_be_measured_is_not_taken(chosen):
    part = {key: value for key, value in BETTER.items() if key[0] != RATE}
    found = chosen(default=DEFAULT, tcp=part)
    assert not found.changes
    assert 'at 30 Hz could not be measured' in found.refused[0]


def test_without_a_default_nothing_is_said(chosen):
    found = chosen(tcp=BETTER)
    assert not found.changes
    assert 'the default could not be measured' in found.text


def test_the_cpu_time_is_that_of_the_messages_at_their_rates(row):
    # A small message costs more, and the large one pays for it many times over.
    rows = [row('default', 'at 30 Hz', 'cpu_ms_per_megabyte', 10),
            row('default', 'at 1000 Hz', 'cpu_ms_per_megabyte', 1000, 200),
            row('tcp', 'at 30 Hz', 'cpu_ms_per_megabyte', 3),
            row('tcp', 'at 1000 Hz', 'cpu_ms_per_megabyte', 1500, 200)]
    assert recommend(rows, 'fastdds', 'containers').way == 'tcp'
    rows[3] = row('tcp', 'at 1000 Hz', 'cpu_ms_per_megabyte', 4000, 200)
    assert not recommend(rows, 'fastdds', 'containers').changes


def test_other_placements_and_kinds_do_not_count(chosen, row):
    rows = [row('default', 'round trip', 'p50_us', 1000), row('tcp', 'round trip', 'p50_us', 100)]
    assert recommend(rows, 'fastdds', 'containers').way == 'tcp'
    assert not recommend(rows, 'fastdds', 'same-host').changes
    assert not recommend(rows, 'zenoh', 'containers').changes
