"""Root arrays on several interfaces: those that are there, that come, go and come back."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import threading
import time

from ipc_bypass.kernel.capabilities import missing, privilege_error
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.controllers import Shared
from ipc_bypass.xdp.devmap import DevmapForwarding
from ipc_bypass.xdp.fallback import FallbackFilters
from ipc_bypass.xdp.fast_path.path import FastPath
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.interfaces import Interface, interfaces, matching
from ipc_bypass.xdp.managed import as_bypass, ManagedInterface, raise_open_files
from ipc_bypass.xdp.settings import XdpSettings
from ipc_bypass.xdp.status import FastPathStatus, InterfaceStatus, Report
from ipc_bypass.xdp.templates import Templates
from ipc_bypass.xdp.watcher import InterfaceWatcher

_CAPABILITIES = ('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')
#: Seconds after which what was refused is tried again; sooner when links change.
_AGAIN = 5.0
# Of the time between two tries, and how much of it they may take.
_SHORTEST, _SHARE = 1.0, 0.1
HELD_OFF = 'detached, as a service asked'


class Arrays:
    """
    The arrays of the interfaces that patterns name; safe for several threads.

    A failure on one interface is told in a line and shown in the status; the others go on. An
    interface that vanishes and comes back gets its array and its attachment anew. What is refused
    is tried again, and told once a reason; what somebody else detached by force is left alone.

    :param settings: XdpSettings
    :param tell: called with one line for each thing that happened by itself
    :param templates: compiled programs that several helpers share
    """

    def __init__(self, settings: XdpSettings, tell: Callable[[str], None] = lambda line: None,
                 *, templates: Templates | None = None) -> None:
        self._settings, self._tell = settings, tell
        self._lock = threading.RLock()
        self._templates = templates or Templates()
        self._shared = Shared(FilterTable(), DevmapForwarding(settings.devmap_bridges))
        self._shared.rules.replace(settings.filter.rules)
        self._fallback = FallbackFilters(self._shared.rules, tell)
        self._managed: dict[int, ManagedInterface] = {}
        self._refused: dict[int, tuple[Interface, str]] = {}
        self._told: set[tuple[str, str]] = set()
        self._try_at = 0.0
        self._patterns = [*settings.interfaces]
        self._held_off: set[str] = set()
        self._active = False
        self._watcher: InterfaceWatcher | None = None
        self._fast_path, self._fast_path_problem = None, ''
        if settings.fast_path.bridges:
            self._fast_path = FastPath(settings.fast_path)

    def configure(self) -> None:
        """
        Compile, make the arrays of the interfaces that are there, and load their slots.

        :raises BypassError: when it cannot be had at all: a capability or the compiler is
            missing, or no interface of several can have an array; nothing is left behind then
        """
        lacking = missing(_CAPABILITIES)
        if lacking:
            raise privilege_error('load XDP programs', lacking)
        raise_open_files()
        try:
            with self._lock:
                self._templates.root(False)
                present = self._take_present(self._patterns)
                if self._refused and not self._managed:
                    interface, reason = next(iter(self._refused.values()))
                    raise BypassError(f'make a root array on {interface.name}', reason)
                if self._fast_path is not None:
                    self._fast_path.load()
                if self._patterns:
                    self._watch(present)
        except BaseException:
            self.close()
            raise

    def activate(self) -> None:
        """
        Attach every array but those held off; where one cannot be, its filter runs in user space.

        :raises BypassError: when there are some, none of them can be attached, and none has a
            filter that can run in user space; nothing is attached then
        """
        with self._lock:
            self._active = True
            first = None
            for managed in self._managed.values():
                if managed.interface.name not in self._held_off:
                    first = self._attach_or_tell(managed) or first
            self._keep_fallback()
            if first is not None and not self._fallback.statuses() and not any(
                    each.attached for each in self._managed.values()):
                self._active = False
                self._keep_fallback()
                raise first
            self._keep_containers()

    def deactivate(self) -> None:
        """Detach every array at once; the slots stay loaded."""
        with self._lock:
            self._active = False
            with contextlib.ExitStack() as ending:
                for managed in self._managed.values():
                    ending.callback(managed.detach, HELD_OFF if managed.interface.name
                                    in self._held_off else '')
                ending.callback(self._fallback.close)
                ending.callback(self._shared.forwarding.close)
                if self._fast_path is not None:
                    ending.callback(self._fast_path.detach)

    def close(self) -> None:
        """Detach, and let go of everything."""
        # Not under the lock: the watcher's thread may be waiting for it.
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        with self._lock:
            self._active = False
            managed, self._managed = self._managed, {}
            with contextlib.ExitStack() as ending:
                ending.callback(self._fallback.close)
                ending.callback(self._shared.forwarding.close)
                for each in managed.values():
                    ending.callback(each.close)
                if self._fast_path is not None:
                    ending.callback(self._fast_path.close)

    def status(self) -> Report:
        """Return what there is now, with the interfaces that are named and not there."""
        with self._lock:
            present = {each.index: each for each in interfaces()}
            statuses = [managed.status(present.get(index))
                        for index, managed in self._managed.items()]
            known = {status.name for status in statuses}
            statuses += self._without_array(present, known)
            problems = [f'{each.name}: {each.reason}' for each in statuses if each.reason]
            problems += [f'{each.name}: slot {slot.slot}: {slot.reason}' for each in statuses
                         for slot in each.slots if slot.reason]
            problems += [f'{managed.interface.name}: {problem}'
                         for managed in self._managed.values() for problem in managed.problems()]
            if self._watcher is not None:
                problems += self._watcher.problems
            obstacles = self._shared.forwarding.ports()
            problems += [f'{each.name}: frames of its container go by the bridge: '
                         f'{obstacles[each.name]}' for each in statuses
                         if obstacles.get(each.name)]
            fast_path = self._fast_path_status()
            if fast_path.problem:
                problems.append(f'container fast path: {fast_path.problem}')
            return Report(tuple(statuses), fast_path, tuple(problems))

    # Inside -----------------------------------------------------------------------------------

    def _keep_containers(self) -> None:
        """Begin to keep the tables of what goes from container to container."""
        try:
            if self._settings.devmap_bridges:
                for managed in self._managed.values():
                    for controller in managed.controllers('devmap'):
                        controller.enter()
                self._shared.forwarding.start()
            if self._fast_path is not None:
                self._fast_path.attach()
            self._fast_path_problem = ''
        except BypassError as error:
            self._fast_path_problem = str(error)
            self._tell(f'containers go by their bridge: {error}')

    def _fast_path_status(self) -> FastPathStatus:
        path, problem = self._fast_path, self._fast_path_problem
        problem = problem or self._shared.forwarding.problem
        if path is None:
            return FastPathStatus(problem=problem)
        return FastPathStatus(True, path.way, problem or path.problem, tuple(path.ports()),
                              path.counters())

    def _watch(self, known: list[Interface]) -> None:
        """Watch the patterns as they are now; those that are known are not told again."""
        if self._watcher is None:
            self._watcher = InterfaceWatcher(
                self._patterns, self._appeared, self._vanished, renamed=self._renamed,
                changed=lambda _before, now: self._refresh(now), looked=self._try_again,
                known=known, interval=_AGAIN)
        else:
            self._watcher.set_patterns(self._patterns)

    def _appeared(self, interface: Interface) -> None:
        """Take in an interface that came, or came back; called by the watcher's thread."""
        with self._lock:
            if interface.index in self._managed:
                return
            managed = self._take(interface)
            if managed is not None and self._wants(managed):
                if self._attach_or_tell(managed) is None:
                    self._tell(f'{interface.name} came, and is attached')
            self._keep_fallback()

    def _vanished(self, interface: Interface) -> None:
        """Let go of an interface that is gone; called by the watcher's thread."""
        with self._lock:
            managed = self._managed.pop(interface.index, None)
            self._refused.pop(interface.index, None)
            self._forget(interface.name)
            try:
                self._keep_fallback()
            finally:
                if managed is not None:
                    self._tell(f'{interface.name} is gone')
                    managed.close()

    def _renamed(self, before: Interface, now: Interface) -> None:
        """Go on under an interface's new name; called by the watcher's thread."""
        with self._lock:
            if before.name in self._held_off:
                self._held_off.remove(before.name)
                self._held_off.add(now.name)
            self._forget(before.name)
            self._refresh(now)
            self._keep_fallback()

    def _refresh(self, interface: Interface) -> None:
        """Keep an interface as it is now; called by the watcher's thread."""
        with self._lock:
            if interface.index in self._managed:
                self._managed[interface.index].refresh(interface)
            elif interface.index in self._refused:
                self._refused[interface.index] = interface, self._refused[interface.index][1]

    def _try_again(self) -> None:
        """Try what was refused again, seldom; called by the watcher's thread after a look."""
        began = time.monotonic()
        if began < self._try_at:
            return
        with self._lock:
            waiting = [interface for interface, _reason in self._refused.values()]
            waiting += [each.interface for each in self._managed.values() if self._wants(each)]
        for interface in waiting:
            with self._lock:  # for one at a time, so that requests come in between
                if self._watcher is None:
                    break
                managed = self._managed.get(interface.index)
                if managed is None and interface.index in self._refused:
                    managed = self._take(interface)
                if managed is not None and self._wants(managed):
                    if self._attach_or_tell(managed) is None:
                        self._tell(f'{interface.name} is attached now')
                self._keep_fallback()
        took = time.monotonic() - began
        self._try_at = began + took + max(_SHORTEST, took / _SHARE)

    def _wants(self, managed: ManagedInterface) -> bool:
        """Return whether an array is to be attached, and is not."""
        return self._active and not managed.attached and not managed.lost \
            and managed.interface.name not in self._held_off

    def _take_present(self, patterns: list[str]) -> list[Interface]:
        """Take in what patterns name now, and return it."""
        found = matching(patterns, interfaces())
        for interface in found:
            if interface.index not in self._managed:
                self._take(interface)
        return found

    def _take(self, interface: Interface) -> ManagedInterface | None:
        """Make the array of an interface; tell and return None where it cannot be had."""
        try:
            managed = ManagedInterface(interface, self._settings, self._templates,
                                       self._shared, self._tell)
        except (BypassError, OSError) as error:
            reason = str(as_bypass(error, f'make a root array on {interface.name}'))
            self._refused[interface.index] = interface, reason
            self._tell_once(interface.name, f'{interface.name} has no root array: {reason}')
            return None
        self._refused.pop(interface.index, None)
        self._managed[interface.index] = managed
        if interface.name in self._held_off:
            managed.reason = HELD_OFF
        return managed

    def _attach_or_tell(self, managed: ManagedInterface) -> BypassError | None:
        """Attach an interface; tell and return the error where it cannot be."""
        try:
            managed.attach(self._settings.mode)
        except (BypassError, OSError) as caught:
            error = as_bypass(caught, f'attach XDP to {managed.interface.name}')
            managed.reason = str(error)
            self._tell_once(managed.interface.name,
                            f'{managed.interface.name} is not attached: {error}')
            return error
        self._forget(managed.interface.name)
        return None

    def _keep_fallback(self, settings: XdpSettings | None = None) -> None:
        """Judge in user space what is to have XDP and has none now."""
        settings, wanted = settings or self._settings, {}
        if self._active and settings.filter_user_space and 'filter' in settings.slots:
            wanted = {index: (each.interface.name, each.reason)
                      for index, each in self._managed.items() if self._wants(each)}
            wanted |= {index: (interface.name, reason)
                       for index, (interface, reason) in self._refused.items()
                       if interface.name not in self._held_off}
        self._fallback.keep(wanted, settings.filter)

    def _tell_once(self, name: str, line: str) -> None:
        """Tell of an interface what was not told of it yet."""
        if (name, line) not in self._told:
            self._told.add((name, line))
            self._tell(line)

    def _forget(self, name: str) -> None:
        self._told = {(other, line) for other, line in self._told if other != name}

    def _statuses(self, managed: list[ManagedInterface]) -> list[InterfaceStatus]:
        present = {each.index: each for each in interfaces()}
        return [each.status(present.get(each.interface.index)) for each in managed]

    def _without_array(self, present: dict[int, Interface], known: set[str]
                       ) -> list[InterfaceStatus]:
        """Return the interfaces that are named, and have no array or are not there."""
        found = [InterfaceStatus(each.name, each.index, each.kind, each.driver, each.mtu,
                                 configured=True,
                                 reason=self._refused.get(each.index, (each, ''))[1])
                 for each in matching(self._patterns, [*present.values()])
                 if each.name not in known]
        known = known | {each.name for each in found}
        for pattern in self._patterns:
            if not matching([pattern], [*present.values()]) and pattern not in known:
                found.append(InterfaceStatus(pattern, configured=True,
                                             reason='there is no such interface now'))
        return found
