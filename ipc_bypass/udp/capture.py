"""Capture by cgroup_skb: the program, the pool, its consumers, and what keeps them honest."""

import contextlib
import os
from pathlib import Path
import time

from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.kernel import bpffs
from ipc_bypass.kernel.attachment import Attachment
from ipc_bypass.kernel.errors import BypassError, PinError
from ipc_bypass.kernel.namespaces import Namespaces
from ipc_bypass.kernel.pin_owner import PinOwner
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.pool import layout
from ipc_bypass.pool.access import Access
from ipc_bypass.pool.control import ControlServer
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.stranded import count_stranded
from ipc_bypass.pool.watchdog import Watchdog
from ipc_bypass.udp.destinations import Destinations
from ipc_bypass.udp.objects import CAPTURE, ENDPOINTS, UdpObjects
from ipc_bypass.udp.receivers import Receivers
from ipc_bypass.udp.resend import Resender
from ipc_bypass.udp.upkeep import Upkeep
import numpy as np

_MILLISECOND_NS = 1_000_000
#: Seconds that consumers have at the end to take what is theirs.
_LAST_TAKE = 1.0
_REASON_PREFIX = 'UDP_PASS_'


class Capture:
    """What `UdpPath` uses where cgroup_skb works; its methods are called under its lock."""

    def __init__(self, settings, logger, *, current_pid=True):
        """`current_pid` False builds the program as for a kernel before 6.10."""
        self.settings, self._log, self._current_pid = settings, logger, current_pid
        self.notes, self.on_fallback = [], lambda ring: None
        self._parts = contextlib.ExitStack()
        self._objects = self._leases = self._server = self._watchdog = None
        self._resender = self._upkeep = self._attachments = None
        self._receivers = self._destinations = None
        self._by_port, self._stranded_before, self._active = [None] * 65536, 0, False
        self._diverts = np.zeros(65536, dtype=bool)
        self._gone = dict.fromkeys(('forged', 'overwritten', 'failed'), 0)
        self._refused_claims = {}
        self._shown = None

    def configure(self):
        """Load, make the pool, and let consumers come; raises BypassError."""
        settings = self.settings
        access = Access(settings.pool_group)
        if settings.pin_directory:
            self._take_pins(access)
        self._objects = objects = UdpObjects(settings, current_pid=self._current_pid)
        self._parts.callback(objects.close)
        self.notes = list(objects.notes)
        self._open_attachments()
        self._write_settings()
        self._make_keepers()
        self._leases = Leases(objects.memory, apply=self._share, wait=wait_for_programs,
                              settle=self._settle)
        self._watchdog = Watchdog(
            objects.memory, objects.claims, self._leases, _Counts(objects),
            slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
            watchdog_ms=settings.watchdog_ms, refresh=self._refresh_header)
        if settings.pin_directory:
            self._pins.publish(objects.handed_out(), replace=bool(self._pins.list()))
            self._parts.callback(self._remove_pins)
        self._server = ControlServer(
            settings.control_socket, self._leases, backing='kernel',
            descriptors=objects.handed_out, heartbeat_ms=settings.heartbeat_ms, access=access,
            exempt=objects.exempt, passed=self._passed_by_reason,
            pins=self._pins.path if settings.pin_directory else '')
        self._watchdog.start()

    def pinned_pool(self):
        """Return a context that gives definitions for a program that writes to the pool."""
        if not self.settings.pin_directory:
            raise PinError('share the pool with the TCP path', "pin_directory is ''",
                           next_step='set pin_directory, or tcp_capture to false')
        return self._objects.pinned(self._program_pins())

    def _program_pins(self):
        return Path(self.settings.pin_directory) / 'udp_programs'

    def activate(self):
        """Attach what notes senders, then what captures."""
        self._objects.set('active', 1)
        try:
            for attachment, descriptor in self._attachments:
                attachment.attach(descriptor)
        except BaseException:
            self.deactivate()
            raise
        self._active = True

    def deactivate(self):
        """Let everything go the usual way at once, then detach."""
        self._objects.set('active', 0)
        for attachment, _ in reversed(self._attachments):
            attachment.detach()
        self._active = False

    def cleanup(self):
        """Let consumers take what is there, send on the rest, and release."""
        with contextlib.ExitStack() as ending:  # the last one first, and each of them
            ending.callback(self._forget)
            ending.callback(self._parts.close)
            for part in (self._resender, self._upkeep, self._server):
                if part:
                    ending.callback(part.close)
            if self._watchdog and self._server:
                ending.callback(self._watchdog.stop)
                ending.callback(self._let_consumers_take)

    def _forget(self):
        """Let go: they know each other, and the pool is unmapped with the last reference."""
        self._objects = self._leases = self._watchdog = self._upkeep = self._resender = None
        self._receivers = self._destinations = self._attachments = self._server = None

    def set_rules(self, rules, by_port):
        """Share the rules out to those who hold leases, and write them."""
        self._by_port = by_port
        self._diverts |= [bool(rule) and rule.action == 'divert' for rule in by_port]
        self._leases.set_rules([rule for rule in rules if rule.transport == 'udp'])
        self._receivers.enroll(port for port, rule in enumerate(by_port) if rule)
        self._upkeep.wake()

    def apply(self, settings):
        """Use other settings, as far as they can change while the pool is there."""
        self.settings = settings
        self._write_settings()
        self._watchdog.set(slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
                           watchdog_ms=settings.watchdog_ms)
        self._server.heartbeat_ms = settings.heartbeat_ms

    def obstacle(self, rule):
        """Return why a rule has no effect, '' where it has."""
        if rule.action == 'divert' and not self._objects.can_divert:
            return next(iter(self._objects.notes), 'divert does not work here')
        return ''

    def waits_for(self, rule):
        """Return what a rule waits for: a consumer; '' when one holds its lease."""
        return self._leases.waits_for(rule)

    # What is shown ----------------------------------------------------------------------------

    def counters(self):
        """Return the counters by name."""
        objects = self._objects
        totals, enums = objects.totals(), objects.enums
        found = {}
        for number, name in enumerate(('mirror', 'divert')):
            found[f'captured_{name}'] = totals['captured'][number]
            found[f'captured_{name}_bytes'] = totals['captured_bytes'][number]
        for name, number in enums['udp_pass_reason'].items():
            if name not in ('UDP_PASS_NONE', 'UDP_PASS_REASONS'):
                found[f'passed_{name[len(_REASON_PREFIX):].lower()}'] = \
                    totals['passed_by_reason'][number]
        found['passed_bytes'] = totals['passed_bytes']
        for name, number in enums['udp_event'].items():
            if name != 'UDP_EVENTS':
                found[name[len('UDP_EVENT_'):].lower()] = totals['events'][number]
        sent = self._resender.counters()
        found['sent_on'], found['stranded'] = sent['sent'], \
            sent['stranded'] + self._stranded_before + sum(self._gone.values())
        found.update({name: value for name, value in sent.items()
                      if name.startswith('stranded_')})
        found['stranded_by_crash'] = self._stranded_before
        found.update({f'stranded_{name}': count for name, count in self._gone.items()})
        found['slots_freed_by_watchdog'] = sum(self._watchdog.freed.values())
        found['leases_revoked'] = sum(self._watchdog.revoked.values())
        return found

    def endpoints(self):
        """Return statistics by port and sender: dicts of port, pid, command and numbers."""
        return [{**key, 'command': printable(value['command'].decode('utf-8', 'replace'))
                 if isinstance(value['command'], bytes) else value['command'],
                 **{name: value[name] for name in
                    ('captured', 'captured_bytes', 'passed', 'passed_bytes')}}
                for key, value in self._objects.endpoints()]

    def pool(self):
        """Return what is known of the pool."""
        memory = self._objects.memory
        used = self._used()
        return {
            'slots': memory.slots, 'used': used,
            'leases': self._leases.shown(), 'clients': self._server.clients(),
            'freed_by_owner': dict(self._watchdog.freed),
            'revoked_by_owner': dict(self._watchdog.revoked),
            'problems': [*self._upkeep.problems, *self._server.problems,
                         *self._watchdog.problems, *self._refused_claims.values()]}

    def receiver_of(self, family, address, port):
        """Return (pid, command) of the process that receives there, or None."""
        receivers = self._receivers  # asked without a lock: it may be cleanup's turn
        return receivers.receiver_of(family, address, port) if receivers else None

    # Inside -----------------------------------------------------------------------------------

    def _take_pins(self, access):
        self._pins = bpffs.PinDirectory(Path(self.settings.pin_directory) / 'udp',
                                        group=access.group)
        owner = PinOwner(self.settings.pin_directory, 'udp_owner', trust=self._pins.list)
        self._parts.callback(self._close_owner, owner)
        bpffs.PinDirectory(self._program_pins()).remove()  # of a start that ended while loading
        before = count_stranded(self._pins)
        if before is not None:
            self._stranded_before = before
            self._log.warning(f'an earlier start left a pool: {before} diverted datagrams in it '
                              'were never taken, and are counted as stranded')

    def _close_owner(self, owner):
        keep = True
        with contextlib.suppress(OSError, PinError):
            keep = bool(self._pins.list())
        owner.close(keep=keep)

    def _remove_pins(self):
        with contextlib.suppress(BypassError):
            self._pins.remove()

    def _open_attachments(self):
        self._attachments = []
        for spec, descriptor in self._objects.attachments():
            attachment = Attachment(self.settings.cgroup_path, spec.prog_type, spec.attach_type,
                                    spec.name)
            self._parts.callback(attachment.close)
            if attachment.remove_leftovers(spec.name):
                self._log.warning(f'removed a program {spec.name} that a crash left attached')
            self._attachments.append((attachment, descriptor))

    def _write_settings(self):
        objects = self._objects
        objects.set('heartbeat_ns', self.settings.heartbeat_ms * _MILLISECOND_NS)
        objects.set_use_limit(self.settings.use_limit_percent)

    def _make_keepers(self):
        objects, namespaces = self._objects, Namespaces()
        self._destinations = Destinations(objects.maps['destinations'].fd, namespaces)
        self._receivers = Receivers(objects.receivers, namespaces,
                                    self._destinations.namespaces_of_address)
        self._resender = Resender(lambda sock: objects.exempt(sock.fileno()),
                                  self._destinations.namespace_of_address)
        self._upkeep = Upkeep(self._destinations.refresh, self._receivers.refresh,
                              self._resender.trim)

    def _share(self, shared):
        """Write the rules with the rings of those who hold their leases."""
        rings = {rule.id: ring for rule, ring in shared}
        self._objects.set_rules([
            (port, rule.action, rule.id, rings.get(rule.id))
            for port, rule in enumerate(self._by_port) if rule])
        if self._leases:
            self._claim()
            self.on_fallback(self._leases.fallback_ring)

    def _claim(self):
        claims = self._leases.claims
        for ring in range(self.settings.max_consumers):
            try:
                if ring in claims:
                    self._destinations.claim(claims[ring], ring)
                else:
                    self._destinations.unclaim(ring)
                self._refused_claims.pop(ring, None)
            except BypassError as error:
                self._refused_claims[ring] = str(error)

    def _passed_by_reason(self):
        return {name[len('passed_'):]: value for name, value in self.counters().items()
                if name.startswith('passed_') and name != 'passed_bytes' and value}

    def _settle(self, ring, first, after):
        """Send on diverted datagrams that nobody took, and free all of their slots."""
        memory = self._objects.memory
        entries = memory.ring_entries
        places = np.arange(after - first, dtype=np.uint64) + np.uint64(first)
        found = memory.descriptors[ring, (places & np.uint64(entries - 1)).astype(np.int64)]
        found = found[(found['number'] == places + np.uint64(1))
                      & (found['slot'] < sum(memory.slots))]
        slots, sequences = found['slot'], found['sequence']
        pending = int(np.count_nonzero(found['action'] == layout.DIVERT))
        found = found[(self._objects.claims[slots] >> np.uint64(1) == sequences)
                      & (memory.sequences(slots) == sequences)
                      & (memory.released[slots] != sequences)]
        # One descriptor a slot: more of them would send the same datagram again and again.
        found = found[np.sort(np.unique(found['slot'], return_index=True)[1])]
        diverted = found[found['action'] == layout.DIVERT]
        self._gone['overwritten'] += pending - len(diverted)
        senders = self._senders() if len(diverted) else None
        for descriptor in diverted:
            self._send_on(descriptor, ring, senders)
        self._watchdog.free(found['slot'].astype(np.int64), found['sequence'])

    def _senders(self):
        """Return {(port, pid)} of who sent to enrolled ports, None where not all are known."""
        try:
            found = {(key['port'], key['pid']) for key, _ in self._objects.endpoints()}
        except OSError:  # such as no memory: what is pending has to go all the same
            return None
        return found if 2 * len(found) < ENDPOINTS else None

    def _send_on(self, descriptor, ring, senders):
        """Send one the usual way; consumers can write here: only what a rule may have taken."""
        try:
            sender = int(descriptor['destination_port']), int(descriptor['sender_pid'])
            if not self._diverts[descriptor['destination_port']] or not self._destinations.allows(
                    descriptor['destination_address'].tobytes(), ring) or (
                        senders is not None and sender not in senders):
                self._gone['forged'] += 1
                return
            self._resender.send(descriptor, self._objects.memory.payload(
                int(descriptor['slot']), int(descriptor['length'])))
        except Exception as error:  # the others have to go
            self._gone['failed'] += 1
            self._log.error(f'a diverted datagram could not be sent on: {error}')

    def _let_consumers_take(self):
        deadline = time.monotonic() + _LAST_TAKE
        while time.monotonic() < deadline and any(
                self._leases.waiting(lease) and lease.pid != os.getpid()
                for lease in self._leases.all()):
            time.sleep(0.01)

    def _used(self):
        objects = self._objects
        busy = objects.claims >> np.uint64(1) != objects.memory.released
        first_large = objects.slots[layout.SMALL]
        return (int(np.count_nonzero(busy[:first_large])),
                int(np.count_nonzero(busy[first_large:])))

    def _refresh_header(self, used):
        shown = (used, self._objects.totals_data(), self._resender.done,
                 sum(self._watchdog.freed.values()))
        if shown == self._shown:
            return
        self._shown = shown
        header, counters = self._objects.memory.header, self.counters()
        header['slots_used'] = used
        header['captured'] = counters['captured_mirror'] + counters['captured_divert']
        header['captured_bytes'] = \
            counters['captured_mirror_bytes'] + counters['captured_divert_bytes']
        header['passed'] = sum(value for name, value in counters.items()
                               if name.startswith('passed_') and name != 'passed_bytes')
        header['freed_by_watchdog'] = counters['slots_freed_by_watchdog']
        header['sent_on'], header['stranded'] = counters['sent_on'], counters['stranded']


class _Counts:
    """The program's own count of slots in use, as struct allocator has it."""

    def __init__(self, objects):
        self._allocator, self._rings = objects.allocator, objects.memory.rings

    def used_by_count(self):
        """Return the count by class: what is claimed, not released, and not given back."""
        allocator = self._allocator[0]
        released = self._rings['released'].sum(axis=0, dtype=np.uint64).astype(np.int64)
        return tuple(int(value) for value in allocator['claimed'].astype(np.int64)
                     - allocator['freed'] - released)

    def give_back(self, kind, count):
        """Count slots of a class as given back; negative takes it back."""
        self._allocator['freed'][:, kind] += np.int64(count)  # it may wrap


__all__ = ['CAPTURE', 'Capture']
