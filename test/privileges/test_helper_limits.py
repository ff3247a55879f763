"""What services of xdp_helper and sockmap_helper may change, with the limits of the defaults."""

import os

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.xdp_limits import XdpServiceLimits
from ipc_bypass.xdp.request_error import RequestError
from node_tools import OPEN
import pytest
from sockmap_tools import SockmapProcess
from support.xdp import veth_lab
from xdp_tools import XdpProcess

OWN = 7400 + 250 * int(os.environ['ROS_DOMAIN_ID'])


def limits(interfaces=(), service=(), ports=('domain:own',), rules=()):
    return XdpServiceLimits({'interfaces': [*interfaces], 'service_interfaces': [*service],
                             'service_filter_ports': [*ports], 'filter_rules': [*rules]},
                            own_domain=0)


@pytest.mark.parametrize('made, pattern, managed, allowed', [
    (limits(), 'near0', (), False),
    (limits(['near0']), 'near0', (), True),
    (limits(['near0']), '', ('near0',), True),
    (limits(['near0']), '', ('near0', 'lo'), False),
    (limits(['near0']), 'lo', (), False),
    (limits(['near0']), 'near*', (), False),  # it would take in what comes later
    (limits(['near*']), 'near*', (), True),
    (limits(['near0', 'lo'], ['lo']), 'near0', (), False),
    (limits(['near0'], ['*']), 'lo', (), True),
    (limits(['near0']), 'no_such', (), True),  # the helper says so
    (limits(['near0']), '../near0', (), True),
], ids=str)
def test_interfaces(privileged, made, pattern, managed, allowed):
    with veth_lab() as (near, _far), near.entered():
        if allowed:
            made.check_interface(pattern, managed)
            return
        with pytest.raises(RequestError, match='service_interfaces') as refused:
            made.check_interface(pattern, managed)
        assert refused.value.code == 'NOT_ALLOWED' and '\n' not in str(refused.value)


@pytest.mark.parametrize('rule, allowed', [
    ('deny udp dport 7411', True), ('allow domain 0', True), ('deny tcp domain 0', True),
    ('deny tcp dport 7411 from 10.0.0.0/8', True), ('deny udp 7400-7649 not-rtps', True),
    ('deny tcp dport 22', False), ('deny udp dport 7400-7650', False), ('deny domain 1', False),
    ('deny from 10.0.0.0/8', False), ('deny udp', False), ('deny icmp', False),
    ('deny udp sport 7411', False)])
def test_rules(rule, allowed):
    if allowed:
        limits().check_rule(rule)
        return
    with pytest.raises(RequestError, match='service_filter_ports') as refused:
        limits().check_rule(rule)
    assert refused.value.code == 'NOT_ALLOWED'
    assert limits(ports=['tcp:1-65535', 'udp:1-65535']) and '\n' not in str(refused.value)


@pytest.mark.parametrize('configured, rule, allowed', [
    ('deny udp dport 7400-7649', 'allow udp dport 7411 from 10.0.0.66', False),
    ('deny udp', 'allow udp dport 7411', False), ('deny from 10.0.0.0/8', 'allow domain 0', False),
    ('allow udp dport 7411', 'deny domain 0', False),
    ('deny udp dport 7400-7410', 'allow udp dport 7411', True),
    ('deny tcp', 'allow udp dport 7411', True),
    ('deny from 10.0.0.0/8', 'allow udp dport 7411 from 11.0.0.1', True),
    ('deny domain 0', 'deny udp dport 7411', True)])
def test_rules_against_configured_ones(configured, rule, allowed):
    made = limits(rules=[configured])
    if allowed:
        made.check_rule(rule)
        return
    with pytest.raises(RequestError, match='against the configured rule') as refused:
        made.check_rule(rule)
    assert refused.value.code == 'NOT_ALLOWED'


def test_nonsense():
    with pytest.raises(BypassError, match='domain 300'):
        limits(ports=['domain:300'])


def test_xdp_helper(privileged, client, tmp_path):
    """The node answers NOT_ALLOWED, changes nothing, and keeps what its configuration says."""
    with veth_lab() as (near, _far), XdpProcess(
            client, tmp_path, near, '', interfaces=['near0'], autostart=True,
            slots=['', '', 'filter', '', '', '', '', ''],
            filter_rules=['deny udp dport 4242'], service_interfaces=['lo'],
            service_filter_ports=['domain:own'], runtime_parameters=['status_period_s']) as node:
        assert node.state() == 'active', node.output()
        for name, request in (
                ('attach', {'interface': 'near0'}), ('detach', {'interface': 'near0'}),
                ('load_slot', {'interface': 'near0', 'slot': 0, 'program': 'sampler'}),
                ('unload_slot', {'interface': 'near0', 'slot': 2}), ('unload_slot', {'slot': 2}),
                ('add_rule', {'rule': 'deny tcp dport 22'}),
                ('remove_rule', {'rule': 'deny udp dport 4242'}),
                ('load_slot', {'interface': 'lo', 'slot': 0,
                               'program': '/sys/fs/bpf/../../../etc/x'})):
            answer = node.ask(name, **request)
            assert answer.error_code, (name, answer)
            if 'etc' not in str(request):
                kind = type(answer)
                assert answer.error_code == kind.NOT_ALLOWED, (name, answer)
            assert '\n' not in answer.error_msg
        assert node.code('attach', interface='../../near0') == 'INVALID_ARGUMENT'
        added = node.ask('add_rule', rule=f'deny udp dport {OWN}')
        assert added.error_msg == ''
        assert [each.rule for each in node.ask('list_rules').rules] == [
            'deny udp dport 4242', f'deny udp dport {OWN}']
        assert node.code('remove_rule', rule_id=added.rule_id) == 'SUCCESS'
        assert node.look()['near0'].slots[2].kind == 'filter'
        refused = node.set_parameters(filter_rules=[])
        assert not refused.successful and 'runtime_parameters' in refused.reason
        assert node.set_parameters(status_period_s=0.5).successful


def test_sockmap_helper(client, tmp_path):
    """Forwards of services listen where they may; parameters are held back."""
    with SockmapProcess(client, tmp_path, kernel_path='never', autostart=True,
                        service_listen_ports=['23980-23999'],
                        runtime_parameters=['status_period_s']) as node:
        node.client.spin_until(lambda: 'active: ' in node.output(), 'it is active', 60)
        answer = node.ask('add_forward', listen='127.0.0.1:22', backend='127.0.0.1:9')
        assert answer.error_code == type(answer).NOT_ALLOWED
        assert 'service_listen_ports' in answer.error_msg
        # The kernel's choice is no port that may be named.
        assert node.code('add_forward', listen='127.0.0.1:0',
                         backend='127.0.0.1:9') == 'INVALID_PORT'
        refused = node.set_parameters(forwards=['0.0.0.0:80 -> 192.0.2.1:80'])
        assert not refused.successful and 'runtime_parameters' in refused.reason
    assert OPEN['service_listen_ports'] == ['1-65535']  # what the other tests have
