"""Requests that make no sense, by the wire: everybody on the graph may ask a node's services."""

from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort
import pytest
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically

NO_TYPE, LARGEST = 99, (1 << 32) - 1
LONG, ODD = 'x' * 100_000, 'ud\u202ep\n\x1b[2J\ufffd'


@pytest.fixture
def node(start):
    """Return a node without a fast path, active; it lives to the end."""
    made = start(tcp_path='loopback')
    made.bring_up()
    yield made
    assert made.state() == 'active'
    assert made.end() == 0


def test_a_value_of_a_type_that_there_is_not(node):
    """The service of rclpy raises: the node says so, goes on, and answers the next request."""
    client = node.client
    for kind, name in ((SetParameters, 'set_parameters'),
                       (SetParametersAtomically, 'set_parameters_atomically')):
        asking = client._client(kind, f'{node.name}/{name}')
        client.spin_until(asking.service_is_ready, f'{name} is known')
        for _ in range(3):
            asking.call_async(kind.Request(parameters=[Parameter(
                name='tcp_path', value=ParameterValue(type=NO_TYPE))]))
    client.spin_until(lambda: 'a callback failed: ValueError' in node.output(), 'it is told')
    assert node.set_parameters(statistics_period_s=0.5).successful


def test_values_without_sense(node):
    """Each is refused by a code and one line."""
    for kind, name, request in (
            (EnrollPort, 'enroll_port', {'transport': LONG, 'port_first': 1}),
            (EnrollPort, 'enroll_port', {'transport': ODD, 'port_first': LARGEST}),
            (EnrollPort, 'enroll_port', {'transport': 'tcp', 'port_first': LARGEST,
                                         'port_last': LARGEST}),
            (EnrollPort, 'enroll_port', {'transport': 'udp', 'port_first': 1, 'action': LONG}),
            (EnrollDomain, 'enroll_domain', {'domain_id': LARGEST, 'udp': True}),
            (EnrollDomain, 'enroll_domain', {'participant_first': LARGEST, 'tcp': True}),
            (EnrollDomain, 'enroll_domain', {'udp': True, 'udp_action': ODD}),
            (WithdrawPort, 'withdraw_port', {'rule_id': LARGEST}),
            (WithdrawPort, 'withdraw_port', {'transport': ODD, 'port_last': LARGEST}),
            (ListRules, 'list_rules', {'transport': LONG})):
        answer = node.call(kind, name, **request)
        assert answer.error_code and answer.error_msg, (name, request)
        assert '\n' not in answer.error_msg
    assert node.call(ListRules, 'list_rules').rules == []
