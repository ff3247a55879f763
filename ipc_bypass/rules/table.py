"""The rule table: (transport, port range, action), and which rule a port obeys."""

from dataclasses import dataclass
import heapq
import threading

from ipc_bypass.kernel.errors import RuleError

#: Actions by transport; the first is the default.
ACTIONS = {'tcp': ('accelerate',), 'udp': ('mirror', 'divert')}
MAX_RULES = 16384
LAST_PORT = 65535


@dataclass(frozen=True)
class Rule:
    """One enrolled rule; ports are inclusive, 1 to 65535, and match either end of a connection."""

    transport: str
    port_first: int
    port_last: int
    action: str
    id: int = 0  # noqa: A003
    origin: str = 'parameter'

    @property
    def ports(self):
        """Return the number of ports that the rule covers."""
        return self.port_last - self.port_first + 1

    def __str__(self):
        """Return the form that `parse` takes."""
        span = str(self.port_first)
        if self.port_last != self.port_first:
            span += f'-{self.port_last}'
        return f'{self.transport}:{span}:{self.action}'


def check(transport, port_first, port_last=0, action=''):
    """
    Return a Rule with defaults filled in, or raise RuleError.

    A `port_last` of 0 means `port_first`; an empty action means the transport's default.
    Codes: UNKNOWN_TRANSPORT, INVALID_PORT, UNKNOWN_ACTION.
    """
    if transport not in ACTIONS:
        raise RuleError(
            f"unknown transport '{transport}': use one of {', '.join(ACTIONS)}",
            code='UNKNOWN_TRANSPORT')
    port_last = port_last or port_first
    if not 1 <= port_first <= LAST_PORT or not 1 <= port_last <= LAST_PORT:
        raise RuleError(
            f'invalid port range {port_first}-{port_last}: ports are 1 to {LAST_PORT}',
            code='INVALID_PORT')
    if port_last < port_first:
        raise RuleError(
            f'reversed port range {port_first}-{port_last}: give the lower port first',
            code='INVALID_PORT')
    action = action or ACTIONS[transport][0]
    if action not in ACTIONS[transport]:
        raise RuleError(
            f"unknown action '{action}' for {transport}: "
            f"use one of {', '.join(ACTIONS[transport])}", code='UNKNOWN_ACTION')
    return Rule(transport, port_first, port_last, action)


def parse(text):
    """
    Return the Rule that `text` names: 'tcp:7400-7500:accelerate', 'tcp:5201' or '5201'.

    Raises RuleError with the code of `check`.
    """
    parts = text.strip().split(':')
    if len(parts) == 1:
        parts = ['tcp', *parts]
    if len(parts) > 3:
        raise RuleError(
            f"cannot read rule '{text}': write transport:port[-port][:action]",
            code='INVALID_PORT')
    first, dash, last = parts[1].partition('-')
    try:
        numbers = int(first), int(last) if dash else 0
    except ValueError:
        raise RuleError(
            f"cannot read the ports of rule '{text}': write transport:port[-port][:action]",
            code='INVALID_PORT') from None
    if dash and not numbers[1]:
        raise RuleError(
            f"invalid port range in rule '{text}': ports are 1 to {LAST_PORT}",
            code='INVALID_PORT')
    return check(parts[0], *numbers, parts[2] if len(parts) > 2 else '')


class RuleTable:
    """
    The rules by id; safe to use from several threads.

    Ranges may overlap: a port obeys the narrowest rule that covers it, of equals the oldest.
    """

    def __init__(self, max_rules=MAX_RULES):
        """Make an empty table that holds at most `max_rules` rules."""
        self._rules = {}
        self._by_range = {}
        self._next_id = 1
        self._max_rules = max_rules
        self._lock = threading.Lock()

    parse = staticmethod(parse)

    def add(self, transport, port_first, port_last=0, action='', origin='service'):
        """
        Add a rule and return it with its id.

        Raises RuleError: the codes of `check`; ALREADY_ENROLLED with `rule_id` set where the
        same transport and range is there, TOO_MANY_RULES at `max_rules`.
        """
        checked = check(transport, port_first, port_last, action)
        key = checked.transport, checked.port_first, checked.port_last
        with self._lock:
            if key in self._by_range:
                there = self._by_range[key]
                raise RuleError(
                    f'{self._rules[there]} is enrolled already as rule {there}: '
                    'withdraw it first to change its action',
                    code='ALREADY_ENROLLED', rule_id=there)
            if len(self._rules) >= self._max_rules:
                raise RuleError(
                    f'the table holds {self._max_rules} rules, its most: '
                    'use port ranges, or withdraw rules', code='TOO_MANY_RULES')
            rule = Rule(*key, checked.action, self._next_id, origin)
            self._next_id += 1
            self._rules[rule.id] = rule
            self._by_range[key] = rule.id
            return rule

    def find(self, transport, port_first, port_last=0):
        """Return the rule of exactly this transport and range, or None; raises like `check`."""
        checked = check(transport, port_first, port_last)
        with self._lock:
            found = self._by_range.get(
                (checked.transport, checked.port_first, checked.port_last))
            return self._rules.get(found)

    def remove(self, rule_id):
        """Remove and return the rule of this id; raises RuleError NOT_ENROLLED."""
        with self._lock:
            rule = self._rules.pop(rule_id, None)
            if rule is None:
                raise RuleError(
                    f'no rule {rule_id}: list the rules to see their ids', code='NOT_ENROLLED')
            del self._by_range[rule.transport, rule.port_first, rule.port_last]
            return rule

    def get(self, rule_id):
        """Return the rule of this id, or None."""
        with self._lock:
            return self._rules.get(rule_id)

    def rules(self, transport=''):
        """Return the rules by id, of one transport or of all."""
        with self._lock:
            return [r for _, r in sorted(self._rules.items())
                    if not transport or r.transport == transport]

    def __len__(self):
        """Return the number of rules."""
        return len(self._rules)


def resolve(rules):
    """
    Return the list of 65,536 rules (or None) that the ports obey, index is the port.

    One sweep over the ports with a heap of the ranges that are open: n rules take
    O((n + 65,536) log n), so that many wide rules do not slow a change down.
    """
    starts = {}
    for rule in rules:
        starts.setdefault(rule.port_first, []).append(rule)
    owners = [None] * (LAST_PORT + 1)
    open_ranges = []
    for port in range(1, LAST_PORT + 1):
        for rule in starts.get(port, ()):
            heapq.heappush(open_ranges, (rule.ports, rule.id, rule.port_last, rule))
        while open_ranges and open_ranges[0][2] < port:
            heapq.heappop(open_ranges)
        if open_ranges:
            owners[port] = open_ranges[0][3]
    return owners
