"""What the topics say adds up against what the tests sent."""

from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass_interfaces.msg import FlowArray
from ipc_bypass_interfaces.srv import EnrollPort, WithdrawPort
from lifecycle_msgs.msg import State
from node_tools import inside
import pytest
from support.processes import Script, StreamProcess

PROCESS = str(Path(__file__).with_name('connection_process.py'))
TOTALS = ('redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages')


@pytest.fixture
def process(cgroup):
    """Yield a process in the served cgroup that opens connections and sends over them."""
    with Script(PROCESS, prefix=inside(cgroup)) as script:
        yield script


@pytest.fixture
def node(start, ports):
    """Return an active node with a rule for the test's ports, quick to tell."""
    made = start(rules=[f'tcp:{ports.first}-{ports.last}'], statistics_period_s=0.1,
                 diagnostics_period_s=0.1)
    made.bring_up()
    return made


def listen_flows(node):
    """Return the list that the node's ~/flows are added to."""
    return node.client.listen(FlowArray, f'{node.name}/flows')


def wait_for(node, heard, condition, what):
    """Return the first message from now on that meets `condition`."""
    heard.clear()
    return node.client.spin_until(
        lambda: next((message for message in heard if condition(message)), None), what)


def check_sums(statistics):
    """Assert that a BypassStatistics adds up in itself; return its counters by name."""
    counters = {counter.name: counter.value for counter in statistics.counters}
    assert statistics.bytes == statistics.redirected_bytes + statistics.passed_bytes
    assert statistics.messages == statistics.redirected_messages + statistics.passed_messages
    assert statistics.flows == statistics.flows_redirected + statistics.flows_passed
    assert {name: counters[name] for name in TOTALS} == {
        name: getattr(statistics, name) for name in TOTALS}
    assert sum(value for name, value in counters.items()
               if name.startswith('passed_') and name not in TOTALS) == statistics.passed_messages
    assert all(counter.unit in ('messages', 'bytes', 'connections', 'datagrams', 'slots',
                                'events')
               for counter in statistics.counters)
    return counters


def test_figures_are_what_was_sent(node, process, ports):
    statistics, flows = node.statistics(), listen_flows(node)
    port = next(ports)
    number = process.ask('connect', port)
    process.ask('send', number, 'client', 1000, 100)
    process.ask('send', number, 'server', 50_000, 7)
    total = 100 * 1000 + 7 * 50_000

    seen = wait_for(node, statistics, lambda message: message.bytes >= total, 'all is counted')
    check_sums(seen)
    assert seen.bytes == seen.redirected_bytes == total
    assert seen.messages >= 107
    assert (seen.state, seen.rules, seen.flows) == (State.PRIMARY_STATE_ACTIVE, 1, 2)
    assert seen.flows_redirected == 2
    assert seen.held_connections == 0

    listed = wait_for(node, flows, lambda message: len(message.flows) == 2, 'both directions')
    client_port = process.ask('client_port', number)
    there, back = sorted(listed.flows, key=lambda flow: flow.remote_port != port)
    assert (there.local_port, there.remote_port) == (client_port, port)
    assert (back.local_port, back.remote_port) == (port, client_port)
    assert (there.bytes, back.bytes) == (100_000, 350_000)
    assert there.messages == 100
    for flow in (there, back):
        assert (flow.family, flow.local_address, flow.remote_address) == (
            4, '127.0.0.1', '127.0.0.1')
        assert (flow.path, flow.reason, flow.rule_id) == ('sk_msg', '', 1)
        assert flow.local_pid == flow.remote_pid == process.process.pid
        assert flow.local_comm == Path(f'/proc/{flow.local_pid}/comm').read_text().strip()
        assert flow.bytes == flow.redirected_bytes + flow.passed_bytes
        assert flow.passed_by_reason == []
        assert flow.queued_bytes == 0
        assert flow.budget_left > 0
        assert flow.age > 0

    # Steering stops at once; what is sent from then on passes, for this reason.
    assert node.change('deactivate')
    process.ask('send', number, 'client', 1000, 50)
    seen = wait_for(node, statistics, lambda message: message.bytes >= total + 50_000,
                    'all is counted')
    counters = check_sums(seen)
    assert (seen.redirected_bytes, seen.passed_bytes) == (total, 50_000)
    assert counters['passed_inactive'] == seen.passed_messages
    assert seen.held_connections == 1
    listed = wait_for(node, flows, lambda message: any(
        flow.passed_bytes == 50_000 for flow in message.flows), 'the flow that passed')
    flow = next(flow for flow in listed.flows if flow.remote_port == port)
    assert (flow.path, flow.reason) == ('loopback', 'inactive')
    assert {counter.name: counter.value for counter in flow.passed_by_reason} == {
        'inactive': flow.passed_messages}

    # What ended counts still.
    process.ask('end', number)
    seen = wait_for(node, statistics, lambda message: message.flows == 0, 'no flow is left')
    check_sums(seen)
    assert seen.bytes == total + 50_000
    assert seen.held_connections == 0


def test_rates(node, process, ports):
    statistics = node.statistics()
    number = process.ask('connect', next(ports))
    process.tell('send', number, 'client', 10_000, 20_000)
    seen = wait_for(node, statistics, lambda message: message.redirected_bytes_per_second > 0,
                    'a rate')
    assert seen.redirected_messages_per_second > 0
    assert process.answer() is None
    wait_for(node, statistics, lambda message: message.bytes == 200_000_000 and
             message.redirected_bytes_per_second == 0, 'the rate falls to nothing')


def test_most_flows(node, process, ports):
    flows = listen_flows(node)
    for count in range(1, 4):
        number = process.ask('connect', next(ports))
        process.ask('send', number, 'server', 1000 * count, 1)
    wait_for(node, flows, lambda message: len(message.flows) == 6, 'all flows')
    assert node.set_parameters(max_published_flows=2).successful
    listed = wait_for(node, flows, lambda message: message.left_out, 'some are left out')
    assert listed.left_out == 4
    assert [flow.bytes for flow in listed.flows] == [3000, 2000]
    assert node.set_parameters(max_published_flows=0).successful
    listed = wait_for(node, flows, lambda message: message.left_out == 6, 'all are left out')
    assert listed.flows == []


def test_late_subscriber(start):
    """The last statistics are there for who comes after them, in every state."""
    node = start(statistics_period_s=3600.0)
    for transition, state in ((None, State.PRIMARY_STATE_UNCONFIGURED),
                              ('configure', State.PRIMARY_STATE_INACTIVE),
                              ('activate', State.PRIMARY_STATE_ACTIVE),
                              ('deactivate', State.PRIMARY_STATE_INACTIVE),
                              ('cleanup', State.PRIMARY_STATE_UNCONFIGURED),
                              ('shutdown', State.PRIMARY_STATE_FINALIZED)):
        assert transition is None or node.change(transition)
        heard = node.statistics()
        node.client.spin_until(lambda: heard, 'the last statistics')  # noqa: B023 - called here
        assert heard[-1].state == state


def test_rules_change_while_traffic_flows(node, cgroup, ports):
    """Nothing is lost, and every byte is counted on one way or the other."""
    statistics, port = node.statistics(), next(ports)
    with StreamProcess('server', '127.0.0.1', port, 1, prefix=inside(cgroup)) as server, \
            StreamProcess('client', '127.0.0.1', port, 2, prefix=inside(cgroup)) as client:
        assert node.set_parameters(rules=[]).successful
        for _ in range(20):
            added = node.call(EnrollPort, 'enroll_port', transport='tcp', port_first=port)
            assert added.error_code == EnrollPort.Response.SUCCESS
            wait_for(node, statistics, lambda message: message.rules == 1, 'one rule')
            gone = node.call(WithdrawPort, 'withdraw_port', rule_id=added.rule_id)
            assert gone.error_code == WithdrawPort.Response.SUCCESS
            wait_for(node, statistics, lambda message: message.rules == 0, 'no rule')
        server.tell('stop')
        at_client, at_server = client.finish(), server.answer()
    assert at_client['sent'] == at_server['received']
    assert at_server['sent'] == at_client['received']
    sent = at_client['sent'][0] + at_server['sent'][0]
    seen = wait_for(node, statistics, lambda message: message.flows == 0, 'no flow is left')
    counters = check_sums(seen)
    assert seen.bytes == sent
    assert seen.redirected_bytes
    assert counters['passed_withdrawn']


def test_diagnostics_of_the_graph(node):
    health = node.client.listen(DiagnosticArray, '/diagnostics')
    found = node.client.spin_until(
        lambda: {status.name.partition(': ')[2]: status for message in health
                 for status in message.status if status.name.endswith((': graph', ': losses'))},
        'the graph', timeout=15)
    # This process is of the graph; the node leaves itself out.
    assert int(next(value.value for value in found['graph'].values
                    if value.key == 'processes')) >= 1
    assert 'losses' in found


def test_diagnostics(node, process, ports):
    health = node.client.listen(DiagnosticArray, '/diagnostics')

    def levels():
        seen = wait_for(node, health, lambda message: message.status[0].name.startswith(
            f'{node.name}: '), 'the health')
        assert all(status.hardware_id for status in seen.status)
        # What other processes of this host do is not this test's.
        return {status.name.partition(': ')[2]: status.level for status in seen.status
                if not status.name.endswith((': graph', ': losses'))}

    fine, warn = DiagnosticStatus.OK, DiagnosticStatus.WARN
    assert levels() == {'tcp path': fine, 'udp path': fine, 'rules': fine, 'budget': fine}
    number = process.ask('connect', next(ports))
    process.ask('send', number, 'client', 1000, 1)
    assert node.change('deactivate')
    assert levels() == {'tcp path': fine, 'udp path': fine, 'rules': warn, 'budget': warn}
    process.ask('end', number)
    node.client.spin_until(lambda: levels()['budget'] == fine, 'nothing is held')
    assert node.change('activate')
    assert node.set_parameters(rules=['udp:7400']).successful
    assert levels() == {'tcp path': fine, 'udp path': fine, 'rules': DiagnosticStatus.ERROR,
                        'budget': fine}
