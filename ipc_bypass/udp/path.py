"""The UDP path as one object: its life, its rules, its pool, and what it counts."""

import contextlib
import logging
import threading

from ipc_bypass.kernel.errors import BypassError, PinsInUseError, system_errors
from ipc_bypass.rules.table import resolve
from ipc_bypass.udp.capture import Capture

#: Names of the counters, with their units; zero where nothing is captured.
PATHS = ('cgroup_skb', 'trace')


class UdpPath:
    """
    The UDP path of one node; every method may be called from any thread.

    `selected` is 'cgroup_skb', 'trace' or 'loopback', None before configure; `reasons` says for
    each path that is not selected why; `notes` what of the selected one is not at its best.
    """

    def __init__(self, settings, logger=None, *, trace=None, **options):
        """
        Remember the UdpSettings; nothing is touched before `configure`.

        :param trace: makes the trace path of (settings, logger); without it there is none
        :param options: for tests, handed to `Capture`
        """
        self.settings, self._options = settings, options
        self._log = logger or logging.getLogger('ipc_bypass.udp')
        self._makers = {'cgroup_skb': lambda: Capture(self.settings, self._log, **self._options)}
        if trace:
            self._makers['trace'] = lambda: trace(self.settings, self._log)
        self._lock = threading.RLock()
        self._reset()

    def _reset(self):
        self.selected, self.reasons = None, {}
        self._capture, self._active, self._rules = None, False, [None] * 65536
        self._rule_list, self._counters = [], {}

    # Lifecycle --------------------------------------------------------------------------------

    def configure(self):
        """
        Try the paths in turn; raises BypassError and leaves nothing behind.

        With udp_path 'auto', the first one that works is taken, 'loopback' where none does; but
        that another node has the pins is refused.
        """
        with self._lock:
            wanted, reasons, first = self.settings.udp_path, {}, None
            for name in PATHS:
                if wanted not in ('auto', name):
                    reasons[name] = f'forbidden by parameter udp_path ({wanted})'
                    continue
                if name not in self._makers:
                    reasons[name] = 'not part of this node'
                    continue
                if self.selected:
                    reasons[name] = f'not needed: {self.selected} works here'
                    continue
                capture = None
                try:
                    capture = self._makers[name]()
                    with system_errors(f'make the {name} path'):
                        capture.configure()
                except BypassError as error:
                    if capture:
                        capture.cleanup()
                    if wanted == name or isinstance(error, PinsInUseError):
                        self._reset()
                        raise
                    reasons[name], first = str(error), first or error
                    continue
                except BaseException:
                    if capture:
                        capture.cleanup()
                    raise
                self._capture, self.selected = capture, name
            if self.selected:
                reasons['loopback'] = f'not needed: {self.selected} works here'
            else:
                self.selected = 'loopback'
                if first:
                    self._log.warning(f'UDP stays on loopback: {first}')
                    if first.log:
                        self._log.debug(first.log)
            self.reasons = reasons

    def activate(self):
        """Attach: datagrams are captured from now on."""
        with self._lock:
            if self._capture and not self._active:
                with system_errors('attach the UDP path'):
                    self._capture.activate()
            self._active = True

    def deactivate(self):
        """Let every datagram go the usual way, and detach; consumers may take what is there."""
        with self._lock:
            if self._capture and self._active:
                self._capture.deactivate()
            self._active = False

    def cleanup(self):
        """Release everything; diverted datagrams that nobody took are sent on first."""
        with self._lock:
            self.deactivate()
            if self._capture:
                self._capture.cleanup()
            self._reset()

    # Rules ------------------------------------------------------------------------------------

    def set_rules(self, rules):
        """Make these the rules; datagrams obey from the next send on."""
        with self._lock:
            self._rule_list = list(rules)
            self._rules = resolve([rule for rule in rules if rule.transport == 'udp'])
            if self._capture:
                with system_errors('write the rules of UDP'):
                    self._capture.set_rules(self._rule_list, self._rules)

    def obstacle(self, rule):
        """Return why a rule has no effect here, '' where it has."""
        with self._lock:
            if self._capture:
                return self._capture.obstacle(rule)
            return '; '.join(f'{name}: {reason}' for name, reason in self.reasons.items())

    def waits_for(self, rule):
        """Return what a rule that could have an effect waits for, '' when it has one."""
        with self._lock:
            return self._capture.waits_for(rule) if self._capture else ''

    def apply(self, settings):
        """Use other UdpSettings; those that the pool was made with need a configure."""
        with self._lock:
            self.settings = settings
            if self._capture:
                self._capture.apply(settings)

    def pinned_pool(self):
        """
        Return a context that gives definitions for a program that writes to the pool.

        None where there is no such pool. Raises PinError.
        """
        return self._capture.pinned_pool() if self.selected == 'cgroup_skb' else None

    def follow_fallback(self, follow):
        """Call `follow` with the ring of the node's own lease, whenever that may change."""
        if self.selected == 'cgroup_skb':
            self._capture.on_fallback = follow

    # What is shown ----------------------------------------------------------------------------

    @property
    def notes(self):
        """Return what of the selected path is not at its best here, one line each."""
        capture = self._capture
        return capture.notes if capture else []

    @property
    def pool(self):
        """Return what is known of the pool, a dict of numbers and texts; {} without one."""
        with self._lock:
            return self._capture.pool() if self._capture else {}

    def counters(self):
        """
        Return the monotonic counters by name.

        captured_mirror, captured_divert and the sum of passed_REASON are all the datagrams to
        enrolled ports that were seen.
        """
        with self._lock:
            with contextlib.suppress(OSError):  # what cannot be read now is shown as it was
                self._counters = self._capture.counters() if self._capture else {}
            return dict(self._counters)

    def endpoints(self):
        """Return statistics by port and sender: a list of dicts."""
        with self._lock, contextlib.suppress(OSError):
            return self._capture.endpoints() if self._capture else []
        return []

    def receiver_of(self, family, address, port):
        """Return (pid, command) of the process that receives there, or None."""
        capture = self._capture
        with contextlib.suppress(BypassError, OSError):
            return capture.receiver_of(family, address, port) if capture else None
        return None
