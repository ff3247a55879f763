"""Messages in, metrics out: names, units, freshness, and how many series there are."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from ipc_bypass.metrics.heard import Heard
from ipc_bypass_interfaces.msg import (
    BypassStatistics,
    Counter,
    EndpointCounter,
    Flow,
    FlowArray,
    PathStatus,
    ProxyStatus,
    XdpStatus,
)
from metrics_tools import exporter, exposition, filled, Now, samples
from prometheus_client.parser import text_string_to_metric_families

UNITS = ('_bytes', '_seconds', '_messages', '_datagrams', '_connections', '_packets')
COUNTER_UNITS = (*UNITS, '_events', '_redirects', '_errors', '_fallbacks')


def statistics(state=3, **members):
    return BypassStatistics(state=state, **members)


def flows(*records, at=0):
    message = FlowArray(flows=list(records))
    message.header.stamp.sec = at
    return message


def flow(number, sender='talker', receiver='listener', port=7400, age=100.0, **members):
    return Flow(flow_id=number, local_comm=sender, remote_comm=receiver, local_port=40_000,
                remote_port=port, age=age, **members)


def every():
    """Return an Exporter that has heard all nodes."""
    made, *_ = exporter()
    message = filled(BypassStatistics())
    message.state = 3
    message.counters = [
        Counter(name=name, value=1, unit=unit) for name, unit in (
            ('passed_budget', 'messages'), ('ends_reset', 'connections'),
            ('udp_passed_no_slot', 'datagrams'), ('udp_captured_mirror_bytes', 'bytes'))]
    made.take_statistics(message)
    made.take_flows(filled(FlowArray()))
    for take, kind in ((made.take_xdp, XdpStatus), (made.take_proxy, ProxyStatus)):
        message = filled(kind())
        message.state = 3
        if kind is ProxyStatus:
            message.counters = [Counter(name='fallback_far', value=1),
                                Counter(name='sk_skb_redirected', value=1)]
            message.forwards[0].counters = [Counter(name='finished', value=1),
                                            Counter(name='connect_error_refused', value=1)]
        take(message)
    return made


def test_conventions():
    """Every metric has a help text, base units, and _total where it is a counter alone."""
    families = list(text_string_to_metric_families(exposition(every())))
    assert len(families) > 40
    for family in families:
        assert family.name.startswith('ipc_bypass_')
        assert re.fullmatch('[a-z][a-z0-9_]*', family.name)
        assert family.documentation.strip().endswith('.'), family.name
        assert not family.name.endswith(('_ms', '_kb', '_count', '_sum', '_bucket')), family.name
        if family.type == 'counter':
            assert all(sample.name == f'{family.name}_total' for sample in family.samples)
            assert family.name.endswith(COUNTER_UNITS), family.name
        for sample in family.samples:
            assert len(sample.labels) <= 5
            assert not set(sample.labels) & {'pid', 'address', 'flow_id', 'le', 'quantile'}
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def test_statistics():
    made, *_ = exporter()
    made.take_statistics(statistics(
        rules=2, flows=3, flows_redirected=2, flows_passed=1, redirected_bytes=1000,
        passed_bytes=10, redirected_messages=5, passed_messages=4, queued_bytes=77,
        datagrams_mirrored=6, datagrams_diverted=7, datagrams_passed=8,
        datagram_bytes_captured=9, pool_slots=[512, 64], pool_slots_used=[3, 1],
        paths=[PathStatus(transport='tcp', name='sk_msg', available=True, selected=True),
               PathStatus(transport='udp', name='trace')],
        counters=[Counter(name='redirected_bytes', value=1000, unit='bytes'),
                  Counter(name='passed_budget', value=4, unit='messages'),
                  Counter(name='ends_reset', value=2, unit='connections'),
                  Counter(name='udp_passed_no_slot', value=8, unit='datagrams'),
                  Counter(name='udp_stranded', value=1, unit='datagrams'),
                  Counter(name='udp_captured_mirror_bytes', value=9, unit='bytes')]))
    found = samples(made)
    for key, value in (
            (('up', ()), 1), (('xdp_up', ()), 0), (('proxy_up', ()), 0),
            (('node_state', ('active',)), 1), (('node_state', ('inactive',)), 0),
            (('path_selected', ('sk_msg', 'tcp')), 1), (('path_selected', ('trace', 'udp')), 0),
            (('rules', ()), 2), (('flows', ('redirected',)), 2), (('flows', ('passed',)), 1),
            (('bytes_total', ('redirected',)), 1000), (('messages_total', ('passed',)), 4),
            (('queued_bytes', ()), 77), (('datagrams_total', ('diverted',)), 7),
            (('datagram_captured_bytes_total', ()), 9), (('pool_slots', ('large',)), 64),
            (('pool_used_slots', ('small',)), 3), (('passed_messages_total', ('budget',)), 4),
            (('passed_datagrams_total', ('no_slot',)), 8),
            (('events_total', ('ends_reset', 'tcp')), 2),
            (('events_total', ('stranded', 'udp')), 1),
            (('counted_bytes_total', ('captured_mirror_bytes', 'udp')), 9)):
        assert found[key] == value, key


def test_flows():
    """By pair of commands and port; growth since the exporter began, none of it twice."""
    made, clock, _ = exporter(limit=2)
    made.take_statistics(statistics())
    made.take_flows(flows(flow(1, redirected_bytes=1000, queued_bytes=5), flow(2), at=10))
    made.take_flows(flows(flow(1, redirected_bytes=1500), flow(2, passed_bytes=70), flow(
        3, age=0.5, redirected_bytes=30, queued_bytes=7), at=11))
    series = ('redirected', '7400', 'listener', 'talker')
    found = samples(made)
    assert found['flow_bytes_total', ('redirected', '7400', 'listener', 'talker')] == 530
    assert found['flow_bytes_total', ('passed', '7400', 'listener', 'talker')] == 70
    assert found['flow_connections', ('7400', 'listener', 'talker')] == 3
    assert found['flow_queued_bytes', ('7400', 'listener', 'talker')] == 7
    # The flow ends, and another one comes that is old: it was left out until now.
    made.take_flows(flows(flow(4, redirected_bytes=10 ** 9), at=12))
    assert samples(made)['flow_bytes_total', series] == 530
    made.take_flows(flows(*(flow(100 + n, sender=f'node{n}', age=0.1, redirected_bytes=n)
                            for n in range(50)), at=13))
    found = samples(made)
    names = {labels[-1] for name, labels in found if name == 'flow_bytes_total'}
    assert len(names) == 3 and 'other' in names
    assert sum(value for (name, labels), value in found.items()
               if name == 'flow_connections') == 50


def test_rule_names_the_port():
    made, *_ = exporter(port_of=lambda flow: flow.local_port)
    made.take_statistics(statistics())
    made.take_flows(flows(flow(1)))
    assert samples(made)['flow_connections', ('40000', 'listener', 'talker')] == 1


def test_endpoints():
    made, *_ = exporter(limit=2)
    for turn in (0, 1):
        made.take_statistics(statistics(endpoints=[
            EndpointCounter(port=7410, pid=pid, command='talker', captured=10 * turn,
                            captured_bytes=100 * turn, passed=turn) for pid in (5, 6)]))
    # One that begins between two messages is counted from 0, unless it may have been left out.
    for pid, left_out in ((7, 1), (8, 0)):
        made.take_statistics(statistics(endpoints_left_out=left_out, endpoints=[EndpointCounter(
            port=7410, pid=pid, command='late', captured=5, passed=pid)]))
    found = samples(made)
    assert found['endpoint_datagrams_total', ('late', 'passed', '7410')] == 7
    assert found['endpoint_datagrams_total', ('talker', 'captured', '7410')] == 20
    assert found['endpoint_datagrams_total', ('talker', 'passed', '7410')] == 2
    assert found['endpoint_captured_bytes_total', ('talker', '7410')] == 200


def test_node_that_goes():
    """Silent: up is 0 and nothing else is said; it comes back, and sums go on."""
    made, clock, publishers = exporter()
    made.take_statistics(statistics(redirected_bytes=5))
    made.take_flows(flows(flow(1), at=1))
    made.take_flows(flows(flow(1, redirected_bytes=40), at=2))
    clock.seconds += 4
    assert samples(made)['up', ()] == 1
    clock.seconds += 2
    gone = {('up', ()): 0, ('xdp_up', ()): 0, ('proxy_up', ()): 0}
    assert samples(made) == gone
    made.take_statistics(statistics(redirected_bytes=1))
    made.take_flows(flows(flow(1, redirected_bytes=1000), at=20))
    found = samples(made)
    assert found['bytes_total', ('redirected',)] == 1
    assert found['flow_bytes_total', ('redirected', '7400', 'listener', 'talker')] == 40
    publishers[''] = 0
    assert samples(made) == gone


def test_slow_period_and_unconfigured():
    made, clock, _ = exporter()
    made.take_statistics(statistics())
    clock.seconds += 20
    assert samples(made)['up', ()] == 0  # its period is not known yet
    made.take_statistics(statistics())
    clock.seconds += 50
    assert samples(made)['up', ()] == 1  # three periods of 20 s
    clock.seconds += 20
    assert samples(made)['up', ()] == 0
    made.take_statistics(statistics(state=1))
    clock.seconds += 1000  # it publishes nothing until it is configured
    found = samples(made)
    assert (found['up', ()], found['node_state', ('unconfigured',)]) == (1, 1)


def test_silence():
    """Of a node that publishes in periods, as `ipc-bypass top` shows it."""
    clock = Now()
    heard = Heard(3.0, clock)
    assert heard.silence == 0 and heard.fresh() is None
    for state, period, silence in ((3, 1, 3.5), (3, 2, 6.5), (1, 2, 0)):
        heard.take(statistics(state=state))
        clock.seconds += period
        heard.take(statistics(state=state))
        clock.seconds += 3 if period == 1 else 6
        assert heard.silence == 0 and heard.fresh() is heard.last
        clock.seconds += 0.5
        assert heard.silence == silence
        assert (heard.fresh() is None) == bool(silence) and heard.last is not None


TEXT = st.text(st.characters(exclude_categories=('Cs',)), max_size=15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.integers(1, 65535), st.integers(0, 2 ** 64 - 1)),
                max_size=30))
def test_any_names(records):
    """Whatever processes call themselves, the text can be parsed, and series stay few."""
    made, *_ = exporter(limit=3)
    made.take_statistics(statistics())
    made.take_flows(flows(*(flow(number, sender, receiver, port, redirected_bytes=value)
                            for number, (sender, receiver, port, value) in enumerate(records))))
    found = samples(made)
    assert len([name for name, _ in found if name == 'flow_bytes_total']) <= 2 * 4
