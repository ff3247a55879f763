"""What is measured, and how long that takes."""

from ipc_bypass.compare import measure, ways
from ipc_bypass.compare.messages import DEFAULT, Message
import pytest

ALL = tuple(Message(100 + number, 10.0 * number + 1) for number in range(8))


@pytest.mark.parametrize('kind', ways.KINDS)
@pytest.mark.parametrize('given', [DEFAULT, ALL])
def test_a_quick_plan_is_quick(kind, given):
    plan = measure.plan(kind, ways.PLACEMENTS, given, quick=True)
    assert plan.duration < 38
    assert plan.repeats == 1


def test_a_quick_plan_keeps_what_weighs_most_and_what_comes_most():
    kept = measure.of_quick('fastdds', (Message(20, 1.0), Message(1 << 20, 30.0),
                                        Message(200, 1000.0)))
    assert kept == (Message(1 << 20, 30.0), Message(200, 1000.0))
    assert measure.of_quick('fastdds', (Message(200, 10.0),)) == (Message(200, 10.0),)


def test_a_plan_takes_medians_of_three():
    plan = measure.plan('fastdds', ways.PLACEMENTS, DEFAULT)
    assert plan.repeats == 3
    assert plan.steps == 3 * 2 * 9
    assert measure.plan('fastdds', ways.PLACEMENTS, DEFAULT, repeats=7).repeats == 7


def test_a_way_that_is_left_out_is_not_in_the_plan():
    plan = measure.plan('fastdds', ['same-host'], DEFAULT, left_out={ways.REDIRECTED: 'why'})
    assert plan.ways == {'same-host': ('default', 'udp', 'tcp', 'shared memory')}


@pytest.mark.parametrize('kind', ways.KINDS)
@pytest.mark.parametrize('placement', ways.PLACEMENTS)
def test_every_way_is_made_with_its_profile(kind, placement, tmp_path):
    made = ways.make(kind, placement, ('198.18.0.1', '198.18.0.2'), tmp_path)
    assert tuple(way.name for way in made) == ways.names(kind, placement)
    assert ways.SHARED_MEMORY in ways.names(kind, placement) or ways.left_out(kind, placement)
    domains = [way.environment.get('ROS_DOMAIN_ID') for way in made]
    assert kind == 'cyclonedds' or len(set(domains)) == len(domains)
    for way in made:
        command = way.command('198.18.0.1', 'true')
        assert command[-1] == 'true'
        profiled = way.name not in (ways.DEFAULT, ways.UDP)
        assert profiled == any(word.endswith('run_with_port.py') for word in command)


def test_the_rule_covers_the_ports_of_the_redirected_way_alone():
    first, last = map(int, ways.REDIRECTED_PORTS.split('-'))
    assert list(ways.RULE_PORTS) == list(range(first, last + 1))
    first, last = map(int, ways.PLAIN_PORTS.split('-'))
    assert not set(ways.RULE_PORTS) & set(range(first, last + 1))


def test_what_a_user_has_set_does_not_reach_the_default():
    kept = ways.clean({'PATH': '/bin', 'CYCLONEDDS_URI': 'x', 'ZENOH_CONFIG': 'y',
                       'FASTDDS_DEFAULT_PROFILES_FILE': 'z', 'MALLOC_MMAP_THRESHOLD_': '1'})
    assert kept == {'PATH': '/bin'}


def test_rows_are_medians_and_losses_are_sums():
    image, state = DEFAULT
    plan = measure.plan('fastdds', ['containers'], DEFAULT)
    measured = measure.Measured({
        ('containers', 'tcp', 'at 1000 Hz', state): [{'lost': 1}],
        ('containers', 'default', 'at 30 Hz', image): [
            {'p50_us': 5.0, 'lost': 1}, {'p50_us': 1.0, 'lost': 2}, {'p50_us': 2.0, 'lost': 0}],
        ('containers', 'default', 'round trip', image): [{'p50_us': 3.0}]})
    rows = measure.rows_of(plan, measured)
    assert [(row.size, row.workload, row.metric, row.value) for row in rows] == [
        (1 << 20, 'round trip', 'p50_us', 3.0), (1 << 20, 'at 30 Hz', 'p50_us', 2.0),
        (1 << 20, 'at 30 Hz', 'lost', 3), (200, 'at 1000 Hz', 'lost', 1)]
    assert measure.rate_of('at 30 Hz') == 30.0
    assert measure.rate_of('round trip') == 0.0
