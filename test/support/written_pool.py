"""A pool in a file with everything that its consumers need, for a writer in this process."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import threading

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.pool import layout
from ipc_bypass.pool.access import Access, FILE_MODE
from ipc_bypass.pool.control import ControlServer
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.watchdog import Watchdog
from ipc_bypass.pool.writer import Capture, PoolWriter
import numpy as np


class FilePool:
    """
    The file, its writer, the leases, the watchdog, and the control socket.

    For kernels where no program can write into memory that consumers map. Nothing is suppressed
    here, so that nothing is ever sent on.
    """

    def __init__(self, settings, path: str | os.PathLike, *,
                 shared: Callable = lambda shares: None, refresh: Callable | None = None) -> None:
        """
        Make it; raises PoolError.

        :param settings: udp.settings.UdpSettings; those of the pool are used
        :param path: the file, in /dev/shm
        :param shared: called with [(Rule, ring or None)] whenever that changes
        :param refresh: as of Watchdog
        """
        access, self._path = Access(settings.pool_group), Path(path)
        slots, self._parts = layout.slot_counts(settings.pool_size), contextlib.ExitStack()
        self._lock = threading.Lock()
        try:
            try:
                self.memory = PoolMemory.create_file(path, slots, settings.max_consumers,
                                                     mode=FILE_MODE, group=access.group)
                self._parts.callback(self._path.unlink, missing_ok=True)
                self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                raise PoolError(f'make the pool {path}', errno=error.errno or 0,
                                next_step='make room in /dev/shm, or pool_size smaller') from error
            self._parts.callback(os.close, self._file)
            self._wakes = {}
            for ring in range(settings.max_consumers):
                self._wakes[ring] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._parts.callback(os.close, self._wakes[ring])
            self.writer = PoolWriter(
                self.memory, self._wakes, heartbeat_ns=settings.heartbeat_ms * 1_000_000,
                use_limit=settings.use_limit_percent / 100)
            self.leases = Leases(self.memory, apply=shared, wait=self._wait, settle=self._settle)
            self.watchdog = Watchdog(
                self.memory, self.writer.claims, self.leases, _Counts(self.writer),
                slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
                watchdog_ms=settings.watchdog_ms, refresh=refresh)
            self.server = ControlServer(
                settings.control_socket, self.leases, backing='file',
                descriptors=self._handed_out, heartbeat_ms=settings.heartbeat_ms, access=access,
                exempt=lambda fd: None)
            self._parts.callback(self.server.close)
            self._parts.callback(self.watchdog.stop)
            self.watchdog.start()
        except BaseException:
            self._parts.close()
            raise

    def write(self, ring: int, payload: bytes, capture: Capture) -> str:
        """Put a payload into a slot and tell a ring; return '' or why not, as PoolWriter.write."""
        with self._lock:
            return self.writer.write(ring, payload, capture)

    def set_rules(self, rules) -> None:
        """Make these the rules that are shared out among consumers."""
        self.leases.set_rules(rules)

    def apply(self, settings) -> None:
        """Use other settings, as far as they can change while the pool is there."""
        self.writer.heartbeat_ns = settings.heartbeat_ms * 1_000_000
        self.watchdog.set(slot_ttl_ms=settings.slot_ttl_ms, heartbeat_ms=settings.heartbeat_ms,
                          watchdog_ms=settings.watchdog_ms)
        self.server.heartbeat_ms = settings.heartbeat_ms

    def close(self) -> None:
        """End every lease, and remove the file."""
        self._parts.close()

    def _handed_out(self):
        return {'file': self._file, **{f'wake_{ring}': fd for ring, fd in self._wakes.items()}}

    def _wait(self):
        with self._lock:  # no write that began before goes on
            pass
        wait_for_programs()  # for its barrier

    def _settle(self, ring, first, after):
        """Free the slots of what nobody took."""
        memory = self.memory
        places = np.arange(after - first, dtype=np.uint64) + np.uint64(first)
        found = memory.descriptors[ring, (places & np.uint64(memory.ring_entries - 1))
                                   .astype(np.int64)]
        found = found[(found['number'] == places + np.uint64(1))
                      & (found['slot'] < sum(memory.slots))]
        self.watchdog.free(found['slot'], found['sequence'])


class _Counts:
    """The writer counts anew where it matters: there is nothing to put right."""

    def __init__(self, writer):
        self._writer = writer

    def used_by_count(self):
        """Return the slots in use by class."""
        return self._writer.used(layout.SMALL), self._writer.used(layout.LARGE)

    def give_back(self, kind, count):
        """Nothing has to be told."""
