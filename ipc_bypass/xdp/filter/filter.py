"""The filter of one interface: its rules and settings, changed while packets flow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import threading

from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.xdp.filter.compiled import compile_rules
from ipc_bypass.xdp.filter.rule_table import FilterTable, MAX_RULES
from ipc_bypass.xdp.filter.rules import FilterRule
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.status import FilterStatus, RuleStatus
from ipc_bypass.xdp.filter.tables import FilterTables


class Filter:
    """
    What the program in the slot obeys; every method may be called from any thread.

    Until the first apply(), the maps are as they were: empty ones let everything pass.

    :param maps: LoadedSlot.maps of the slot; they stay the caller's
    :param table: rules by id that filters of several interfaces share, each to be told by
        `sync()` after a change; one of its own when left out
    """

    def __init__(self, maps: Mapping[str, LoadedMap], table: FilterTable | None = None) -> None:
        self.table = table if table is not None else FilterTable()
        self.settings = FilterSettings()
        self._tables = FilterTables(maps)
        self._lock = threading.RLock()
        self._indices: dict[int, int] = {}  # rule id: index of its counters
        self._in_force: list[FilterRule] = []

    def apply(self, settings: FilterSettings) -> None:
        """
        Put settings and their rules in force, in place of all that was.

        Rules that were there keep their ids and counters.

        :raises RuleError: a rule is refused; nothing changed
        :raises BypassError: the maps cannot be written; what was in force still is
        """
        with self._lock:
            before = self.table.rules()
            self.table.replace(settings.rules)
            try:
                self._write(settings)
            except BaseException:
                self.table.replace(before)
                raise

    def sync(self, settings: FilterSettings | None = None) -> None:
        """Put the table's rules in force, and these settings (their rules are not looked at)."""
        with self._lock:
            self._write(settings or self.settings)

    def add(self, rule: str | FilterRule, origin: str = 'service') -> FilterRule:
        """Add a rule, in force on return, and return it with its id; raises like `apply`."""
        with self._lock:
            added = self.table.add(rule, origin)
            try:
                self._write(self.settings)
            except BaseException:
                self.table.remove(added.id)
                raise
            return added

    def remove(self, rule: int | str) -> FilterRule:
        """
        Remove a rule by its id or its text, no longer in force on return, and return it.

        :raises RuleError: NOT_THERE, INVALID_RULE
        :raises BypassError: the maps cannot be written; the rule still is in force
        """
        with self._lock:
            removed = self.table.remove(rule)
            try:
                self._write(self.settings)
            except BaseException:
                self.table.add(removed)
                raise
            return removed

    def rules(self) -> list[FilterRule]:
        """Return the rules in force, by id."""
        with self._lock:
            return list(self._in_force)

    def status(self) -> FilterStatus:
        """Return settings, rules with their counters, and packets by outcome."""
        with self._lock:
            rules = [RuleStatus(rule.id, str(rule), rule.origin,
                                *self._tables.rule_counters(self._indices[rule.id]))
                     for rule in self._in_force]
            return FilterStatus('xdp', '', self.settings.shown(), tuple(rules),
                                self._tables.outcomes())

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with these maps, after the slot's program was replaced."""
        with self._lock:
            self._tables = FilterTables(maps)
            self._write(self.settings)

    def _write(self, settings):
        rules = self.table.rules()
        indices = self._give_indices(rules)
        self._tables.write(compile_rules(settings, rules, indices), settings)
        self._indices, self._in_force, self.settings = indices, rules, settings

    def _give_indices(self, rules: Iterable[FilterRule]) -> dict[int, int]:
        """Return {rule id: index}: those of before, and cleared ones for new rules."""
        indices = {rule.id: self._indices[rule.id] for rule in rules
                   if rule.id in self._indices}
        # What is in force goes on counting until the turn: its places are not free yet.
        taken = {*self._indices.values()}
        free = (index for index in range(MAX_RULES) if index not in taken)
        for rule in rules:
            if rule.id not in indices:
                index = next(free, None)
                if index is None:  # as many are removed as are added: share places for a moment
                    left = taken - {*indices.values()}
                    index = min(left)
                    taken.discard(index)
                self._tables.clear_rule(index)
                indices[rule.id] = index
        return indices
