"""The text of the filter's rules, and the table that holds them."""

import dataclasses

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.xdp.filter.rule_table import FilterTable, MAX_COMBINED
from ipc_bypass.xdp.filter.rules import FilterRule, parse
from ipc_bypass.xdp.filter.settings import FilterSettings
import pytest

TEXTS = {
    'deny udp 7400-7500': 'deny udp dport 7400-7500',
    'allow tcp dport 22': 'allow tcp dport 22',
    'deny tcp port 80': 'deny tcp dport 80',
    'deny udp sport 53': 'deny udp sport 53',
    'deny udp sport 53 dport 1024-65535': 'deny udp dport 1024-65535 sport 53',
    'deny from 10.1.0.0/16': 'deny from 10.1.0.0/16',
    'allow to ff00::/8': 'allow to ff00::/8',
    'deny from 10.1.2.3/32': 'deny from 10.1.2.3',
    'deny to fd00::1': 'deny to fd00::1',
    'allow domain 3': 'allow domain 3',
    'allow udp domain 3': 'allow domain 3',
    'allow tcp domain 3': 'allow tcp domain 3',
    'allow domain 0:0-9': 'allow domain 0:0-9',
    'deny udp 7400 not-rtps': 'deny udp dport 7400 not-rtps',
    'deny not-rtps 7400 udp'.replace('7400 ', ''): 'deny udp not-rtps',
    'allow from 10.0.0.0/8 domain 1': 'allow domain 1 from 10.0.0.0/8',
    'allow icmp6': 'allow icmp6',
    'allow protocol 89': 'allow protocol 89',
    'deny protocol 17': 'deny udp',
    'deny tcp': 'deny tcp',
    '  deny   udp  5 ': 'deny udp dport 5',
}


@pytest.mark.parametrize('text', TEXTS)
def test_a_rule_is_read_and_shown(text):
    rule = parse(text)
    assert str(rule) == TEXTS[text]
    assert parse(str(rule)) == rule


def test_a_domain_is_its_ports():
    # RTPS 2.5, 9.6.1.4: 7400 + 250 * 3 is multicast discovery, the last participant 119.
    assert parse('allow domain 3').destination_ports == (8150, 8399)
    assert parse('allow domain 0:0-9').destination_ports == (7410, 7429)
    assert parse('allow tcp domain 0').destination_ports == (7400, 7649)
    assert parse('allow domain 3').protocol == 17


@pytest.mark.parametrize('text, reason', {
    '': 'neither allow nor deny', 'drop udp 5': 'neither allow nor deny',
    'deny': 'no condition', 'deny udp 7400-': 'no number', 'deny udp 5-4': 'reversed',
    'deny udp 65536': 'no number', 'deny 7400': 'no condition', 'deny dport 5': 'udp or of tcp',
    'deny icmp dport 5': 'udp or of tcp', 'deny tcp 5 not-rtps': 'of udp alone',
    'deny not-rtps': 'of udp alone', 'deny from 10.1.2.3/16': 'host bits', 'deny from': 'follows',
    'deny from 10.0.0.0/8 to fd00::/8': 'IPv4 and of IPv6', 'deny udp tcp': 'twice',
    'deny udp 5 dport 6': 'twice', 'allow domain 999': 'domain', 'allow domain 0 dport 5':
    'already', 'allow domain x': 'domain', 'allow icmp domain 0': 'udp and of tcp',
    'deny protocol 256': 'no number', 'deny udp 5 rtps not-rtps': 'twice',
}.items())
def test_a_wrong_rule_is_refused_with_the_reason(text, reason):
    with pytest.raises(RuleError, match=reason) as caught:
        parse(text)
    assert caught.value.code == 'INVALID_RULE'
    assert '\n' not in str(caught.value)


def test_the_most_specific_rule_comes_first():
    texts = ['deny from 10.1.2.3 to 10.0.0.0/8', 'allow from 10.1.2.3', 'deny from 10.1.0.0/16',
             'allow udp 7400 from 10.0.0.0/8', 'deny from 10.0.0.0/8', 'allow to 10.0.0.0/8',
             'deny udp 7400 sport 5', 'deny udp 7400 not-rtps', 'allow udp 7400',
             'deny udp 7000-7500', 'deny udp 0-65535', 'deny udp', 'deny udp sport 7']
    ranked = sorted(map(parse, reversed(texts)), key=lambda rule: rule.rank)
    assert list(map(str, ranked)) == [str(parse(text)) for text in texts]


def test_of_equals_the_one_that_denies_and_then_the_oldest():
    table = FilterTable()
    for text in ('allow udp 10-19', 'deny udp 15-24', 'deny udp 11-20'):
        table.add(text)
    assert [rule.id for rule in sorted(table.rules(), key=lambda rule: rule.rank)] == [2, 3, 1]


def test_a_table_gives_ids_that_do_not_come_again():
    table = FilterTable()
    first, second = table.add('deny udp 5', 'service'), table.add('deny udp 6')
    assert (first.id, first.origin, second.id) == (1, 'service', 2)
    assert table.remove(2) == second
    assert table.add('deny udp 7').id == 3
    assert table.remove('deny udp 5') == first
    with pytest.raises(RuleError) as caught:
        table.remove(1)
    assert caught.value.code == 'NOT_THERE'
    assert len(table) == 1


def test_the_same_conditions_are_refused():
    table = FilterTable()
    table.add('deny domain 0')
    with pytest.raises(RuleError) as caught:
        table.add('allow udp 7400-7649')
    assert (caught.value.code, caught.value.rule_id) == ('ALREADY_THERE', 1)


def test_replacing_keeps_ids_and_is_whole_or_nothing():
    table = FilterTable()
    table.replace(['deny udp 5', 'deny udp 6', 'deny udp 7'])
    table.replace(['deny udp 7', 'allow udp 6', 'deny udp 8'])
    assert {str(rule): rule.id for rule in table.rules()} == {
        'deny udp dport 7': 3, 'allow udp dport 6': 4, 'deny udp dport 8': 5}
    before = table.rules()
    with pytest.raises(RuleError):
        table.replace(['deny udp 1', 'deny udp 1'])
    assert table.rules() == before


def test_a_table_has_an_end():
    table = FilterTable(max_rules=2)
    table.add('deny udp 1')
    table.add('deny udp 2')
    with pytest.raises(RuleError) as caught:
        table.add('deny udp 3')
    assert caught.value.code == 'TOO_MANY_RULES'
    table = FilterTable()
    for port in range(MAX_COMBINED):
        table.add(f'deny udp {port} sport 9')
    with pytest.raises(RuleError) as caught:
        table.add('deny udp 9999 sport 9')
    assert caught.value.code == 'TOO_MANY_RULES'
    table.add('deny udp 9999')


def test_a_rule_can_be_given_as_one():
    rule = FilterTable().add(FilterRule('deny', domain='1'), 'service')
    assert (rule.protocol, rule.destination_ports) == (17, (7650, 7899))
    assert rule == dataclasses.replace(parse('deny domain 1'), id=1, origin='service')


@pytest.mark.parametrize('values', [
    {'default_action': 'drop'}, {'ptb_mtu': 1279}, {'ptb_mtu': 65536}, {'ptb_max_pps': -1}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(RuleError) as caught:
        FilterSettings(**values)
    assert caught.value.code == 'INVALID_SETTING'
