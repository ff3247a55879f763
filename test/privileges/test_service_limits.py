"""What services may enroll: within the limits that stand where the node is started."""

import os

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.nodes.parameters import RUNTIME
from ipc_bypass.rules.service_limits import ServiceLimits
from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort
from node_tools import NodeProcess
import pytest

PORT, DOMAIN = EnrollPort.Response, EnrollDomain.Response


@pytest.mark.parametrize('texts, request_, allowed', [
    (['domain:own'], ('tcp', 8150, 8399, 'accelerate'), True),
    (['domain:own'], ('tcp', 8150, 8400, 'accelerate'), False),
    (['domain:own'], ('tcp', 22, 22, 'accelerate'), False),
    (['domain:own'], ('udp', 8160, 8161, 'mirror'), True),
    (['domain:own'], ('udp', 8160, 8161, 'divert'), False),
    (['domain:own:divert'], ('udp', 8160, 8161, 'divert'), True),
    (['domain:own:divert'], ('tcp', 8160, 8160, 'accelerate'), False),
    (['domain:0', 'domain:1'], ('tcp', 7600, 7700, 'accelerate'), True),  # they touch
    (['domain:0', 'domain:2'], ('tcp', 7600, 7950, 'accelerate'), False),
    (['domain:232'], ('tcp', 65400, 65535, 'accelerate'), True),
    (['tcp:5201'], ('tcp', 5201, 5201, 'accelerate'), True),
    (['udp:5201'], ('tcp', 5201, 5201, 'accelerate'), False),
    (['udp:7411:divert'], ('udp', 7411, 7411, 'mirror'), False),
    (['udp:10-20', 'udp:15-30'], ('udp', 12, 29, 'mirror'), True),
    ([], ('tcp', 7411, 7411, 'accelerate'), False),
    ([''], ('tcp', 7411, 7411, 'accelerate'), False),
], ids=str)
def test_limits(texts, request_, allowed):
    limits = ServiceLimits(texts, own_domain=3)
    assert limits.cover(*request_) == allowed
    if allowed:
        limits.check(*request_)
    else:
        with pytest.raises(RuleError, match='service_rules') as refused:
            limits.check(*request_)
        assert refused.value.code == 'NOT_ALLOWED'
        assert '\n' not in str(refused.value)


def test_what_the_configuration_enrolls_may_come_back():
    limits = ServiceLimits([], 0, {('udp', 7411, 7411): ('divert', 'parameter')})
    limits.check('udp', 7411, 7411, 'divert')
    assert not limits.cover('udp', 7411, 7411, 'mirror')


@pytest.mark.parametrize('text', [
    'domain', 'domain:', 'domain:233', 'domain:-1', 'domain:٣', 'domain:own:', 'domain:own:run',
    'tcp', 'tcp:0', 'tcp:1:divert', 'sctp:1', 'own', '../etc'])
def test_nonsense(text):
    with pytest.raises(RuleError) as refused:
        ServiceLimits([text], 0)
    assert '\n' not in str(refused.value)


def test_bad_start(client, tmp_path):
    with NodeProcess(client, tmp_path, {'service_rules': ['domain:300']}) as node:
        assert node.process.wait(30) == 1
        line, = node.output().splitlines()
        assert line.startswith('ipc_bypass: ') and '300' in line


@pytest.fixture(scope='module')
def node(client, tmp_path_factory):
    """Yield a node with the limits of the default, which attaches nothing."""
    with NodeProcess(client, tmp_path_factory.mktemp('node'), {
            'tcp_path': 'loopback', 'pin_directory': '', 'service_rules': ['domain:own'],
            'rules': ['tcp:5201', 'udp:9:divert'], 'domains': ['0'], 'autostart': True,
            RUNTIME: ['rules', 'domains', 'udp_*', 'statistics_*']}) as made:
        yield made


def own_port():
    return 7400 + 250 * int(os.environ['ROS_DOMAIN_ID']) + 20


def enroll(node, **request):
    """Return the code of ~/enroll_port; a refusal by the limits names the parameter."""
    answer = node.call(EnrollPort, 'enroll_port', **request)
    if answer.error_code == PORT.NOT_ALLOWED:
        assert 'service_rules' in answer.error_msg and '\n' not in answer.error_msg
        assert answer.rule_id == 0
    return answer.error_code


def listed(node):
    return {(rule.transport, rule.port_first) for rule in node.call(ListRules, 'list_rules').rules}


def test_enroll_port(node):
    assert node.state() == 'active', node.output()
    before = listed(node)
    for request, code in (
            ({'transport': 'tcp', 'port_first': own_port()}, PORT.SUCCESS),
            ({'transport': 'tcp', 'port_first': 22}, PORT.NOT_ALLOWED),
            ({'transport': 'tcp', 'port_first': 1, 'port_last': 65535}, PORT.NOT_ALLOWED),
            ({'transport': 'udp', 'port_first': own_port(), 'action': 'divert'},
             PORT.NOT_ALLOWED),
            # Allowed, and then there is no path for it here.
            ({'transport': 'udp', 'port_first': own_port()}, PORT.NOT_SUPPORTED),
            ({'transport': 'udp', 'port_first': 9, 'action': 'divert'}, PORT.NOT_SUPPORTED),
            ({'transport': 'tcp', 'port_first': 0}, PORT.INVALID_PORT),
            ({'transport': '../tcp', 'port_first': 22}, PORT.UNKNOWN_TRANSPORT)):
        assert enroll(node, **request) == code, request
    assert listed(node) == before | {('tcp', own_port())}
    gone = node.call(WithdrawPort, 'withdraw_port', transport='tcp', port_first=own_port())
    assert gone.error_code == WithdrawPort.Response.SUCCESS


def test_a_rule_of_the_configuration_comes_back(node):
    gone = node.call(WithdrawPort, 'withdraw_port', transport='tcp', port_first=5201)
    assert gone.error_code == WithdrawPort.Response.SUCCESS
    assert enroll(node, transport='tcp', port_first=5201) == PORT.SUCCESS
    gone = node.call(WithdrawPort, 'withdraw_port', transport='tcp', port_first=5201)
    assert node.set_parameters(rules=['udp:9:divert']).successful
    assert node.set_parameters(rules=['tcp:5201', 'udp:9:divert']).successful


def test_enroll_domain(node):
    own = int(os.environ['ROS_DOMAIN_ID'])
    for domain, code in ((own, DOMAIN.SUCCESS), (own + 1, DOMAIN.NOT_ALLOWED),
                         (233, DOMAIN.INVALID_DOMAIN)):
        answer = node.call(EnrollDomain, 'enroll_domain', domain_id=domain, tcp=True)
        assert answer.error_code == code, answer
        for rule in answer.rules:
            node.call(WithdrawPort, 'withdraw_port', rule_id=rule.id)
    refused = node.call(EnrollDomain, 'enroll_domain', domain_id=own + 1, udp=True, tcp=True)
    assert 'service_rules' in refused.error_msg


def test_parameters_are_open_to_the_graph_as_services_are(node):
    before = listed(node)
    for values in ({'rules': ['tcp:22']}, {'domains': ['1']}, {'udp_domains': ['0:0-9:divert']},
                   {'rules': ['udp:7411:divert']}):
        refused = node.set_parameters(**values)
        assert not refused.successful and 'service_rules' in refused.reason
        assert '\n' not in refused.reason
    for values in ({'service_rules': ['tcp:1-65535']}, {RUNTIME: ['*']}, {'pool_group': 'root'},
                   {'control_socket': '/etc/x'}, {'pin_directory': '/sys/fs/bpf/x'}):
        refused = node.set_parameters(**values)
        assert not refused.successful and 'read-only' in refused.reason
    refused = node.set_parameters(budget_bytes=1 << 28)
    assert not refused.successful and RUNTIME in refused.reason
    assert node.set_parameters(statistics_period_s=2.0).successful
    assert listed(node) == before
