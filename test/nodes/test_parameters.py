"""Parameters: what they say of themselves, what they refuse, and what a change does."""

from ipc_bypass.cli.up import params_file
from ipc_bypass.nodes.parameters import ANY_TIME, BY_NAME, SPECS, START, UNCONFIGURED
from ipc_bypass.rules.table import MAX_RULES
from ipc_bypass_interfaces.srv import EnrollPort, ListRules, WithdrawPort
from node_tools import NodeProcess
import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from support.waiting import PATIENCE
import yaml

NUMBERS = [spec for spec in SPECS if spec.limits]
UNITS = ('bytes', 'milliseconds', 'seconds', 'messages per second', 'connections', 'flows',
         'percent', 'Consumers')

#: Values of `rules` that are refused, and what is said.
BAD_RULES = {
    'port 0': (['tcp:0'], '0-0'),
    'port 65536': (['tcp:65536'], '65536'),
    'negative port': (['tcp:-5'], 'tcp:-5'),
    'reversed range': (['tcp:7500-7400'], 'reversed'),
    'end of range 0': (['tcp:7400-0'], 'tcp:7400-0'),
    'unknown action': (['tcp:7400:divert'], "'divert'"),
    'unknown transport': (['sctp:7400'], "'sctp'"),
    'no number': (['tcp:many'], 'tcp:many'),
    'too many parts': (['tcp:1:accelerate:now'], 'tcp:1:accelerate:now'),
    'the same rule twice': (['tcp:7400-7500', 'tcp:7400-7500:accelerate'], 'named before'),
    'too many rules': ([f'tcp:{port}' for port in range(1, MAX_RULES + 2)], str(MAX_RULES)),
}
BAD_DOMAINS = {
    'domain 233': (['233'], '233'),
    'reversed participants': (['0:9-0'], '9-0'),
    'no number': (['zero'], 'zero'),
    'the same domain twice': (['0', '0:0-9'], 'named before'),
}


def listed(node):
    """Return the enrolled rules as text, with their origin."""
    return [(f'{rule.transport}:{rule.port_first}-{rule.port_last}', rule.origin)
            for rule in node.call(ListRules, 'list_rules').rules]


@pytest.fixture(scope='module')
def idle(client, tmp_path_factory):
    """Yield a node that is configured and attaches nothing."""
    with NodeProcess(client, tmp_path_factory.mktemp('node'),
                     {'tcp_path': 'loopback', 'pin_directory': ''}) as node:
        assert node.change('configure')
        yield node


@pytest.fixture
def configured(idle):
    """Return that node, without rules."""
    assert idle.set_parameters(rules=[], domains=[]).successful
    return idle


def test_descriptors(configured):
    found = configured.parameters()
    assert found.keys() == BY_NAME.keys()
    for name, (value, descriptor) in found.items():
        spec = BY_NAME[name]
        assert descriptor.description.endswith('.'), name
        assert not descriptor.dynamic_typing
        assert descriptor.read_only == (spec.change == START)
        assert bool(descriptor.additional_constraints) == (
            spec.change != ANY_TIME or bool(spec.choices)), name
        if type(spec.default) in (int, float):
            ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
            assert [(span.from_value, span.to_value) for span in ranges] == [spec.limits], name
            assert any(unit in descriptor.description for unit in UNITS), name
            assert spec.limits[0] <= value <= spec.limits[1]


def test_file_holds_the_defaults():
    values = yaml.safe_load(params_file().read_text())['/**']['ros__parameters']
    defaults = {spec.name: spec.default for spec in SPECS}
    assert values.keys() == defaults.keys()
    assert {name: values[name] for name in values if name != 'domains'} == {
        name: defaults[name] for name in values if name != 'domains'}


@pytest.mark.parametrize('fault', BAD_RULES)
def test_bad_rules_are_refused(configured, fault):
    value, says = BAD_RULES[fault]
    assert configured.set_parameters(rules=['tcp:23990']).successful
    answer = configured.set_parameters(rules=value)
    assert not answer.successful
    assert says in answer.reason
    assert '\n' not in answer.reason
    assert listed(configured) == [('tcp:23990-23990', 'parameter')]


@pytest.mark.parametrize('fault', BAD_DOMAINS)
def test_bad_domains_are_refused(configured, fault):
    value, says = BAD_DOMAINS[fault]
    answer = configured.set_parameters(domains=value)
    assert not answer.successful
    assert says in answer.reason
    assert listed(configured) == []


@pytest.mark.parametrize('spec', NUMBERS, ids=lambda spec: spec.name)
def test_ranges(configured, spec):
    before = configured.parameters()[spec.name][0]
    step = 1 if isinstance(spec.default, int) else 0.01
    for value in (spec.limits[0] - step, spec.limits[1] + step):
        assert not configured.set_parameters(**{spec.name: value}).successful
    assert configured.parameters()[spec.name][0] == before


def test_choices_and_types(configured):
    for values, says in (({'tcp_path': 'quick'}, "unknown tcp_path 'quick'"),
                         ({'renewal': ''}, "unknown renewal ''"),
                         ({'autostart': True}, 'read-only'),
                         ({'pin_directory': '/tmp'}, 'read-only'),
                         ({'service_rules': ['tcp:1-65535']}, 'read-only'),
                         ({'budget_bytes': 'much'}, 'type')):
        answer = configured.set_parameters(**values)
        assert not answer.successful
        assert says in answer.reason
    assert not configured.set_parameters(rules=ParameterMessage(name='rules')).successful


@pytest.mark.parametrize('name, value', [
    ('tcp_path', 'auto'), ('cgroup_path', '/tmp'), ('udp_path', 'auto'),
    ('max_connections', 99), ('renewal', 'program')])
def test_what_needs_a_configure(idle, name, value):
    assert BY_NAME[name].change == UNCONFIGURED
    before = idle.parameters()[name][0]
    answer = idle.set_parameters(**{name: value})
    assert not answer.successful
    assert 'state unconfigured only' in answer.reason
    # The value that it has is no change.
    assert idle.set_parameters(**{name: before}).successful
    assert idle.change('cleanup')
    assert idle.set_parameters(**{name: value}).successful
    assert idle.set_parameters(**{name: before}).successful
    assert idle.change('configure')


def test_both_pauses_at_once(configured):
    answer = configured.set_parameters(pause_initial_ms=500)
    assert not answer.successful
    assert 'pause_max_ms' in answer.reason
    assert configured.set_parameters(pause_initial_ms=500, pause_max_ms=900).successful
    assert configured.set_parameters(pause_initial_ms=2, pause_max_ms=100).successful


def test_rules_at_run_time(configured):
    assert configured.set_parameters(rules=['tcp:1-9', 'tcp:20', ''], domains=['0']).successful
    assert sorted(listed(configured)) == [
        ('tcp:1-9', 'parameter'), ('tcp:20-20', 'parameter'), ('tcp:7400-7649', 'domain 0')]
    ids = {rule.port_first: rule.id for rule in configured.call(ListRules, 'list_rules').rules}
    added = configured.call(EnrollPort, 'enroll_port', transport='tcp', port_first=30)
    assert configured.set_parameters(rules=['tcp:20', 'tcp:40']).successful
    after = {rule.port_first: rule.id for rule in configured.call(ListRules, 'list_rules').rules}
    # What stays keeps its id; what a service enrolled is not the parameter's to remove.
    assert after.keys() == {20, 30, 40, 7400}
    assert after[20] == ids[20]
    assert after[30] == added.rule_id
    answer = configured.set_parameters(rules=['tcp:30'])
    assert not answer.successful
    assert 'by a service' in answer.reason
    assert len(listed(configured)) == 4
    withdrawn = configured.call(WithdrawPort, 'withdraw_port', rule_id=added.rule_id)
    assert withdrawn.error_code == 0


def test_domain_that_is_a_rule(configured):
    assert configured.set_parameters(domains=['0'], rules=['tcp:7400-7649']).successful
    assert listed(configured) == [('tcp:7400-7649', 'parameter')]
    assert configured.set_parameters(rules=[]).successful
    assert listed(configured) == [('tcp:7400-7649', 'domain 0')]


def test_all_or_nothing(configured):
    """A bad rule beside a good budget: neither takes effect."""
    before = configured.parameters()['budget_bytes'][0]
    assert not configured.set_parameters(budget_bytes=1 << 20, rules=['tcp:0']).successful
    assert configured.parameters()['budget_bytes'][0] == before
    assert listed(configured) == []


def test_ten_thousand_rules(start):
    many = [f'tcp:{port}' for port in range(1, 10_001)]
    node = start(rules=many)
    node.bring_up()
    assert len(listed(node)) == 10_000
    assert node.set_parameters(rules=many[:10]).successful
    assert len(listed(node)) == 10
    assert node.set_parameters(rules=many).successful
    assert len(listed(node)) == 10_000
    for transition in ('deactivate', 'cleanup'):
        assert node.change(transition)


@pytest.mark.parametrize('parameters, says', [
    ({'rules': ['tcp:0']}, 'port range 0-0'), ({'domains': ['999']}, '999'),
    ({'tcp_path': 'quick'}, "unknown tcp_path 'quick'"),
    ({'budget_bytes': 1}, 'budget_bytes'), ({'budget_bytes': 'much'}, 'budget_bytes'),
    ({'statistics_period_s': 1}, 'statistics_period_s')], ids=str)
def test_bad_start(client, tmp_path, parameters, says):
    """The node says in one line what it was given, and ends."""
    with NodeProcess(client, tmp_path, {'pin_directory': '', **parameters}) as node:
        assert node.process.wait(PATIENCE) == 1
        lines = node.output().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith('ipc_bypass: ')
        assert says in lines[0]
