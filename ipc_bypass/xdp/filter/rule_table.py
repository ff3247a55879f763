"""The rules of the filter by id, the same ones for every interface of a node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import threading

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.xdp.filter.rules import check, FilterRule, parse

#: FILTER_RULES of bpf/xdp_filter.h.
MAX_RULES = 4096
#: FILTER_COMBINED_RULES of bpf/xdp_filter.h: rules that ask for more than one field.
MAX_COMBINED = 512


class FilterTable:
    """Rules with ids that do not come again; safe to use from several threads."""

    def __init__(self, max_rules: int = MAX_RULES) -> None:
        """Make an empty table that holds at most `max_rules` rules."""
        self._rules: dict[int, FilterRule] = {}
        self._by_conditions: dict[tuple, int] = {}
        self._next_id, self._max_rules = 1, max_rules
        self._combined = 0
        self._lock = threading.RLock()

    def add(self, rule: str | FilterRule, origin: str = '') -> FilterRule:
        """
        Add a rule and return it with its id.

        :param rule: text or FilterRule; an id that it has already is kept where it is free
        :raises RuleError: INVALID_RULE; ALREADY_THERE with `rule_id` set where a rule has the
            same conditions; TOO_MANY_RULES
        """
        given = parse(rule) if isinstance(rule, str) else check(rule)
        with self._lock:
            there = self._by_conditions.get(given.conditions)
            if there is not None:
                raise RuleError(
                    f"add the rule '{given}'", f"rule {there} is '{self._rules[there]}'",
                    next_step='remove it first to change its action', code='ALREADY_THERE',
                    rule_id=there)
            if len(self._rules) >= self._max_rules:
                raise RuleError(f"add the rule '{given}'", f'the filter holds {self._max_rules}, '
                                'its most', next_step='use ranges and prefixes, or remove rules',
                                code='TOO_MANY_RULES')
            combined = sum(given.fields) > 1
            if combined and self._combined >= MAX_COMBINED:
                raise RuleError(
                    f"add the rule '{given}'", f'the filter holds {MAX_COMBINED} rules that ask '
                    'for several fields, its most', code='TOO_MANY_RULES',
                    next_step='use ranges and prefixes, or remove such rules')
            number = given.id if given.id and given.id not in self._rules else self._next_id
            self._next_id = max(self._next_id, number + 1)
            added = replace(given, id=number, origin=origin or given.origin)
            self._rules[number] = added
            self._by_conditions[added.conditions] = number
            self._combined += combined
            return added

    def remove(self, rule: int | str) -> FilterRule:
        """Remove a rule by its id or its text; raises RuleError NOT_THERE or INVALID_RULE."""
        with self._lock:
            number = rule if isinstance(rule, int) else \
                self._by_conditions.get(parse(rule).conditions, 0)
            removed = self._rules.pop(number, None)
            if removed is None:
                raise RuleError(f"remove the rule '{rule}'", 'there is no such rule',
                                next_step='list the rules to see their ids', code='NOT_THERE')
            del self._by_conditions[removed.conditions]
            self._combined -= sum(removed.fields) > 1
            return removed

    def replace(self, rules: Iterable[str | FilterRule], origin: str = 'parameter') -> None:
        """
        Hold these rules instead, all of them or, where one is refused, those of before.

        A rule that was there, with the same conditions and action, keeps its id.

        :raises RuleError: as `add`
        """
        with self._lock:
            fresh = FilterTable(self._max_rules)
            fresh._next_id = self._next_id
            for rule in rules:
                given = parse(rule) if isinstance(rule, str) else check(rule)
                there = self._rules.get(self._by_conditions.get(given.conditions, 0))
                if there is not None and there.action == given.action and not given.id:
                    given = replace(given, id=there.id)
                fresh.add(given, origin if isinstance(rule, str) else '')
            self._rules, self._by_conditions = fresh._rules, fresh._by_conditions
            self._next_id, self._combined = fresh._next_id, fresh._combined

    def get(self, rule_id: int) -> FilterRule | None:
        """Return the rule of this id, or None."""
        with self._lock:
            return self._rules.get(rule_id)

    def rules(self) -> list[FilterRule]:
        """Return the rules by id."""
        with self._lock:
            return [self._rules[number] for number in sorted(self._rules)]

    def __len__(self) -> int:
        """Return the number of rules."""
        return len(self._rules)
