"""A consumer that writes what it likes into the pool, while the node looks after it."""

import logging
import os
from types import SimpleNamespace

from ipc_bypass.pool import layout
from ipc_bypass.pool.batch import Batch
from ipc_bypass.pool.leases import Leases
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.reader import ObserverPlaces, OwnerPlaces
from ipc_bypass.pool.stranded import _stranded
from ipc_bypass.pool.watchdog import Watchdog
from ipc_bypass.pool.writer import Capture as Captured
from ipc_bypass.pool.writer import PoolWriter
from ipc_bypass.rules.table import Rule
from ipc_bypass.udp.capture import _Counts, Capture
from ipc_bypass.udp.settings import UdpSettings
from mutations import Values
import numpy as np
from support.file_pool import mapped

#: One of these inputs takes as long as so many of the others.
COST = 10
LONGEST = 1024
_SLOTS, _RINGS, _PORT = (8, 2), 2, 7410
_HERE = mapped('127.0.0.1')
_RULES = [Rule('udp', _PORT, _PORT, 'divert', 1), Rule('udp', 7411, 7411, 'mirror', 2)]
_CAPTURE = Captured(1 << 40, 1, _HERE, _HERE, 40000, _PORT, 4, layout.DIVERT, 0, 0, 0, 1, 0)
_MILLIS = {'slot_ttl_ms': 100, 'heartbeat_ms': 100, 'watchdog_ms': 20}
_SCRIBBLED = ('pool_header', 'small_slots', 'large_slots', 'released', 'rings', 'descriptors')

_file = os.memfd_create('fuzz_pool', os.MFD_CLOEXEC)
_memory = PoolMemory.create_in(_file, _SLOTS, _RINGS)
_fresh = {name: bytes(memoryview(_memory._parts[name]).cast('B')) for name in _SCRIBBLED}
_quiet = logging.getLogger('fuzz_pool')
_quiet.disabled = True


class Local:
    """What Capture asks of its Destinations: loopback is here, and nothing else."""

    @staticmethod
    def allows(raw, _ring):
        """Return whether an address is on this host."""
        return raw[:13] == _HERE[:13]


class Pool:
    """One pool with its keepers, as Capture has them; what would be sent on is kept."""

    def __init__(self):
        self.memory = _memory
        for name, content in _fresh.items():
            memoryview(_memory._parts[name]).cast('B')[:] = content
        self.writer = PoolWriter(_memory)
        claims = self.writer.claims
        allocator = np.zeros(1, [('claimed', '<i8', (2,)), ('freed', '<i8', (2,))])
        objects = SimpleNamespace(memory=_memory, claims=claims, allocator=allocator,
                                  endpoints=lambda: [({'port': _PORT, 'pid': 0}, {})])
        self.node, self.sent, self.written = Capture(UdpSettings(), _quiet), [], {}
        self.leases = Leases(_memory, apply=lambda shares: None, wait=lambda: None,
                             settle=self.node._settle)
        self.watchdog = Watchdog(_memory, claims, self.leases, _Counts(objects), **_MILLIS)
        self.node._objects, self.node._watchdog = objects, self.watchdog
        self.node._destinations = Local()
        self.node._resender = SimpleNamespace(send=self._send)
        self.node._diverts[_PORT] = True
        self.leases.set_rules(_RULES)
        self.lease, self.owner, self.observer = None, None, ObserverPlaces(_memory, 0)

    def _send(self, descriptor, payload):
        self.sent.append((int(descriptor['slot']), int(descriptor['sequence'])))
        assert int(descriptor['destination_port']) == _PORT and not descriptor['sender_pid']
        assert descriptor['destination_address'].tobytes()[:13] == _HERE[:13]
        slot = int(descriptor['slot'])
        assert len(payload) <= layout.SLOT_DATA[slot >= _SLOTS[0]]

    def write(self, ring, size):
        """Capture a datagram as the kernel's program does."""
        if self.writer.write(ring, bytes(size), _CAPTURE._replace(original_length=size)) == '':
            claims = self.writer.claims
            self.written.update((slot, int(claim) >> 1) for slot, claim in enumerate(claims))

    def begin(self):
        """Begin a lease, where there is none."""
        if self.lease is None:
            self.lease = self.leases.open(name='owner', pid=1)
            self.owner = OwnerPlaces(_memory, self.lease.ring, self.lease.generation,
                                     self.lease.first)

    def revoke(self):
        """End the lease."""
        if self.lease is not None:
            self.leases.revoke(self.lease)
            self.leases.forget(self.lease.ring, self.lease.generation)
            self.lease = self.owner = None

    def take(self, places, most):
        """Read as a consumer does, and give back."""
        if places is None or not places.ready():
            return
        found = places.take(most)
        fresh = places.fresh(found) if places is self.owner else found
        if not len(fresh):
            return
        batch = Batch(fresh, _memory, places if places is self.owner else None,
                      SimpleNamespace(released=0, torn=0),
                      places.single if places is self.owner else None)
        for descriptor, payload in zip(batch.descriptors, batch.payloads(), strict=True):
            assert len(payload) <= layout.SLOT_DATA[int(descriptor['slot']) >= _SLOTS[0]]
        batch.intact()
        batch.release()

    def scribble(self, values):
        """Write bytes anywhere: mostly where they matter."""
        view = memoryview(_memory._parts[values.choice(_SCRIBBLED)]).cast('B')
        at = values.number(3) % len(view)
        data = values.take(values.number() % 33)
        view[at:at + len(data)] = data[:len(view) - at]

    def close(self):
        """Whatever was written, the node ends every lease and has its slots back."""
        self.watchdog.tick()
        for lease in self.leases.all():
            self.leases.revoke(lease)
        assert all(_stranded(_memory, ring) >= 0 for ring in range(_RINGS))
        self.watchdog.free(np.arange(sum(_SLOTS)), self.writer.claims >> np.uint64(1))
        assert (self.memory.released == self.writer.claims >> np.uint64(1)).all()
        assert tuple(_memory.header[0]['slots']) == _SLOTS
        assert len(set(self.sent)) == len(self.sent), 'a datagram was sent on twice'
        assert not self.watchdog.problems and not self.node._gone['failed']


def seeds():
    """Yield orders: write, scribble, tick, take, revoke."""
    yield bytes((0, 1, 0, 10, 1, 0, 20, 5, 4, 3, 6, 2))
    yield bytes((0, 1, 0, 10, 2, 4, 0, 0, 0, 8)) + (1 << 60).to_bytes(8, 'little') + bytes((3, 4))
    yield bytes((0, 1, 0, 9, 1, 0, 9, 2, 5, 32, 0, 0, 32)) + bytes(range(32)) + bytes((4, 5, 6))
    yield bytes((0, 1, 0, 255, 2, 3, 0, 0, 0, 16)) + b'\xff' * 16 + bytes((4, 1, 0, 3, 5, 1, 6))
    yield bytes((0, 1, 0, 200, 2, 0, 16, 0, 0, 16)) + b'\xff' * 16 + bytes((4, 5, 6, 0, 4))


def one(data):
    """Do what the bytes say, in their order, and see that the node is well at the end."""
    values, pool = Values(data), Pool()
    for _ in range(64):
        if not len(values):
            break
        order = values.number() % 7
        if order == 0:
            pool.begin()
        elif order == 1:
            pool.write(values.number() % _RINGS, values.number() * 64)
        elif order == 2:
            pool.scribble(values)
        elif order == 3:
            pool.watchdog.tick()
        elif order == 4:
            pool.take(pool.owner, 1 + values.number() % 64)
        elif order == 5:
            pool.take(pool.observer, 1 + values.number() % 64)
        else:
            pool.revoke()
    pool.close()
