"""A ready-made handler: writes UDP payloads into a pool that ordinary consumers map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import contextlib
import fcntl
import os
import time

from ipc_bypass.pool import layout
from ipc_bypass.pool.access import Access
from ipc_bypass.pool.control import ControlServer
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.watchdog import Watchdog
from ipc_bypass.pool.writer import Capture, PoolWriter
from ipc_bypass.rules.table import parse, Rule
from ipc_bypass.udp.packets import MAPPED, parse_packet
from ipc_bypass.udp.settings import UdpSettings
from ipc_bypass.xdp.af_xdp.batch import Batch, DROP, REINJECT
from ipc_bypass.xdp.af_xdp.reinject import ip_offset
import numpy as np

#: Where the consumers of a pipeline's pool come to; the node has one of its own.
DEFAULT_CONTROL_SOCKET = '/run/ipc_bypass/xdp_pool.sock'
_ACTIONS = {name: number for number, name in layout.ACTIONS.items()}
# Seconds in which a reader that has just looked has certainly looked again.
_GRACE = 0.05


class PoolDelivery:
    """
    Delivers to consumers of a pool of its own.

    What a rule of action 'divert' names goes to the pool alone, what 'mirror' names is reinjected
    as well. What has no consumer, finds no room or is no whole UDP datagram with a right checksum
    is reinjected, and counted. It starts threads: drop privileges before.

    :param rules: texts as 'udp:4242:divert'
    :param settings: UdpSettings; those of the pool are used
    :raises PoolError: the pool cannot be made
    """

    def __init__(self, rules: Iterable[str], settings: UdpSettings | None = None) -> None:
        settings = settings or UdpSettings(control_socket=DEFAULT_CONTROL_SOCKET)
        #: 'captured', 'captured_bytes', 'passed_<reason>', and 'stranded': taken by nobody.
        self.counters: Counter = Counter()
        self._rules = [Rule(one.transport, one.port_first, one.port_last, one.action, number)
                       for number, one in enumerate(map(parse, rules), 1)]
        self._ports: dict[int, Rule] = {}
        for rule in self._rules:
            if rule.transport == 'udp':
                self._ports.update(dict.fromkeys(
                    range(rule.port_first, rule.port_last + 1), rule))
        self._shares: dict[int, int] = {}
        self._parts = contextlib.ExitStack()
        try:
            self._make(settings)
        except BaseException:
            self._parts.close()
            raise

    def __call__(self, batch: Batch) -> np.ndarray:
        """Write the payloads of a Batch; return the verdicts."""
        now = time.monotonic_ns()
        return np.fromiter((self._deliver(packet, now) for packet in batch.packets()), np.uint8,
                           len(batch))

    @property
    def memory(self) -> PoolMemory:
        """Return the pool's memory."""
        return self._writer.memory

    def close(self) -> None:
        """End every lease; consumers keep what they have mapped."""
        self._parts.close()

    def __enter__(self) -> PoolDelivery:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()

    def _deliver(self, packet, now):
        start = ip_offset(packet)
        found = parse_packet(packet[start:]) if start else None
        if found is None:
            return self._pass('not_udp')
        rule = self._ports.get(found.destination_port)
        if rule is None:
            return self._pass('not_enrolled')
        ring = self._shares.get(rule.id)
        if ring is None:
            return self._pass('no_consumer')
        source, destination = found.source, found.destination
        if found.family == 4:
            source, destination = MAPPED + source, MAPPED + destination
        size = len(found.payload)
        reason = self._writer.write(ring, found.payload, Capture(
            now, 0, source, destination, found.source_port, found.destination_port, found.family,
            _ACTIONS[rule.action], 0, 0, 0, rule.id, size))
        if reason:
            return self._pass(reason)
        self.counters['captured'] += 1
        self.counters['captured_bytes'] += size
        return DROP if rule.action == 'divert' else REINJECT

    def _pass(self, reason):
        self.counters[f'passed_{reason}'] += 1
        return REINJECT

    def _make(self, settings):
        memory, descriptors = self._make_memory(settings)
        self._writer = PoolWriter(
            memory, {int(name[5:]): fd for name, fd in descriptors.items()
                     if name.startswith('wake_')},
            heartbeat_ns=settings.heartbeat_ms * 1_000_000,
            use_limit=settings.use_limit_percent / 100)
        self._leases = Leases(memory, apply=self._share, wait=lambda: time.sleep(_GRACE),
                              settle=self._settle)
        self._leases.set_rules(self._rules)
        self._watchdog = Watchdog(
            memory, self._writer.claims, self._leases, _Counts(self._writer),
            slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
            watchdog_ms=settings.watchdog_ms)
        server = ControlServer(
            settings.control_socket, self._leases, backing='file',
            descriptors=lambda: descriptors, heartbeat_ms=settings.heartbeat_ms,
            access=Access(settings.pool_group), exempt=lambda fd: None, passed=self._passed)
        self._parts.callback(server.close)
        self._parts.callback(self._watchdog.stop)
        self._watchdog.start()

    def _make_memory(self, settings):
        """Return (PoolMemory, {name: descriptor}); its file has no name."""
        descriptors = {}

        def keep(name, fd):
            descriptors[name] = fd
            self._parts.callback(os.close, fd)
            return fd

        fd = keep('file', os.memfd_create('ipc_bypass_xdp_pool',
                                          os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        memory = PoolMemory.create_in(fd, layout.slot_counts(settings.pool_size),
                                      settings.max_consumers)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        for ring in range(settings.max_consumers):
            keep(f'wake_{ring}', os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return memory, descriptors

    def _share(self, shares):
        self._shares = {rule.id: ring for rule, ring in shares if ring is not None}

    def _settle(self, _ring, first, after):
        self.counters['stranded'] += after - first

    def _passed(self):
        return {name.removeprefix('passed_'): count for name, count in self.counters.items()
                if name.startswith('passed_')}


class _Counts:
    """The writer counts slots in use by looking: there is nothing to put right."""

    def __init__(self, writer):
        self._writer = writer

    def used_by_count(self):
        """Return the slots in use by class."""
        return tuple(map(self._writer.used, (layout.SMALL, layout.LARGE)))

    def give_back(self, _kind, _count):
        """Do nothing."""
