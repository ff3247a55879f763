"""Rules that change while packets flow, and what is left of a filter for the next one."""

import threading

from filter_tools import ip4, ip6, rig, running, tcp, udp
from ipc_bypass.kernel.errors import BypassError, MapFullError, RuleError
from ipc_bypass.xdp.filter import tables as tables_module
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.settings import FilterSettings
import pytest


@pytest.fixture(scope='module')
def program():
    """Give the filter, for rules of each test's own."""
    with rig() as made:
        yield made


def test_no_packet_is_judged_by_half_a_set_of_rules(program):
    """Each set drops the frame, by another rule; parts of two sets would let it pass."""
    frame = ip4(udp(1, 7400))
    sets = (['deny udp 7400'], ['deny from 10.1.0.1'], ['deny to 10.2.0.0/16'],
            ['deny udp 7400 from 10.1.0.0/16'], ['deny udp sport 1'])
    program.apply(*sets[0])
    before = program.filter.status().outcomes
    with running(lambda: program.run(frame)) as turns:
        for number in range(150):
            program.filter.apply(FilterSettings(rules=sets[number % len(sets)]))
    after = program.filter.status().outcomes
    assert turns() > 150
    assert after['ip_drop_count'] - before['ip_drop_count'] == turns()
    assert after['default_pass'] == before['default_pass']


def test_adding_and_removing(program):
    program.apply('deny udp 1')
    frame = ip4(udp(5, 7400))
    assert program.run(frame)[0] == 'pass'
    rule = program.filter.add('deny udp 7400')
    assert rule.origin == 'service'
    assert program.run(frame)[0] == 'drop'
    assert program.filter.status().rules[1].packets == 1
    assert program.filter.status().rules[1].bytes == len(frame)
    exception = program.filter.add('allow udp 7400 from 10.1.0.1')
    assert program.run(frame)[0] == 'pass'
    assert program.filter.remove(exception.id) == exception
    assert program.run(frame)[0] == 'drop'
    # A rule that stays keeps its counters, one that comes again begins anew.
    assert program.filter.status().rules[1].packets == 2
    program.filter.remove('deny udp 7400')
    assert program.run(frame)[0] == 'pass'
    assert program.filter.add('deny udp 7400').id > exception.id
    assert [rule.packets for rule in program.filter.status().rules] == [0, 0]


def test_what_is_refused_changes_nothing(program):
    program.apply('deny udp 7400')
    before = program.filter.rules()
    with pytest.raises(RuleError):
        program.filter.apply(FilterSettings(rules=['deny udp 1', 'nonsense']))
    with pytest.raises(RuleError) as caught:
        program.filter.add('allow udp 7400')
    assert caught.value.rule_id == before[0].id
    with pytest.raises(RuleError):
        program.filter.remove(99)
    assert program.filter.rules() == before == program.filter.table.rules()
    assert program.run(ip4(udp(5, 7400)))[0] == 'drop'


@pytest.mark.parametrize('number, error', [(28, MapFullError), (1, BypassError)])
def test_maps_that_cannot_be_written_leave_the_rules_in_force(program, monkeypatch, number,
                                                              error):
    program.apply('deny udp 7400')

    def refuse(*_arguments):
        raise OSError(number, 'refused')
    monkeypatch.setattr(tables_module.syscall, 'map_update_batch', refuse)
    for change in (lambda: program.filter.apply(FilterSettings(rules=['deny from fd00::3'])),
                   lambda: program.filter.add('deny from fd00::3')):
        with pytest.raises(error):
            change()
    monkeypatch.undo()
    assert [str(rule) for rule in program.filter.table.rules()] == ['deny udp dport 7400']
    assert program.run(ip4(udp(5, 7400)))[0] == 'drop'
    program.filter.add('deny from 10.1.2.3')
    assert program.run(ip4(udp(5, 1), source='10.1.2.3'))[0] == 'drop'


def test_a_filter_goes_on_with_the_maps_of_an_earlier_one(program):
    """As after a node that was killed: what it left is found, and replaced."""
    program.apply('deny udp 7400', 'deny from 10.1.0.0/16', 'deny to fd00:2::1')
    later = Filter(program.maps)
    assert program.run(ip4(udp(5, 1)))[0] == 'drop'
    assert program.run(ip6(udp(5, 1)))[0] == 'drop'
    later.apply(FilterSettings(rules=['deny tcp 22']))
    assert program.run(ip4(udp(5, 7400)))[0] == 'pass'
    assert program.run(ip6(udp(5, 1)))[0] == 'pass'
    assert program.run(ip4(tcp(5, 22), 6))[0] == 'drop'
    # Twice: both generations are clean.
    later.apply(FilterSettings())
    assert program.run(ip4(udp(5, 7400)))[0] == 'pass'
    program.filter.take_over(program.maps)
    assert program.run(ip4(udp(5, 7400)))[0] == 'drop'


def test_several_filters_share_a_table(program):
    with rig() as other:
        table = FilterTable()
        filters = [Filter(made.maps, table) for made in (program, other)]
        for one in filters:
            one.sync(FilterSettings(default_action='deny'))
        rule = table.add('allow udp 7400', 'service')
        for one in filters:
            one.sync()
        for made, one in zip((program, other), filters, strict=True):
            assert made.run(ip4(udp(1, 7400)))[0] == 'pass'
            assert made.run(ip4(udp(1, 7401)))[0] == 'drop'
            assert [(shown.id, shown.packets) for shown in one.status().rules] == [(rule.id, 1)]


def test_many_threads_may_ask(program):
    program.apply()
    faults = []

    def change(start):
        try:
            for port in range(start, start + 20):
                program.filter.remove(program.filter.add(f'deny udp {port}').id)
        except BypassError as error:
            faults.append(error)
    threads = [threading.Thread(target=change, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert not program.filter.rules()
