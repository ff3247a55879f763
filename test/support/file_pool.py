"""A pool in a file with its control socket, as a node makes one, which a test fills by hand."""

import ipaddress
import os
import time

from ipc_bypass.pool import layout
from ipc_bypass.pool.access import Access
from ipc_bypass.pool.control import ControlServer
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.writer import Capture, PoolWriter
from ipc_bypass.rules.table import Rule

RULE_ID = 7


class FilePool:
    """
    A pool that real consumers reach at `socket`.

    What is written counts as taken and released by its owner at once: only observers look at it,
    and are overtaken where they are late.
    """

    def __init__(self, folder, slots=layout.FEWEST_SLOTS):
        """Make it in a folder."""
        self.socket = str(folder / 'pool.sock')
        path = folder / 'pool'
        self.memory = PoolMemory.create_file(path, slots, 1)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.writer = PoolWriter(self.memory, {0: self._wake})
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._leases = Leases(self.memory, apply=lambda shares: None, wait=lambda: None,
                              settle=lambda *places: None)
        self._leases.set_rules([Rule('udp', 1, 65535, 'mirror', 1)])
        self.server = ControlServer(
            self.socket, self._leases, backing='file', heartbeat_ms=1000, access=Access(''),
            descriptors=lambda: {'file': self._file, 'wake_0': self._wake},
            exempt=lambda fd: None)

    def write(self, payload, source=('127.0.0.1', 40000), destination=('127.0.0.1', 7411), *,
              action=layout.MIRROR, flags=0, sender=0, receiver=0, capture_ns=None,
              original_length=None):
        """Capture a datagram; return its capture time, nanoseconds of CLOCK_MONOTONIC."""
        stamp = time.monotonic_ns() if capture_ns is None else capture_ns
        reason = self.writer.write(0, payload, Capture(
            stamp, 1, mapped(source[0]), mapped(destination[0]), source[1], destination[1],
            ipaddress.ip_address(source[0]).version, action, flags, sender, receiver, RULE_ID,
            len(payload) if original_length is None else original_length))
        assert reason == ''
        self.memory.rings[0]['cursor'] = self.memory.rings[0]['head']
        self.memory.released[:] = self.writer.claims >> 1
        return stamp

    def observers(self):
        """Return how many observers are connected."""
        return sum(client['observe'] for client in self.server.clients())

    def close(self):
        """Remove it."""
        self.server.close()
        os.close(self._file)
        os.close(self._wake)

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Remove it."""
        self.close()


def mapped(address):
    """Return the 16 bytes of an address as descriptors hold it."""
    parsed = ipaddress.ip_address(address)
    return (bytes(10) + b'\xff\xff' if parsed.version == 4 else b'') + parsed.packed
