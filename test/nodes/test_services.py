"""Every error code of every service is reached, with a one-line message."""

from ipc_bypass.kernel.errors import MapFullError
from ipc_bypass.nodes.services import RuleServices
from ipc_bypass.rules.table import MAX_RULES
from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort
from node_tools import LocalNode, NodeProcess
import pytest

ENROLL, WITHDRAW = EnrollPort.Response, WithdrawPort.Response
LISTED, DOMAIN = ListRules.Response, EnrollDomain.Response
REQUESTS = (
    (EnrollPort, 'enroll_port', {'transport': 'tcp', 'port_first': 23999}),
    (WithdrawPort, 'withdraw_port', {'rule_id': 1}),
    (ListRules, 'list_rules', {}),
    (EnrollDomain, 'enroll_domain', {'domain_id': 3, 'participant_last': 9, 'tcp': True}),
)


def check(answer, code, says=''):
    """Assert an answer's code, and that its message is one line that says so."""
    assert answer.error_code == code, answer
    if code == 0:
        assert answer.error_msg == ''
    else:
        assert says in answer.error_msg
        assert answer.error_msg
        assert '\n' not in answer.error_msg


@pytest.fixture
def node(start):
    """Return an active node without rules."""
    made = start()
    made.bring_up()
    return made


def enroll(node, transport='tcp', first=0, last=0, action=''):
    return node.call(EnrollPort, 'enroll_port', transport=transport, port_first=first,
                     port_last=last, action=action)


def withdraw(node, **request):
    return node.call(WithdrawPort, 'withdraw_port', **request)


def enroll_domain(node, domain, first=0, last=9, **request):
    return node.call(EnrollDomain, 'enroll_domain', domain_id=domain, participant_first=first,
                     participant_last=last, **request)


def rules(node, transport=''):
    answer = node.call(ListRules, 'list_rules', transport=transport)
    check(answer, LISTED.SUCCESS)
    return answer.rules


def test_not_configured(start):
    node = start()
    for turn in ((), ('configure', 'cleanup')):
        for transition in turn:
            assert node.change(transition)
        for service, name, request in REQUESTS:
            check(node.call(service, name, **request), service.Response.NOT_CONFIGURED,
                  'configure')


def test_enroll_port(node):
    answer = enroll(node, first=23990)
    check(answer, ENROLL.SUCCESS)
    second = enroll(node, first=23991, last=23999, action='accelerate')
    check(second, ENROLL.SUCCESS)
    assert second.rule_id > answer.rule_id > 0
    there = rules(node)
    assert [(rule.id, rule.transport, rule.port_first, rule.port_last, rule.action, rule.origin,
             rule.effective, rule.reason) for rule in there] == [
        (answer.rule_id, 'tcp', 23990, 23990, 'accelerate', 'service', True, ''),
        (second.rule_id, 'tcp', 23991, 23999, 'accelerate', 'service', True, '')]


@pytest.mark.parametrize('request_, code, says', [
    (('tcp', 0), ENROLL.INVALID_PORT, 'port range 0-0'),
    (('tcp', 65536), ENROLL.INVALID_PORT, '65536'),
    (('tcp', 1, 65536), ENROLL.INVALID_PORT, '65536'),
    (('tcp', 2**32 - 1), ENROLL.INVALID_PORT, '4294967295'),
    (('tcp', 24000, 23999), ENROLL.INVALID_PORT, 'reversed'),
    (('sctp', 24000), ENROLL.UNKNOWN_TRANSPORT, "'sctp'"),
    (('', 24000), ENROLL.UNKNOWN_TRANSPORT, "''"),
    (('tcp', 24000, 0, 'mirror'), ENROLL.UNKNOWN_ACTION, "'mirror'"),
    (('udp', 24000, 0, 'accelerate'), ENROLL.UNKNOWN_ACTION, "'accelerate'"),
    (('udp', 24000), ENROLL.NOT_SUPPORTED, 'udp_path'),
    (('udp', 24000, 24010, 'divert'), ENROLL.NOT_SUPPORTED, 'udp_path'),
], ids=str)
def test_enroll_port_refuses(loopback_node, request_, code, says):
    check(enroll(loopback_node, *request_), code, says)
    assert rules(loopback_node) == []


@pytest.fixture(scope='module')
def loopback_node(client, tmp_path_factory):
    """Return an active node that attaches nothing: what it refuses is the same."""
    with NodeProcess(client, tmp_path_factory.mktemp('node'),
                     {'tcp_path': 'loopback', 'pin_directory': ''}) as made:
        made.bring_up()
        yield made


def test_same_rule_twice(node):
    first = enroll(node, first=23990, last=23999)
    again = enroll(node, first=23990, last=23999)
    check(again, ENROLL.ALREADY_ENROLLED, f'rule {first.rule_id}')
    assert again.rule_id == first.rule_id
    # Another range over the same ports is another rule.
    check(enroll(node, first=23990), ENROLL.SUCCESS)
    assert len(rules(node)) == 2


def test_withdraw_port(node):
    first, second = enroll(node, first=23990), enroll(node, first=23991, last=23999)
    answer = withdraw(node, rule_id=first.rule_id)
    check(answer, WITHDRAW.SUCCESS)
    assert answer.rule_id == first.rule_id
    answer = withdraw(node, transport='tcp', port_first=23991, port_last=23999)
    check(answer, WITHDRAW.SUCCESS)
    assert answer.rule_id == second.rule_id
    assert rules(node) == []
    # An id is not given twice, also not after cleanup.
    assert enroll(node, first=23990).rule_id > second.rule_id
    for transition in ('deactivate', 'cleanup', 'configure'):
        assert node.change(transition)
    assert enroll(node, first=23990).rule_id > second.rule_id + 1


@pytest.mark.parametrize('request_, code, says', [
    ({'rule_id': 77}, WITHDRAW.NOT_ENROLLED, '77'),
    ({'transport': 'tcp', 'port_first': 24000}, WITHDRAW.NOT_ENROLLED, 'tcp:24000'),
    ({'transport': 'tcp'}, WITHDRAW.INVALID_PORT, 'port range 0-0'),
    ({'transport': 'tcp', 'port_first': 9, 'port_last': 3}, WITHDRAW.INVALID_PORT, 'reversed'),
    ({'transport': 'tcp', 'port_first': 65536}, WITHDRAW.INVALID_PORT, '65536'),
    ({}, WITHDRAW.UNKNOWN_TRANSPORT, "''"),
    ({'transport': 'quic', 'port_first': 1}, WITHDRAW.UNKNOWN_TRANSPORT, "'quic'"),
], ids=str)
def test_withdraw_port_refuses(loopback_node, request_, code, says):
    check(withdraw(loopback_node, **request_), code, says)


def test_list_rules(start):
    node = start(rules=['tcp:23990', 'udp:23990:divert'], domains=['1'])
    assert node.change('configure')
    assert [rule.origin for rule in rules(node)] == ['parameter', 'parameter', 'domain 1']
    assert not any(rule.effective for rule in rules(node))
    assert {rule.reason for rule in rules(node, 'tcp')} == {'the node is not active'}
    assert node.change('activate')
    assert all(rule.effective for rule in rules(node, 'tcp'))
    udp, = rules(node, 'udp')
    assert not udp.effective
    assert 'udp_path' in udp.reason
    check(node.call(ListRules, 'list_rules', transport='icmp'), LISTED.UNKNOWN_TRANSPORT,
          "'icmp'")


def test_enroll_domain(node):
    answer = enroll_domain(node, 3, tcp=True)
    check(answer, DOMAIN.SUCCESS)
    rule, = answer.rules
    # 7400 + 250 * 3
    assert (rule.port_first, rule.port_last, rule.origin) == (8150, 8399, 'domain 3')
    assert rule.effective
    assert rules(node) == [rule]
    again = enroll_domain(node, 3, tcp=True)
    check(again, DOMAIN.ALREADY_ENROLLED, f'rule {rule.id}')
    assert again.rules == []


@pytest.mark.parametrize('domain, request_, code, says', [
    (233, {'tcp': True}, DOMAIN.INVALID_DOMAIN, '233'),
    (3, {'tcp': True, 'first': 5, 'last': 4}, DOMAIN.INVALID_DOMAIN, '5-4'),
    (3, {'tcp': True, 'last': 120}, DOMAIN.INVALID_DOMAIN, '120'),
    (3, {}, DOMAIN.INVALID_DOMAIN, 'neither'),
    (3, {'udp': True, 'udp_action': 'accelerate'}, DOMAIN.UNKNOWN_ACTION, "'accelerate'"),
    (3, {'udp': True}, DOMAIN.NOT_SUPPORTED, 'udp_path'),
    (3, {'udp': True, 'tcp': True}, DOMAIN.NOT_SUPPORTED, 'udp_path'),
], ids=str)
def test_enroll_domain_refuses(loopback_node, domain, request_, code, says):
    answer = enroll_domain(loopback_node, domain, **request_)
    check(answer, code, says)
    assert answer.rules == []
    assert rules(loopback_node) == []


def test_too_many_rules(start):
    node = start(rules=[f'tcp:{port}' for port in range(1, MAX_RULES + 1)])
    node.bring_up()
    assert len(rules(node)) == MAX_RULES
    check(enroll(node, first=23990), ENROLL.TOO_MANY_RULES, str(MAX_RULES))
    check(enroll_domain(node, 3, tcp=True), DOMAIN.TOO_MANY_RULES, str(MAX_RULES))
    check(withdraw(node, transport='tcp', port_first=1), WITHDRAW.SUCCESS)
    check(enroll(node, first=23990), ENROLL.SUCCESS)


def test_kernel_error(ros_logs, monkeypatch):
    """The kernel refuses a change of rules: the table is as it was before."""
    with LocalNode(tcp_path='loopback', rules=['tcp:23990']) as node:
        assert node.bring_up()
        answers = handlers(node, monkeypatch)
        listed = answers['list_rules']().rules

        def refuse(_rules):
            raise MapFullError('write the rules', 'no room', errno=28)
        monkeypatch.setattr(node._path, 'set_rules', refuse)
        for name, request, response in (
                ('enroll_port', {'transport': 'tcp', 'port_first': 23999}, ENROLL),
                ('withdraw_port', {'rule_id': listed[0].id}, WITHDRAW),
                ('enroll_domain', {'domain_id': 3, 'tcp': True}, DOMAIN)):
            check(answers[name](**request), response.KERNEL_ERROR, 'no room')
            assert answers['list_rules']().rules == listed
        monkeypatch.undo()
        check(answers['withdraw_port'](rule_id=listed[0].id), WITHDRAW.SUCCESS)
        assert answers['list_rules']().rules == []


def handlers(node, monkeypatch):
    """Return {name: function} that call a node's service callbacks without DDS between."""
    found = {}

    def note(service, name, callback):
        found[name.removeprefix('~/')] = lambda **request: callback(
            service.Request(**request), service.Response())
    with monkeypatch.context() as patch:
        patch.setattr(node, 'create_service', note)
        RuleServices(node, node._enrollment, lambda: True, lambda: True)
    return found
