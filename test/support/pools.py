"""Both backings of the pool with the same surface, for one suite of tests."""

from dataclasses import replace
import os
import socket
import time

from ipc_bypass.pool import layout
from ipc_bypass.pool.writer import Capture
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings

from support.capturing import object_ids, rules
from support.file_pool import mapped
from support.waiting import wait_until
from support.written_pool import FilePool

_SOURCE = 40_000
#: For tests in which nobody is to be late, on a machine that is busy.
PATIENT = {'heartbeat_ms': 20_000, 'slot_ttl_ms': 60_000, 'watchdog_ms': 20}


class Pool:
    """A pool that consumers reach at `control`; `send` captures a datagram to a port."""

    def __init__(self, folder, pin_directory, **settings):
        """Make it, with the fewest slots and three rings unless `settings` say otherwise."""
        self.settings = UdpSettings(**{
            'udp_path': 'cgroup_skb', 'pin_directory': pin_directory, 'pool_size': 1,
            'control_socket': str(folder / 'pool.sock'), 'max_consumers': 3,
            'pool_group': '', **PATIENT, **settings})
        self.control = self.settings.control_socket
        self.start()

    def set(self, **settings):  # noqa: A003
        """Change how long things may take; consumers that come later know."""
        self.settings = replace(self.settings, **settings)
        self.apply()

    def used(self):
        """Return how many slots are not free: (small, large)."""
        busy = self.claims >> 1 != self.memory.released
        first = self.memory.slots[layout.SMALL]
        return int(busy[:first].sum()), int(busy[first:].sum())

    def wait_for_leases(self, count):
        """Wait until so many leases are held: one ends a moment after its connection."""
        wait_until(lambda: len(self.leases.all()) == count, f'{count} leases are held')

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Remove it."""
        self.close()


class KernelPool(Pool):
    """Filled by the program, from real sends over loopback."""

    backing = 'kernel'

    def start(self):
        """Configure and activate a UdpPath."""
        self.path = UdpPath(self.settings)
        try:
            self.path.configure()
            self.objects = object_ids(self.path)
            capture = self.path._capture
            self.memory, self.claims = capture._objects.memory, capture._objects.claims
            self.watchdog, self.leases, self.server = \
                capture._watchdog, capture._leases, capture._server
            self.path.activate()
        except BaseException:
            self.path.cleanup()
            raise
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.source = _SOURCE

    def set_rules(self, *texts):
        """Make these the rules."""
        self.path.set_rules(rules(*texts))

    def apply(self):
        """Use self.settings."""
        self.path.apply(self.settings)

    def send(self, port, payload):
        """Send a datagram, which is captured unless there is a reason to pass."""
        self._sock.sendto(payload, ('127.0.0.1', port))

    def used_by_count(self):
        """Return what the program thinks is in use."""
        return self.watchdog._counts.used_by_count()

    def close(self):
        """Remove it."""
        self._sock.close()
        self.path.cleanup()


class WrittenPool(Pool):
    """A file, filled by PoolWriter."""

    backing = 'file'

    def start(self):
        """Make the file; rings of rules are known from what is shared out."""
        self._rings = {}
        self.pool = FilePool(self.settings, f'/dev/shm/ipcb_test_{os.getpid()}_{id(self)}',
                             shared=self._share)
        self.memory, self.claims = self.pool.memory, self.pool.writer.claims
        self.watchdog, self.leases, self.server = \
            self.pool.watchdog, self.pool.leases, self.pool.server
        self.objects = {}

    def set_rules(self, *texts):
        """Make these the rules."""
        self.pool.set_rules(rules(*texts))

    def apply(self):
        """Use self.settings."""
        self.pool.apply(self.settings)

    def send(self, port, payload):
        """Write a datagram; what cannot be written is passed over, as the trace path does."""
        for rule, ring in self._rings.items():
            if ring is not None and rule.port_first <= port <= rule.port_last:
                action = {name: number for number, name in layout.ACTIONS.items()}[rule.action]
                self.pool.write(ring, payload, Capture(
                    time.monotonic_ns(), 1, mapped('127.0.0.1'), mapped('127.0.0.1'), _SOURCE,
                    port, 4, action, 0, os.getpid(), 0, rule.id, len(payload)))

    def used_by_count(self):
        """Return what the writer thinks is in use."""
        return self.watchdog._counts.used_by_count()

    def close(self):
        """Remove it."""
        self.pool.close()

    def _share(self, shares):
        self._rings = dict(shares)


POOLS = {'kernel': KernelPool, 'file': WrittenPool}
