"""Capture by the trace path: the pool is a file, and this process is its writer."""

import contextlib
import fcntl
import os
import time

from ipc_bypass.kernel.namespaces import Namespaces
from ipc_bypass.pool import layout
from ipc_bypass.pool.access import Access
from ipc_bypass.pool.control import ControlServer
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.watchdog import Watchdog
from ipc_bypass.pool.writer import PoolWriter
from ipc_bypass.trace.path import REASONS, TracePath
from ipc_bypass.trace.settings import TraceSettings
from ipc_bypass.udp.receivers import Receivers
from ipc_bypass.udp.upkeep import Upkeep

#: Seconds in which a reader that has just looked has certainly looked again.
_GRACE = 0.05


class Traced:
    """What `UdpPath` uses where cgroup_skb cannot be had; called under its lock."""

    def __init__(self, settings, logger, *, transports=('udp',)):
        """`transports` are those whose sends are traced: UDP, and TCP where it stays as it is."""
        self.settings, self._log, self._transports = settings, logger, transports
        self.notes = []
        self._parts = contextlib.ExitStack()
        self._trace = self._server = self._leases = self._watchdog = self._writer = None
        self._receivers = self._upkeep = None

    def configure(self):
        """Try the probes, make the pool, and let consumers come; raises BypassError."""
        settings = self.settings
        access = Access(settings.pool_group)
        # First without a pool: a kernel without probes needs none.
        trace = TraceSettings(path='trace', transports=self._transports)
        trial = TracePath(trace, self._log)
        trial.configure()
        trial.cleanup()
        memory, descriptors = self._make_pool()
        self._writer = PoolWriter(
            memory, {int(name[5:]): fd for name, fd in descriptors.items()
                     if name.startswith('wake_')},
            heartbeat_ns=settings.heartbeat_ms * 1_000_000,
            use_limit=settings.use_limit_percent / 100)
        self._trace = TracePath(trace, self._log, writer=self._writer)
        self._trace.configure()
        self._parts.callback(self._trace.cleanup)
        self.notes = self._trace.notes
        self._keep(memory)
        self._server = ControlServer(
            settings.control_socket, self._leases, backing='file',
            descriptors=lambda: descriptors, heartbeat_ms=settings.heartbeat_ms, access=access,
            exempt=lambda fd: None, passed=self._passed_by_reason)
        self._watchdog.start()

    def activate(self):
        """Attach the probes."""
        self._trace.activate()

    def deactivate(self):
        """Detach them."""
        self._trace.deactivate()

    def cleanup(self):
        """Release everything; nothing was suppressed, so that nothing is to be sent on."""
        with contextlib.ExitStack() as ending:  # the last one first, and each of them
            ending.callback(self._forget)
            ending.callback(self._parts.close)
            for part in (self._upkeep, self._server):
                if part:
                    ending.callback(part.close)
            if self._watchdog:
                ending.callback(self._watchdog.stop)

    def _forget(self):
        self._trace = self._server = self._leases = self._watchdog = self._writer = None
        self._receivers = self._upkeep = None

    def set_rules(self, rules, by_port):
        """Share the rules out to those who hold leases."""
        seen = [rule for rule in rules if rule.transport in self._transports]
        self._trace.set_rules(seen)
        self._leases.set_rules(seen)
        self._receivers.enroll(port for port, rule in enumerate(by_port) if rule)
        self._upkeep.wake()

    def apply(self, settings):
        """Use other settings, as far as they can change while the pool is there."""
        self.settings = settings
        self._writer.use_limit(settings.use_limit_percent / 100)

    def obstacle(self, rule):
        """Return why a rule has no effect, '' where it has."""
        if rule.action == 'divert':
            return 'the trace path suppresses nothing: use mirror'
        return ''

    def waits_for(self, rule):
        """Return what a rule waits for: a consumer; '' when one holds its lease."""
        return self._leases.waits_for(rule)

    # What is shown ----------------------------------------------------------------------------

    def counters(self):
        """Return the counters by name, with those names of cgroup_skb that have a meaning here."""
        counted = self._trace.counters()
        found = {'captured_mirror': counted['captured'], 'captured_divert': 0,
                 'captured_mirror_bytes': self._writer.captured_bytes,
                 'captured_divert_bytes': 0}
        found.update({f'passed_{reason}': counted[f'passed_{reason}'] for reason in REASONS})
        found['passed_lost'] = counted['lost']
        found.update({f'trace_{name}': counted[name] for name in counted
                      if name.startswith(('sends_', 'bytes_', 'failed_', 'untracked_'))})
        found['slots_freed_by_watchdog'] = sum(self._watchdog.freed.values())
        found['sent_on'] = found['stranded'] = 0
        return found

    def endpoints(self):
        """Return statistics by port and sender: dicts of port, pid, command and numbers."""
        return [{'port': port, 'pid': pid, 'command': '', 'captured': sends,
                 'captured_bytes': size, 'passed': 0, 'passed_bytes': 0}
                for (transport, port, pid), (sends, size) in self._trace.endpoints().items()
                if transport == 'udp']

    def pool(self):
        """Return what is known of the pool."""
        memory = self._writer.memory
        return {'slots': memory.slots,
                'used': tuple(map(self._writer.used, (layout.SMALL, layout.LARGE))),
                'leases': self._leases.shown(), 'clients': self._server.clients(),
                'freed_by_owner': dict(self._watchdog.freed),
                'revoked_by_owner': dict(self._watchdog.revoked),
                'problems': [*self._upkeep.problems, *self._server.problems,
                             *self._watchdog.problems]}

    def receiver_of(self, family, address, port):
        """Return (pid, command) of the process that receives there, or None."""
        receivers = self._receivers
        return receivers.receiver_of(family, address, port) if receivers else None

    # Inside -----------------------------------------------------------------------------------

    def _make_pool(self):
        """
        Return (PoolMemory, {name: descriptor}).

        The file is one of shared memory without a name: it ends with its last user, and nobody
        who has it can make it shorter under the others.
        """
        descriptors = {}

        def keep(name, fd):
            descriptors[name] = fd
            self._parts.callback(os.close, fd)
            return fd

        fd = keep('file', os.memfd_create('ipc_bypass_pool',
                                          os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        memory = PoolMemory.create_in(fd, layout.slot_counts(self.settings.pool_size),
                                      self.settings.max_consumers)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        for ring in range(self.settings.max_consumers):
            keep(f'wake_{ring}', os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return memory, descriptors

    def _passed_by_reason(self):
        return {name[len('passed_'):]: value for name, value in self.counters().items()
                if name.startswith('passed_') and value}

    def _keep(self, memory):
        settings = self.settings
        self._leases = Leases(memory, apply=self._trace.set_shares,
                              wait=lambda: time.sleep(_GRACE), settle=lambda *_: None)
        self._watchdog = Watchdog(
            memory, self._writer.claims, self._leases, _Counts(self._writer),
            slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
            watchdog_ms=settings.watchdog_ms)
        self._receivers = Receivers(None, Namespaces())
        self._upkeep = Upkeep(self._receivers.refresh)


class _Counts:
    """The writer counts slots in use by looking: there is nothing to put right."""

    def __init__(self, writer):
        self._writer = writer

    def used_by_count(self):
        """Return the slots in use by class."""
        return tuple(map(self._writer.used, (layout.SMALL, layout.LARGE)))

    def give_back(self, _kind, _count):
        """Do nothing."""
