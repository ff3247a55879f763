"""The XDP helper: what the node xdp_helper does, without ROS."""

from __future__ import annotations

import contextlib

from ipc_bypass.kernel.errors import BypassError, RuleError
from ipc_bypass.xdp.arrays import Arrays, HELD_OFF
from ipc_bypass.xdp.filter.status import FilterStatus, RuleStatus
from ipc_bypass.xdp.interfaces import check_patterns, Interface, interfaces, matching
from ipc_bypass.xdp.kinds import KINDS, SLOTS
from ipc_bypass.xdp.managed import as_bypass, ManagedInterface
from ipc_bypass.xdp.own_slots import allowed, OwnProgram, parse_program
from ipc_bypass.xdp.request_error import RequestError
from ipc_bypass.xdp.sampler import Sample
from ipc_bypass.xdp.settings import MODES, XdpSettings
from ipc_bypass.xdp.status import InterfaceStatus


class XdpHelper(Arrays):
    """
    Root arrays with their slots on several interfaces, and requests to change them.

    Safe for several threads; what it takes and tells is that of Arrays.
    """

    def attach(self, pattern: str, mode: str = '') -> list[InterfaceStatus]:
        """
        Attach the interfaces that a pattern names; they are taken in where they are new.

        :param mode: one of MODES, '' for that of the settings
        :raises RequestError: when there is none, or each is attached already
        :raises BypassError: when one of them cannot be attached; what is new is let go then
        """
        if mode and mode not in MODES:
            raise RequestError(f"attach in mode '{mode}'", 'there is no such mode',
                               code='INVALID_ARGUMENT', next_step=f"use {', '.join(MODES)}")
        with self._lock:
            if not self._active:
                raise RequestError(f'attach {pattern}', 'the node is not active',
                                   code='NOT_ACTIVE', next_step='activate it first')
            found = self._matching(pattern)
            if not found:
                raise RequestError(f'attach {pattern}', 'there is no such interface',
                                   code='NO_INTERFACE', next_step='see: ip link')
            known = {*self._managed}
            try:
                wanted = self._attach_found(pattern, found, mode or self._settings.mode)
            except BaseException:
                self._let_go(found, known)
                raise
            finally:
                self._keep_fallback()
            if pattern not in self._patterns:
                self._patterns.append(pattern)
                self._watch(found)
            return self._statuses(wanted)

    def detach(self, pattern: str) -> list[InterfaceStatus]:
        """Detach the interfaces that a pattern names, until `attach`; raises RequestError."""
        with self._lock:
            chosen = [each for each in self._chosen(pattern, 'detach', 'NOT_ATTACHED')
                      if each.attached]
            if not chosen:
                raise RequestError(f'detach {pattern}', 'it is not attached',
                                   code='NOT_ATTACHED')
            for managed in chosen:
                self._held_off.add(managed.interface.name)
                managed.detach(HELD_OFF)
            self._keep_fallback()
            return self._statuses(chosen)

    def load_slot(self, pattern: str, index: int, program: str, *, trusted: bool = False
                  ) -> list[int]:
        """
        Load a slot of the interfaces that a pattern names ('': all), and return program ids.

        :param program: a kind, 'FILE.bpf.c:FUNCTION' or a pin
        :param trusted: whether files may be anywhere; else they have to be in their folder
        :raises RequestError: when there is no such slot, interface or program
        :raises BypassError: when it cannot be loaded; it tells which interfaces have it all the
            same, where it could be loaded on some
        """
        _check_slot(index)
        wanted = self._program(program, trusted)
        with self._lock:
            loaded: dict[str, int] = {}
            failed: dict[str, BypassError] = {}
            for managed in self._chosen(pattern, f'load slot {index}', 'NO_INTERFACE'):
                name = managed.interface.name
                try:
                    loaded[name] = managed.load(index, wanted)
                except (BypassError, OSError) as error:
                    failed[name] = as_bypass(error, f'load {program} into slot {index} of {name}')
            if not failed:
                return [*loaded.values()]
            first = next(iter(failed.values()))
            if not loaded:
                raise first
            raise BypassError(
                f'load {program} into slot {index}',
                '; '.join(f'not on {name}: {error}' for name, error in failed.items()),
                errno=first.errno, log=first.log,
                next_step=f"these have it: {', '.join(loaded)}") from first

    def unload_slot(self, pattern: str, index: int) -> None:
        """Empty a slot of the interfaces that a pattern names ('': all); raises RequestError."""
        _check_slot(index)
        with self._lock:
            chosen = self._chosen(pattern, f'unload slot {index}', 'NO_INTERFACE')
            # Each of them, and not only up to the first that had one.
            if not sum(managed.unload(index) for managed in chosen):
                raise RequestError(f'unload slot {index}', 'it is empty', code='EMPTY')

    def apply(self, settings: XdpSettings) -> None:
        """Let changed settings take effect; raises BypassError, and all is as it was then."""
        with self._lock:
            table = self._shared.rules
            before, service = table.rules(), [rule for rule in table.rules()
                                              if rule.origin == 'service']
            table.replace([*settings.filter.rules, *service])
            try:
                self._apply(settings)
            except Exception:
                table.replace(before)
                with contextlib.suppress(Exception):
                    self._apply(self._settings)
                raise
            self._settings = settings

    def add_rule(self, text: str) -> int:
        """Add a rule to every filter and return its id; raises RuleError, BypassError."""
        with self._lock:
            rule = self._shared.rules.add(text, 'service')
            try:
                self._apply(self._settings, 'filter')
            except Exception:
                self._shared.rules.remove(rule.id)
                with contextlib.suppress(Exception):
                    self._apply(self._settings, 'filter')
                raise
            return rule.id

    def remove_rule(self, rule_id: int, text: str = '', *, origin: str = '') -> int:
        """
        Remove a rule by its id, or by its text where that is 0, and return its id.

        :param origin: who must have added it, '' for whoever
        :raises RuleError: when there is no such rule, or it is another's
        :raises BypassError: when a filter cannot be told; the rule is in force as before then
        """
        with self._lock:
            rule = self._shared.rules.remove(rule_id or text)
            if origin not in ('', rule.origin):
                self._shared.rules.add(rule)
                raise RuleError(f"remove the rule '{rule}'", f'it is of origin {rule.origin}',
                                code='NOT_ALLOWED', next_step='take it out of filter_rules')
            try:
                self._apply(self._settings, 'filter')
            except Exception:
                self._shared.rules.add(rule)
                with contextlib.suppress(Exception):
                    self._apply(self._settings, 'filter')
                raise
            return rule.id

    def rules(self) -> list[RuleStatus]:
        """Return the rules with what they decided on all interfaces."""
        with self._lock:
            sums = {rule.id: [0, 0] for rule in self._shared.rules.rules()}
            for status in self.filters().values():
                for rule in status.rules:
                    # A filter may still have in force what the table has no more.
                    total = sums.setdefault(rule.id, [0, 0])
                    total[0] += rule.packets
                    total[1] += rule.bytes
            return [RuleStatus(rule.id, str(rule), rule.origin, *sums[rule.id])
                    for rule in self._shared.rules.rules()]

    def filters(self) -> dict[str, FilterStatus]:
        """Return the filters by interface."""
        with self._lock:
            found = {managed.interface.name: controller.status()
                     for managed in self._managed.values()
                     for controller in managed.controllers('filter')}
            return found | self._fallback.statuses()

    def filter_settings(self) -> dict[str, str | int | bool]:
        """Return the filter's settings by name."""
        return self._settings.filter.shown()

    def samples(self, most: int) -> dict[str, list[Sample]]:
        """Return the samples that wait by interface, at most so many of each; BypassError."""
        with self._lock:
            return {managed.interface.name: controller.read(most)
                    for managed in self._managed.values()
                    for controller in managed.controllers('sampler')}

    def stop_reading(self) -> None:
        """Give up the right to read samples: none are written from now on."""
        with self._lock:
            for managed in self._managed.values():
                for controller in managed.controllers('sampler'):
                    controller.close()

    # Inside -----------------------------------------------------------------------------------

    def _attach_found(self, pattern: str, found: list[Interface], mode: str
                      ) -> list[ManagedInterface]:
        """Attach those of the interfaces that are not; return them all; raises BypassError."""
        for interface in found:
            if interface.index not in self._managed and self._take(interface) is None:
                raise RequestError(f'attach {interface.name}', self._refused[interface.index][1],
                                   code='REFUSED')
        wanted = [self._managed[each.index] for each in found]
        waiting = [each for each in wanted if not each.attached]
        if not waiting:
            raise RequestError(f'attach {pattern}', 'it is attached already',
                               code='ALREADY_ATTACHED')
        for managed in waiting:
            try:
                managed.attach(mode)
            except (BypassError, OSError) as error:
                raise _as_refused(as_bypass(error, f'attach {managed.interface.name}')) from error
            self._held_off.discard(managed.interface.name)
            self._forget(managed.interface.name)
        return wanted

    def _let_go(self, found: list[Interface], known: set[int]) -> None:
        """Close the arrays that a refused request made: nobody watches their interfaces."""
        watched = {each.index for each in matching(self._patterns, interfaces())}
        with contextlib.ExitStack() as ending:
            for index in {each.index for each in found} - watched:
                self._refused.pop(index, None)
                if index not in known and index in self._managed:
                    ending.callback(self._managed.pop(index).close)

    def _apply(self, settings: XdpSettings, kind: str = '') -> None:
        for managed in self._managed.values():
            managed.apply(settings, kind)
        if kind in ('', 'filter'):
            self._fallback.sync(settings.filter)
            self._keep_fallback(settings)
        if self._fast_path is not None and not kind:
            self._fast_path.set_ports(udp=settings.fast_path.udp_ports,
                                      tcp=settings.fast_path.tcp_ports)

    def _matching(self, pattern: str) -> list[Interface]:
        try:
            check_patterns([pattern])
        except BypassError as error:
            raise RequestError(error.what, error.reason, code='INVALID_ARGUMENT',
                               next_step=error.next_step) from error
        return matching([pattern], interfaces())

    def _chosen(self, pattern: str, what: str, code: str) -> list[ManagedInterface]:
        """Return the interfaces of ours that a pattern names; raises RequestError for none."""
        chosen = [*self._managed.values()]
        if pattern:
            indices = {each.index for each in self._matching(pattern)}
            chosen = [each for each in chosen if each.interface.index in indices]
        if not chosen:
            raise RequestError(what, f"the node has no interface '{pattern}'" if pattern
                               else 'the node has no interface', code=code,
                               next_step='see: ipc-bypass xdp status')
        return chosen

    def _program(self, text: str, trusted: bool) -> str | OwnProgram:
        if text in KINDS:
            return text
        if not text.startswith('/'):
            raise RequestError(f"load '{text}'", 'there is no such kind', code='UNKNOWN_PROGRAM',
                               next_step=f"use {', '.join(KINDS)}, FILE.bpf.c:FUNCTION or a pin")
        program = parse_program(text)
        if trusted:
            return program
        return allowed(program, self._settings.slot_directory, self._settings.slot_pin_directory)


def _check_slot(index: int) -> None:
    if not 0 <= index < SLOTS:
        raise RequestError(f'use slot {index}', f'there are {SLOTS}', code='INVALID_SLOT',
                           next_step=f'use 0 to {SLOTS - 1}')


def _as_refused(error: BypassError) -> RequestError:
    return RequestError(error.what, error.reason, code='REFUSED', errno=error.errno,
                        next_step=error.next_step, log=error.log)
