"""The TCP path as one object: its life, its rules, and what it shows of flows and counters."""

import contextlib
import logging
import os
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.attachment import Attachment
from ipc_bypass.kernel.errors import (
    BypassError,
    ConformanceError,
    PinsInUseError,
    system_errors,
)
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.rules.table import resolve
from ipc_bypass.tcp.abandoned import AbandonedWriters
from ipc_bypass.tcp.conformance import Check, PassedDataFault, QueueViewFault
from ipc_bypass.tcp.exclusions import parse
from ipc_bypass.tcp.existing import OpenedBefore
from ipc_bypass.tcp.fitness import Fitness
from ipc_bypass.tcp.flows import Reader, SUMS
from ipc_bypass.tcp.gateway import GatewayPairs
from ipc_bypass.tcp.held import collect_closed
from ipc_bypass.tcp.memory import tcp_memory_room
from ipc_bypass.tcp.objects import ESTABLISH, TcpObjects
from ipc_bypass.tcp.owners import Owners
from ipc_bypass.tcp.renewal import Renewal, unread_bytes, WakeRing

_MILLISECOND_NS = 1_000_000
_LEAST_BUDGET = 64 << 10
#: Kernel memory of one redirected message besides its data, in bytes (struct sk_msg).
_MESSAGE_OVERHEAD = 1024
_LEAST_MESSAGES = 256


class TcpPath:
    """
    The TCP path of one node; every method may be called from any thread.

    `selected` is 'sk_msg' or 'loopback', None before configure; `reasons` says for each path
    that is not selected why; `notes` what of the selected one is not at its best, and why.
    """

    def __init__(self, settings, logger=None, *, kernel_view=True, gateway=False):
        """
        Remember the TcpSettings; nothing is touched before `configure`.

        `kernel_view` False builds the programs as for a kernel that hides its queues. With
        `gateway` rules name the ports that a proxy of ours listens on, with the action 'gateway'
        (the path is one between the ends beyond the proxy, which it pairs by `pairs`) or 'note'
        (only the proxy's own sockets are noted).
        """
        self.settings, self._kernel_view, self._gateway = settings, kernel_view, gateway
        self.pairs = None
        #: Definitions of the pool that messages may be copied to; set before `configure`.
        self.pool, self._capture_ring = None, None
        self._log = logger or logging.getLogger('ipc_bypass.tcp')
        self._lock = threading.RLock()
        self._reset()

    def _reset(self):
        self.selected, self.reasons, self.notes = None, {}, []
        self._objects = self._reader = self._attachment = None
        self._renewal = self._ring = self._abandoned = self._fitness = None
        self._writers_reset = 0
        self._rules, self._owners, self._rule_list = [None] * 65536, Owners(), []
        self._active = False
        self._opened_before, self._budget_bytes = OpenedBefore(), 0

    # Lifecycle --------------------------------------------------------------------------------

    def configure(self):
        """
        Probe, load (or adopt), and check this kernel; raises BypassError and leaves nothing.

        With tcp_path 'auto', what cannot be had makes 'loopback' the path, with the reason; but
        that another node has the pins is refused, for two would serve the same connections.
        """
        with self._lock:
            if self.settings.tcp_path == 'loopback':
                self.selected = 'loopback'
                self.reasons = {'sk_msg': 'forbidden by parameter tcp_path'}
                return
            try:
                with system_errors('make the TCP path'):
                    self._configure()
            except BypassError as error:
                self._release()
                if self.settings.tcp_path == 'sk_msg' or isinstance(error, PinsInUseError):
                    self._reset()
                    raise
                self._reset()
                self.selected, self.reasons = 'loopback', {'sk_msg': str(error)}
                self._log.warning(f'TCP stays on loopback: {error}')
                if error.log:
                    self._log.debug(error.log)
                return
            except BaseException:
                self._release()
                self._reset()
                raise
            self.selected = 'sk_msg'
            self.reasons = {'loopback': 'not needed: sk_msg works here'}

    def activate(self):
        """Attach: connections that are established from now on are enrolled."""
        with self._lock:
            if self.selected == 'sk_msg' and not self._active:
                with system_errors('attach the TCP path'):
                    # Nobody saw those that ended while nothing was attached.
                    collect_closed(self._objects)
                    self._attach()
                    try:
                        self._start_renewal()
                        self._fitness.start(any(self._rules))
                    except BaseException:
                        try:
                            self._attachment.detach()
                        finally:
                            self._stop_renewal()
                        raise
                self._set('active', 1)
            self._active = True
            self._find_opened_before()

    def deactivate(self):
        """Turn every connection to pass, and detach. Returns at once; nothing is purged."""
        with self._lock:
            if self._objects and self._active:
                self._set('active', 0)
                self._attachment.detach()
                self._stop_renewal()
            self._active = False

    def cleanup(self):
        """
        Release everything; return what open connections still hold, as `held()` does.

        Their maps stay in the kernel until they end. Where pins are used, the pins stay too
        while there are such connections, so that the next start takes them up again.
        """
        with self._lock:
            self.deactivate()
            held = self.held()
            self._release(keep_pins=bool(held['connections']))
            self._reset()
            return held

    # Rules ------------------------------------------------------------------------------------

    def set_rules(self, rules):
        """Make these the rules; connections obey from their next send on."""
        with self._lock:
            self._rule_list = list(rules)
            self._rules = resolve([rule for rule in rules if rule.transport == 'tcp'])
            ruled = any(self._rules)
            # Who is left out is known before the first connection is entered.
            if self._fitness and ruled:
                self._fitness.watch(True)
            with system_errors('write the rules of TCP'):
                self._write_rules()
            if self._fitness and not ruled:
                self._fitness.watch(False)
            self._find_opened_before()

    def _write_rules(self):
        if self._objects:
            actions = self._objects.enums['rule_action']
            none = actions['ACTION_NONE']
            by_name = {'accelerate': actions['ACTION_ACCELERATE'],
                       'gateway': actions['ACTION_GATEWAY'], 'note': actions['ACTION_NOTE']}
            self._objects.rules.write([by_name[rule.action] if rule else none
                                       for rule in self._rules])

    def apply(self, settings):
        """Use other TcpSettings; those that the programs were built with need a configure."""
        with self._lock:
            parse(settings.exclude)
            self.settings = settings
            if self._objects:
                self._write_settings()
                with system_errors('write exclude'):
                    self._fitness.apply(settings)

    def excluded(self):
        """Return who is left out, as a list of `exclusions.Excluded`."""
        with self._lock:
            return self._fitness.exclusions.found() if self._fitness else []

    def set_capture_ring(self, ring):
        """Copy redirected messages to this ring of the pool from now on; None: to none."""
        with self._lock:
            self._capture_ring = ring
            if self._objects and self.pool:
                self._set('capture_ring', 0 if ring is None else ring + 1)

    # What is shown ----------------------------------------------------------------------------

    def flows(self):
        """Return the open flows as a list of `flows.Flow`."""
        with self._lock:
            if not self._reader:
                return []
            flows = self._reader.flows(self._active)
            self._share_budget(len(flows))
            return flows

    def counters(self):
        """
        Return the monotonic counters by name; see `flows.Reader.counters`.

        left_out_opened_before are the ends of connections on enrolled ports that were there
        before the path was active, or before their rule was: they go the usual way.
        writers_reset are ends whose reader had closed with redirected bytes unread;
        readers_reset are ends that spliced in vain.
        """
        with self._lock:
            if not self._reader:
                return dict.fromkeys(SUMS, 0)
            return {**self._reader.counters(),
                    'left_out_opened_before': len(self._opened_before.found),
                    'writers_reset': self._writers_reset + (
                        self._abandoned.reset if self._abandoned else 0),
                    'readers_reset': self._fitness.reset}

    def clear_counters(self):
        """Count from 0 again; nothing may be open."""
        with self._lock:
            self._objects.totals.clear(0)

    def sent(self, index, established_ns=0):
        """
        Return what one end of a connection did, by its record's index, None where it is unknown.

        :param established_ns: of the record when it was this connection's; 0: whatever it is now
        :returns: (established_ns, time of its last send by time.monotonic(), bytes redirected);
            also of an end that closed, until another connection has its record
        """
        with self._lock:
            if not self._objects:
                return None
            view = self._objects.flows
            now = view.get(index, 'established_ns')
            if established_ns and now != established_ns:
                return None
            # Python's clock is the kernel's CLOCK_MONOTONIC.
            return (now, view.get(index, 'last_send_ns') / 1e9,
                    view.get(index, 'redirected_bytes'))

    def held(self):
        """
        Return {'connections': n, 'bytes': n} that an inactive path still holds in the kernel.

        The bytes are those that the connections' sockets have unread, redirected or not.

        While the path is active its open connections are not held, they are used: both are 0.
        """
        with self._lock:
            if not self._objects or self._active:
                return {'connections': 0, 'bytes': 0}
            with contextlib.suppress(OSError):  # else ended ones are counted until the next call
                collect_closed(self._objects)
            records = self._reader.records().values()
            return {'connections': len({frozenset((tuple(record['key'].values()),
                                                   tuple(record['peer_key'].values())))
                                        for record in records}),
                    'bytes': sum(self._unread(record) for record in records)}

    def _unread(self, record):
        """Return what the socket of a record has unread, in bytes; 0 where we cannot see it."""
        try:
            fd = self._owners.socket(record['cookie'], record['pid'])
        except OSError:
            return 0
        if fd is None:
            return 0
        try:
            return unread_bytes(fd, by_peek=False)
        except OSError:
            return 0
        finally:
            os.close(fd)

    # Inside -----------------------------------------------------------------------------------

    def _configure(self):
        self._attachment = _attachment(self.settings.cgroup_path)
        self._load(self.settings.renewal)
        if self._attachment.remove_leftovers(ESTABLISH):
            self._log.warning('removed a program that an earlier crash left attached')
        self._set('active', 0)
        self._write_settings()
        self._write_rules_of(None)
        if self._objects.adopted:
            collect_closed(self._objects)
            if self._objects.settings_view.get(0, 'skb_pass_attached'):
                self.notes.append('FIONREAD is worked around by a passing sk_skb program')
        else:
            try:
                self._check()
            except QueueViewFault as fault:
                self._unload()
                self._load('userspace')
                self._write_settings()
                self._check()
                self.notes.append(f'budgets are renewed from user space: {fault.reason}')
            self._objects.publish()
        self._write_rules()
        if self._objects.view_reason:
            self.notes.append('what the connecting end sends passes, a direction that passed does '
                              'not come back, and budgets are renewed from user space: '
                              f'{self._objects.view_reason}')
        self._fitness = Fitness(self._objects, self._owners, self.settings, self._log)
        self._fitness.notes = self.notes = [*self.notes, *self._fitness.notes]
        if self._objects.adopted:
            count = len(self._objects.flows.live())
            self._log.info(f'took over {count} open flows of an earlier start')

    def _load(self, renewal):
        self._objects = TcpObjects(self.settings, renewal=renewal, kernel_view=self._kernel_view,
                                   pool=self.pool, gateway=self._gateway)
        if self._gateway:
            self.pairs = GatewayPairs(self._objects)
        self._reader = Reader(self._objects, self._owners, self._rules_of_port)
        if 'wake' in self._objects.maps:
            self._ring = WakeRing(self._objects.maps['wake'])

    def _rules_of_port(self, port):
        return self._rules[port & 0xffff]

    def _set(self, name, value):
        self._objects.settings_view.put(0, name, value)

    def _write_settings(self):
        settings = self.settings
        for name, value in (
                ('pause_ns', settings.pause_initial_ms * _MILLISECOND_NS),
                ('pause_max_ns', settings.pause_max_ms * _MILLISECOND_NS),
                ('guard_rate', settings.guard_rate), ('guard_size', settings.guard_size_bytes),
                ('guard_ns', settings.guard_duration_ms * _MILLISECOND_NS),
                ('find_unfit', int(settings.find_unfit))):
            self._set(name, value)
        self.set_capture_ring(self._capture_ring)
        self._share_budget(len(self._objects.flows.live()))

    def _share_budget(self, flows):
        """Give every receiver its budget, less where their sum or TCP's memory would be above."""
        settings = self.settings
        share = min(settings.total_budget_bytes, tcp_memory_room()) // max(1, flows)
        self._budget_bytes = max(_LEAST_BUDGET, min(settings.budget_bytes, share))
        if self._objects.settings_view.get(0, 'budget_bytes') != self._budget_bytes:
            self._set_budget(self._budget_bytes)

    def _set_budget(self, size):
        self._set('budget_messages', _messages(size))
        self._set('budget_bytes', size)

    def _check(self):
        """Run the conformance check, with the work-arounds that this kernel takes."""
        self._attachment.attach(self._objects.programs[ESTABLISH])
        self._attachment.detach()
        # At the root, wherever the path serves: this process need not be in that cgroup.
        everywhere = _attachment('')
        everywhere.attach(self._objects.programs[ESTABLISH])
        try:
            try:
                findings = self._conformance().run()
            except PassedDataFault as fault:
                self._objects.attach_skb_pass()
                findings = self._conformance().run()
                self._check_sequences()
                self.notes.append(f'{fault.reason}: worked around by a passing sk_skb program')
        finally:
            self._set('active', 0)
            everywhere.close()
            collect_closed(self._objects)
        self._write_settings()
        self._objects.totals.clear(0)
        self._set('renew_by_peek', int(not findings.fionread_redirected))
        if not findings.fionread_redirected:
            self.notes.append('FIONREAD does not count redirected data on this kernel')

    def _check_sequences(self):
        """See that skb_pass found each segment to begin where the one before ended."""
        counters = self._reader.counters()
        wrong = counters['overlap_trimmed'] + counters['overlap_kept']
        if wrong:
            raise ConformanceError('check redirect on this kernel: sequence numbers',
                                   f'sk_skb does not see those of {wrong} segments',
                                   next_step='the TCP path stays off here; report the kernel '
                                   'release')

    def _conformance(self):
        return Check(enroll=self._write_rules_of, withdraw=lambda port: self._write_rules_of(None),
                     activate=lambda on: self._set('active', int(on)),
                     budget=self._set_budget,
                     flow=self._flow_from,
                     sees_queues=self._objects.program_renewal,
                     one_way=bool(self._objects.view_reason))

    def _flow_from(self, port):
        for record in self._reader.records().values():
            if record['key']['local_port'] == port:
                return record
        raise ConformanceError('check redirect on this kernel', 'a connection was not entered',
                               next_step='see: ipc-bypass doctor')

    def _write_rules_of(self, port):
        """Enroll one port and nothing else, for the check."""
        actions = self._objects.enums['rule_action']
        self._objects.rules.write([actions['ACTION_ACCELERATE'] if number == port else
                                   actions['ACTION_NONE'] for number in range(65536)])

    def _attach(self):
        self._attachment.attach(self._objects.programs[ESTABLISH])

    def _find_opened_before(self):
        """Look for connections that are older than their rule; it takes a while."""
        objects = self._objects
        if objects and self._active and any(self._rules) and not self._gateway:
            self._opened_before.look(self._rules, lambda: self._entered(objects))

    def _entered(self, objects):
        """
        Return the cookies of the ends that are entered, or were left out by the program.

        None when `objects` are released.
        """
        with self._lock:
            if objects is self._objects:
                view, left_out = objects.flows, objects.maps['left_out_ends']
                found = {view.get(index, 'cookie') for index in view.live()}
                with contextlib.suppress(OSError):  # such as no memory: they count twice then
                    found.update(int.from_bytes(value, 'little') for _, value in syscall.map_items(
                        left_out.fd, left_out.key_size, left_out.value_size))
                return found

    def _start_renewal(self):
        by_peek = bool(self._objects.settings_view.get(0, 'renew_by_peek'))
        # Beyond a gateway, the other end of a connection is the gateway's own socket.
        if not self._gateway:
            self._abandoned = AbandonedWriters(self._objects.flows, self._owners, by_peek)
            self._abandoned.start()
        if self._ring is None:
            return
        self._renewal = Renewal(self._objects.flows, self._owners,
                                lambda: (self._budget_bytes, _messages(self._budget_bytes)),
                                self._ring, by_peek)
        self._renewal.start()

    def _stop_renewal(self):
        if self._fitness:
            self._fitness.stop()
        if self._abandoned:
            self._abandoned.stop()
            self._writers_reset += self._abandoned.reset
            self._abandoned = None
        if self._renewal:
            self._renewal.stop()
            self._renewal = None

    def _unload(self):
        if self._ring:
            self._ring.close()
            self._ring = None
        self._objects.close()

    def _release(self, keep_pins=False):
        self._opened_before.close()
        self._stop_renewal()
        if self._fitness:
            self._fitness.close()
            self._fitness = None
        if self._attachment:
            self._attachment.close()
        if self._objects:
            if not keep_pins:
                with contextlib.suppress(BypassError):
                    self._objects.remove_pins()
            self._unload()
        self._objects = self._reader = self._ring = self._attachment = self.pairs = None


def _messages(budget_bytes):
    """Return how many messages a receiver may have unread."""
    return max(_LEAST_MESSAGES, budget_bytes // _MESSAGE_OVERHEAD)


def _attachment(cgroup_path):
    return Attachment(cgroup_path, ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, 'sock_ops')
