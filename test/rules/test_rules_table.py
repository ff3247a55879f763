"""The rule table: what it refuses, which rule a port obeys, and that it is quick."""

import random
import threading
import time

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.rules.table import check, LAST_PORT, MAX_RULES, parse, resolve, Rule, RuleTable
import pytest


def code_of(function, *arguments, **options):
    """Return the code of the RuleError that a call raises; its text is one line."""
    with pytest.raises(RuleError) as caught:
        function(*arguments, **options)
    assert str(caught.value)
    assert '\n' not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize('first, last', [
    (0, 0), (65536, 0), (-1, 0), (0, 10), (1, 65536), (65535, 65536), (70000, 70001), (1, -1)])
def test_ports_out_of_range(first, last):
    """Ports are 1 to 65535, both of a range."""
    assert code_of(check, 'tcp', first, last) == 'INVALID_PORT'
    table = RuleTable()
    assert code_of(table.add, 'tcp', first, last) == 'INVALID_PORT'
    assert len(table) == 0


def test_first_and_last_port():
    """The ends of the range are ports."""
    table = RuleTable()
    table.add('tcp', 1)
    table.add('tcp', 65535)
    table.add('tcp', 1, 65535)
    assert len(table) == 3


def test_reversed_range():
    """A range that runs backwards says so."""
    assert code_of(check, 'tcp', 7500, 7400) == 'INVALID_PORT'
    with pytest.raises(RuleError, match='reversed port range 7500-7400'):
        check('tcp', 7500, 7400)


@pytest.mark.parametrize('transport', ['', 'TCP', 'sctp', 'tcp ', 'tcp4', 'icmp'])
def test_unknown_transport(transport):
    """Transports are tcp and udp, in lower case."""
    assert code_of(check, transport, 7400) == 'UNKNOWN_TRANSPORT'


@pytest.mark.parametrize('transport, action', [
    ('tcp', 'mirror'), ('tcp', 'divert'), ('tcp', 'Accelerate'), ('tcp', 'drop'),
    ('udp', 'accelerate'), ('udp', 'none')])
def test_unknown_action(transport, action):
    """An action of another transport is unknown, and the message names those that are known."""
    assert code_of(check, transport, 7400, 0, action) == 'UNKNOWN_ACTION'


def test_defaults():
    """One port, and the transport's first action."""
    assert check('tcp', 7400) == Rule('tcp', 7400, 7400, 'accelerate')
    assert check('udp', 7400, 7410) == Rule('udp', 7400, 7410, 'mirror')


def test_same_rule_twice():
    """The same transport and range is refused, with the rule that is there; others are not."""
    table = RuleTable()
    rule = table.add('udp', 7400, 7410, 'mirror')
    for action in ('mirror', 'divert', ''):
        with pytest.raises(RuleError) as caught:
            table.add('udp', 7400, 7410, action)
        assert (caught.value.code, caught.value.rule_id) == ('ALREADY_ENROLLED', rule.id)
    table.add('tcp', 7400, 7410)
    table.add('udp', 7400, 7411)
    assert len(table) == 3
    table.remove(rule.id)
    assert table.add('udp', 7400, 7410, 'divert').id > rule.id


def test_remove():
    """A rule is removed once; its id is not given again."""
    table = RuleTable()
    rule = table.add('tcp', 5201)
    assert table.get(rule.id) == rule == table.find('tcp', 5201)
    assert table.remove(rule.id) == rule
    assert table.get(rule.id) is table.find('tcp', 5201) is None
    assert code_of(table.remove, rule.id) == 'NOT_ENROLLED'
    assert code_of(table.remove, 0) == 'NOT_ENROLLED'
    assert table.add('tcp', 5201).id != rule.id


def test_rules_by_transport():
    """They come by id, of one transport or of both."""
    table = RuleTable()
    tcp, udp, more = table.add('tcp', 1), table.add('udp', 1), table.add('tcp', 2)
    assert table.rules() == [tcp, udp, more]
    assert table.rules('tcp') == [tcp, more]
    assert table.rules('udp') == [udp]


def test_too_many_rules():
    """The table has a most, and room again when a rule is gone."""
    table = RuleTable(max_rules=3)
    rules = [table.add('tcp', port) for port in (1, 2, 3)]
    assert code_of(table.add, 'tcp', 4) == 'TOO_MANY_RULES'
    table.remove(rules[1].id)
    table.add('tcp', 4)
    assert len(table) == 3


@pytest.mark.parametrize('text, rule', [
    ('5201', Rule('tcp', 5201, 5201, 'accelerate')),
    (' 5201 ', Rule('tcp', 5201, 5201, 'accelerate')),
    ('7400-7500', Rule('tcp', 7400, 7500, 'accelerate')),
    ('tcp:5201', Rule('tcp', 5201, 5201, 'accelerate')),
    ('tcp:7400-7500:accelerate', Rule('tcp', 7400, 7500, 'accelerate')),
    ('udp:7410', Rule('udp', 7410, 7410, 'mirror')),
    ('udp:7410-7411:divert', Rule('udp', 7410, 7411, 'divert')),
    ('tcp:7400:', Rule('tcp', 7400, 7400, 'accelerate'))])
def test_parse(text, rule):
    """The short forms and the long one; a rule's own text can be read again."""
    assert parse(text) == RuleTable.parse(text) == rule
    assert parse(str(rule)) == rule


@pytest.mark.parametrize('text, code', [
    ('', 'INVALID_PORT'), ('tcp', 'INVALID_PORT'), ('tcp:', 'INVALID_PORT'),
    ('tcp:x', 'INVALID_PORT'), ('tcp:1-x', 'INVALID_PORT'), ('tcp:1-', 'INVALID_PORT'),
    ('tcp:-5', 'INVALID_PORT'),
    ('tcp:0', 'INVALID_PORT'), ('tcp:5-0', 'INVALID_PORT'), ('tcp:65536', 'INVALID_PORT'),
    ('tcp:9-8', 'INVALID_PORT'), ('tcp:1-2-3', 'INVALID_PORT'), ('tcp:1.5', 'INVALID_PORT'),
    ('tcp:1:accelerate:more', 'INVALID_PORT'), ('sctp:1', 'UNKNOWN_TRANSPORT'),
    (':1', 'UNKNOWN_TRANSPORT'), ('tcp:1:divert', 'UNKNOWN_ACTION')])
def test_parse_refuses(text, code):
    """What cannot be read is refused by the code of what is wrong with it."""
    assert code_of(parse, text) == code


def test_narrowest_rule_wins():
    """Of the rules that cover a port the narrowest holds, of equals the oldest."""
    table = RuleTable()
    wide = table.add('udp', 1, 65535, 'mirror')
    middle = table.add('udp', 7400, 7500, 'divert')
    narrow = table.add('udp', 7450, 7451, 'mirror')
    equal = table.add('udp', 7451, 7452, 'divert')
    owners = resolve(table.rules('udp'))
    assert len(owners) == LAST_PORT + 1
    assert owners[0] is None
    assert owners[1] == owners[7399] == owners[7501] == owners[65535] == wide
    assert owners[7400] == owners[7449] == owners[7453] == owners[7500] == middle
    assert owners[7450] == owners[7451] == narrow
    assert owners[7452] == equal


def test_no_rules():
    """Without rules no port has one."""
    assert resolve([]) == [None] * (LAST_PORT + 1)


def test_resolve_against_a_search():
    """A thousand random ranges obey the same as by looking through all of them."""
    generator = random.Random(1)
    rules = []
    for number in range(1, 1001):
        first = generator.randint(1, LAST_PORT)
        last = min(LAST_PORT, first + int(2 ** generator.uniform(0, 14)))
        rules.append(Rule('tcp', first, last, 'accelerate', number))
    owners = resolve(rules)
    for port in generator.sample(range(1, LAST_PORT + 1), 500) + [1, LAST_PORT]:
        covering = [rule for rule in rules if rule.port_first <= port <= rule.port_last]
        expected = min(covering, key=lambda rule: (rule.ports, rule.id), default=None)
        assert owners[port] == expected


@pytest.mark.parametrize('kind', ['ports', 'wide_ranges'])
def test_ten_thousand_rules(kind):
    """So many rules are taken and resolved; the time is far from what a quadratic way takes."""
    table = RuleTable()
    begin = time.monotonic()
    for number in range(10_000):
        if kind == 'ports':
            table.add('tcp', 1 + 6 * number)
        else:
            table.add('tcp', 1 + number, 55_536 + number)
    owners = resolve(table.rules('tcp'))
    took = time.monotonic() - begin
    assert len(table) == 10_000 < MAX_RULES
    covered = sum(owner is not None for owner in owners)
    assert covered == (10_000 if kind == 'ports' else 65_535)
    assert took < 20, 'adding or resolving is no longer near-linear'


def test_several_threads():
    """Threads that add and remove at once get ids of their own, and lose no rule."""
    table, ids = RuleTable(), []

    def work(number):
        for port in range(1 + 1000 * number, 301 + 1000 * number):
            rule = table.add('tcp', port)
            ids.append(rule.id)
            if port % 3 == 0:
                table.remove(rule.id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == len(ids) == 1200
    assert len(table) == len(table.rules()) == 800
