"""The rules of the node: one table, changed by parameters and services, told to the path."""

import contextlib

from ipc_bypass.kernel.errors import BypassError, RuleError
from ipc_bypass.rules.rtps import parse_domain, parse_udp_domain, tcp_ports, udp_ports
from ipc_bypass.rules.table import ACTIONS, check, MAX_RULES, parse, RuleTable


def wanted_rules(rules, domains, udp_domains=()):
    """
    Return {(transport, port_first, port_last): (action, origin)} of the three parameters.

    `rules` are strings as 'tcp:7400-7500:accelerate', `domains` as '0:0-9', `udp_domains` as
    '0:0-9:divert'; empty strings count as none. Raises RuleError, also where one of the lists
    names the same range twice. A domain whose range is a rule already adds nothing.
    """
    by_rule, by_domain = {}, {}
    for text in filter(None, rules):
        rule = parse(text)
        _want(by_rule, _key(rule), (rule.action, 'parameter'), text)
    for text in filter(None, domains):
        domain = parse_domain(text)[0]
        _want(by_domain, ('tcp', *tcp_ports(domain)),
              (ACTIONS['tcp'][0], f'domain {domain}'), text)
    for text in filter(None, udp_domains):
        domain, *participants, action = parse_udp_domain(text)
        for span in udp_ports(domain, *participants):
            _want(by_domain, ('udp', *span), (action, f'domain {domain}'), text)
    wanted = {**by_rule, **{key: by_domain[key] for key in by_domain if key not in by_rule}}
    if len(wanted) > MAX_RULES:
        raise RuleError(f'{len(wanted)} rules are more than the table holds, {MAX_RULES}',
                        code='TOO_MANY_RULES', next_step='use port ranges')
    return wanted


def _want(wanted, key, rule, text):
    if key in wanted:
        raise RuleError(
            f"'{text}' names {key[0]} ports {key[1]}-{key[2]}, which are named before: "
            'leave one out', code='ALREADY_ENROLLED')
    wanted[key] = rule


def _key(rule):
    return rule.transport, rule.port_first, rule.port_last


class Enrollment:
    """
    Keeps the rule table and the path's rules alike.

    A change either happens in both or raises and leaves both as they were: RuleError where the
    request is wrong, another BypassError where the kernel refused. Not thread safe: the node's
    executor calls it from one thread.
    """

    def __init__(self):
        """Start with no rules, no path and, until `limit`, no limits."""
        self._table = RuleTable()
        self._path = self._limits = None
        self._from_parameters = set()

    def limit(self, limits):
        """Have `limits`, a ServiceLimits, hold for what comes from the ROS graph."""
        self._limits = limits

    def check_lists(self, *lists):
        """Raise RuleError where `wanted_rules(*lists)` would, or is beyond the limits."""
        for key, (action, _origin) in wanted_rules(*lists).items():
            self._check_limits(*key, action)

    def begin(self, path, *lists):
        """Enroll the parameters' rules at `path`, of nodes/paths; an error leaves no rule."""
        self._path = path
        try:
            self.replace_parameters(*lists)
        except BypassError:
            self.end()
            raise

    def end(self):
        """Forget the path and every rule; ids go on counting."""
        self._path = None
        self._from_parameters.clear()
        for rule in self._table.rules():
            self._table.remove(rule.id)

    def replace_parameters(self, *lists):
        """Make the rules of the parameters those that `wanted_rules(*lists)` names."""
        wanted = wanted_rules(*lists)
        before = [self._table.get(rule_id) for rule_id in sorted(self._from_parameters)]
        leaving = [rule for rule in before
                   if wanted.get(_key(rule)) != (rule.action, rule.origin)]
        kept = {_key(rule) for rule in before} - {_key(rule) for rule in leaving}
        adding = [key for key in wanted if key not in kept]
        self._check_room(adding, leaving)
        added = []
        try:
            for rule in leaving:
                self._drop(rule.id)
            for key in adding:
                added.append(self._table.add(*key, *wanted[key]).id)
            self._from_parameters.update(added)
            self._tell_path()
        except BypassError:
            for rule_id in added:
                self._drop(rule_id)
            for rule in leaving:
                self._from_parameters.add(self._table.add(
                    rule.transport, rule.port_first, rule.port_last, rule.action, rule.origin).id)
            with contextlib.suppress(BypassError):
                self._tell_path()
            raise

    def _check_room(self, adding, leaving):
        """Raise RuleError where the services' rules are in the way of those of `adding`."""
        gone = {rule.id for rule in leaving}
        for key in adding:
            there = self._table.find(*key)
            if there and there.id not in gone:
                raise RuleError(f'{there} is enrolled already as rule {there.id} by a service',
                                code='ALREADY_ENROLLED', rule_id=there.id,
                                next_step='withdraw it first')
        if len(self._table) - len(leaving) + len(adding) > MAX_RULES:
            raise RuleError(f'no room for {len(adding)} more rules beside those of the services: '
                            f'the table holds {MAX_RULES}', code='TOO_MANY_RULES',
                            next_step='use port ranges, or withdraw rules')

    def enroll(self, transport, port_first, port_last=0, action='', origin='service'):
        """
        Add a rule that a service asks for and return it.

        Raises RuleError NOT_ALLOWED beyond the limits, NOT_SUPPORTED where no path serves it.
        """
        checked = check(transport, port_first, port_last, action)
        self._check_limits(transport, checked.port_first, checked.port_last, checked.action)
        # TCP rules are kept where loopback is the path; a capture that cannot be is an error.
        unsupported = self._path.unsupported(checked) if transport == 'udp' else ''
        if unsupported:
            raise RuleError(f'{checked} has no path', unsupported, code='NOT_SUPPORTED')
        rule = self._table.add(transport, port_first, port_last, action, origin)
        try:
            self._tell_path()
        except BypassError:
            self._table.remove(rule.id)
            with contextlib.suppress(BypassError):
                self._tell_path()
            raise
        return rule

    def enroll_domain(self, domain, participant_first, participant_last, *,
                      udp, udp_action, tcp):
        """Add the rules of a DDS domain and return them; raises like `enroll`."""
        spans = udp_ports(domain, participant_first, participant_last)
        if not udp and not tcp:
            raise RuleError(f'neither udp nor tcp was asked for in domain {domain}',
                            code='INVALID_DOMAIN', next_step='set one of them')
        if udp_action and udp_action not in ACTIONS['udp']:
            raise RuleError(f"unknown action '{udp_action}' for udp: "
                            f"use one of {', '.join(ACTIONS['udp'])}", code='UNKNOWN_ACTION')
        wanted = [('udp', *span, udp_action) for span in spans] if udp else []
        wanted += [('tcp', *tcp_ports(domain), '')] if tcp else []
        added, there = [], None
        for transport, first, last, action in wanted:
            try:
                added.append(self.enroll(transport, first, last, action, f'domain {domain}'))
            except RuleError as error:
                if error.code != 'ALREADY_ENROLLED':
                    for rule in added:
                        self.withdraw(rule.id)
                    raise
                there = error
        if not added:
            raise there
        return added

    def withdraw(self, rule_id, transport='', port_first=0, port_last=0):
        """Remove and return the rule of this id; with id 0, the rule of exactly this range."""
        if rule_id:
            rule = self._table.get(rule_id)
        else:
            rule = self._table.find(transport, port_first, port_last)
        if rule is None:
            named = f'{rule_id}' if rule_id else f'{check(transport, port_first, port_last)}'
            raise RuleError(f'no rule {named}', code='NOT_ENROLLED',
                            next_step='list the rules to see what is enrolled')
        left = [other for other in self._table.rules() if other.id != rule.id]
        try:
            self._path.set_rules(left)
        except BypassError:
            with contextlib.suppress(BypassError):
                self._tell_path()
            raise
        self._drop(rule.id)
        return rule

    def rules(self, transport=''):
        """Return the rules by id, of one transport or of all; raises RuleError."""
        if transport and transport not in ACTIONS:
            raise RuleError(f"unknown transport '{transport}': use one of {', '.join(ACTIONS)}, "
                            "or '' for all", code='UNKNOWN_TRANSPORT')
        return self._table.rules(transport)

    def obstacle(self, rule, active):
        """Return why a rule has no effect now, '' when it has."""
        return self._path.obstacle(rule, active)

    def __len__(self):
        """Return the number of rules."""
        return len(self._table)

    def _check_limits(self, transport, port_first, port_last, action):
        if self._limits is not None:
            self._limits.check(transport, port_first, port_last, action)

    def _tell_path(self):
        self._path.set_rules(self._table.rules())

    def _drop(self, rule_id):
        self._table.remove(rule_id)
        self._from_parameters.discard(rule_id)
