"""The node captures datagrams, shares the pool, and tells of both."""

import os
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass_interfaces.msg import PacketBypassed
from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort
from node_tools import inside
import pytest
from support.processes import Script
from support.waiting import wait_until

PROCESS = os.path.join(os.path.dirname(__file__), 'datagram_process.py')
#: An RTPS message: header with vendor Cyclone DDS, one INFO_TS submessage.
RTPS = b'RTPS\2\1\1\x10' + bytes(range(12)) + b'\x09\x01\x08\x00' + bytes(8)


@pytest.fixture
def process(cgroup):
    """Yield a process in the served cgroup that sends and receives datagrams."""
    with Script(PROCESS, prefix=inside(cgroup)) as script:
        yield script


@pytest.fixture
def control(tmp_path):
    """Return where the node listens for consumers."""
    return str(tmp_path / 'pool.sock')


@pytest.fixture
def capturing(start, control):
    """Return a function that starts an active node which captures; takes parameters."""
    def started(**parameters):
        node = start(udp_path='cgroup_skb', tcp_path='loopback', control_socket=control,
                     pool_size=8 << 20, heartbeat_ms=5000,
                     statistics_period_s=0.1, diagnostics_period_s=0.1,
                     **parameters)
        node.bring_up()
        return node
    return started


def wait_for(node, heard, condition, what):
    """Return the first message that meets `condition`."""
    return node.client.spin_until(
        lambda: next((message for message in heard if condition(message)), None), what)


def check_sums(statistics):
    """Assert that what is said of datagrams adds up; return the counters by name."""
    counters = {counter.name: counter.value for counter in statistics.counters}
    assert statistics.datagrams == (statistics.datagrams_mirrored + statistics.datagrams_diverted
                                    + statistics.datagrams_passed)
    assert statistics.datagrams_passed == sum(
        value for name, value in counters.items()
        if name.startswith('udp_passed_') and name != 'udp_passed_bytes')
    assert sum(endpoint.captured + endpoint.passed for endpoint in statistics.endpoints) \
        == statistics.datagrams
    return counters


def test_mirrored_by_the_node_itself(capturing, process, ports):
    """Without any consumer of the user's, the node collects; events and statistics tell."""
    port = next(ports)
    node = capturing(rules=[f'udp:{port}'], events_per_second=1000.0)
    statistics = node.statistics()
    events = node.client.listen(PacketBypassed, f'{node.name}/events')
    receiver = process.ask('receiver', port)

    def seen():
        process.ask('send', port, RTPS.hex(), 1)
        process.ask('receive', receiver, 1)
        return node.client.spin_until(lambda: events or time.sleep(0.2) or True, 'a turn') \
            and any(event.receiver_pid for event in events)
    # The node looks for receivers every two seconds.
    wait_until(seen, 'an event that knows its receiver')
    event = events[-1]
    assert (event.transport, event.action, event.path, event.family) == \
        ('udp', 'mirror', 'cgroup_skb', 4)
    assert (event.source_address, event.destination_address, event.destination_port) == \
        ('127.0.0.1', '127.0.0.1', port)
    assert event.sender_pid == event.receiver_pid == process.ask('pid')
    assert (event.rtps, event.vendor, list(event.submessage_kinds)) == \
        (True, 'Cyclone DDS', ['INFO_TS'])
    assert bytes(event.guid_prefix) == bytes(range(12))

    process.ask('send', port, b'plain'.hex(), 100)
    assert process.ask('receive', receiver, 100) == [b'plain'.hex()] * 100
    total = process.ask('sent')
    said = wait_for(node, statistics, lambda message: message.datagrams >= total, 'all counted')
    counters = check_sums(said)
    assert said.datagrams_mirrored == said.datagrams == total, \
        ({name: value for name, value in counters.items() if value}, node.output()[-3000:])
    endpoint, = said.endpoints
    assert (endpoint.port, endpoint.pid, endpoint.captured) == (port, process.ask('pid'), total)
    wait_for(node, statistics, lambda message: message.datagrams >= total
             and not any(message.pool_slots_used), 'the slots come back')
    path, = (path for path in said.paths if path.transport == 'udp' and path.selected)
    assert path.name == 'cgroup_skb'


def test_divert_needs_a_consumer(capturing, process, ports, control):
    """A divert rule without a consumer has no effect and says so; with one it has."""
    port = next(ports)
    node = capturing()
    answer = node.call(EnrollPort, 'enroll_port', transport='udp', port_first=port,
                       action='divert')
    assert answer.error_code == 0, answer
    receiver = process.ask('receiver', port)
    process.ask('send', port, b'one'.hex(), 3)
    assert process.ask('receive', receiver, 3) == [b'one'.hex()] * 3
    rule, = node.call(ListRules, 'list_rules', transport='udp').rules
    assert not rule.effective
    assert 'consumer' in rule.reason

    diagnostics = node.client.listen(DiagnosticArray, '/diagnostics')
    with Consumer([f'udp:{port}:divert'], control=control, name='test') as consumer:
        rule, = node.call(ListRules, 'list_rules', transport='udp').rules
        assert rule.effective
        process.ask('send', port, b'two'.hex(), 5)
        got = []
        while len(got) < 5:
            with consumer.read(10) as batch:
                assert len(batch)
                got += [bytes(payload) for payload in batch.payloads()]
        assert got == [b'two'] * 5
        assert process.ask('waiting', receiver) == 0

        def pool():
            return next((status for message in diagnostics for status in message.status
                         if status.name == f'{node.name}: pool'
                         and any(value.key.startswith('owner test') for value in status.values)),
                        None)
        found = node.client.spin_until(pool, 'diagnostics of the pool')
        assert found.level == DiagnosticStatus.OK
    # The consumer is gone: the usual way again.
    wait_until(lambda: not node.call(ListRules, 'list_rules', transport='udp').rules[0].effective,
               'the lease ends')
    process.ask('send', port, b'three'.hex(), 2)
    assert process.ask('receive', receiver, 2) == [b'three'.hex()] * 2
    assert node.call(WithdrawPort, 'withdraw_port', transport='udp',
                     port_first=port).error_code == 0


def test_domains(capturing):
    """UDP ports of domains, by parameter and by service."""
    node = capturing(udp_domains=['0:0-1', '1:0:divert'])

    def listed():
        return [(rule.port_first, rule.port_last, rule.action, rule.origin)
                for rule in node.call(ListRules, 'list_rules', transport='udp').rules]
    assert listed() == [(7410, 7413, 'mirror', 'domain 0'), (7660, 7661, 'divert', 'domain 1')]
    answer = node.call(EnrollDomain, 'enroll_domain', domain_id=2, participant_last=9, udp=True,
                       udp_action='divert', tcp=True)
    assert answer.error_code == 0
    assert [(rule.transport, rule.port_first, rule.port_last) for rule in answer.rules] == \
        [('udp', 7910, 7929), ('tcp', 7900, 8149)]
    again = node.call(EnrollDomain, 'enroll_domain', domain_id=2, participant_last=9, udp=True)
    assert again.error_code == EnrollDomain.Response.ALREADY_ENROLLED
    assert node.set_parameters(udp_domains=[]).successful
    assert listed() == [(7910, 7929, 'divert', 'domain 2')]
    assert not node.set_parameters(udp_domains=['0:0:accelerate']).successful


def test_inactive_and_killed(capturing, process, ports, control, pin_directory):
    """Deactivated or killed, the next datagram goes the usual way; the next start cleans up."""
    port = next(ports)
    node = capturing(rules=[f'udp:{port}:divert'])
    receiver = process.ask('receiver', port)
    with Consumer(control=control) as consumer:
        process.ask('send', port, b'taken'.hex(), 1)
        with consumer.read(10) as batch:
            assert len(batch) == 1
        assert node.change('deactivate')
        process.ask('send', port, b'usual'.hex(), 1)
        assert process.ask('receive', receiver, 1) == [b'usual'.hex()]
        assert node.change('activate')
        consumer.read(0.01)
        process.ask('send', port, b'again'.hex(), 1)
        with consumer.read(10) as batch:
            assert len(batch) == 1
        node.process.kill()
        node.process.wait()
        process.ask('send', port, b'after'.hex(), 1)
        assert process.ask('receive', receiver, 1) == [b'after'.hex()]
        assert os.path.isdir(f'{pin_directory}/udp')

        capturing(rules=[f'udp:{port}:divert'])
        wait_until(lambda: consumer.read(0.1).release() or consumer.connected,
                   'the consumer finds the next node')

        def diverted():
            consumer.read(0.01).release()
            process.ask('send', port, b'new'.hex(), 1)
            with consumer.read(0.5) as batch:
                return len(batch)
        wait_until(diverted, 'capture goes on')


def test_control_socket_in_use(capturing, start, control, tmp_path):
    """A second node at the same socket says so in one line, and leaves nothing."""
    capturing()
    other = start(udp_path='cgroup_skb', tcp_path='loopback', control_socket=control,
                  pin_directory='')
    assert not other.change('configure')
    line, = other.errors()
    assert 'control_socket' in line


def test_reason_where_it_cannot_be(start, control, tmp_path):
    """With auto, what cannot be had leaves UDP on loopback, with the reason in the answer."""
    node = start(udp_path='auto', tcp_path='loopback', control_socket=control,
                 pool_group='no_such_group_n7')
    node.bring_up()
    answer = node.call(EnrollPort, 'enroll_port', transport='udp', port_first=9)
    assert answer.error_code == EnrollPort.Response.NOT_SUPPORTED
    assert 'no_such_group_n7' in answer.error_msg
    assert not os.path.exists(control)
