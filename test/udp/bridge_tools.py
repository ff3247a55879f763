"""A consumer without a node for the tests of the bridge, and namespaces for its two ends."""

from contextlib import contextmanager
import errno
import queue
import socket

from ipc_bypass.pool.layout import DESCRIPTOR
from ipc_bypass.udp.bridge import Bridge
from ipc_bypass.udp.outcomes import GROUPS
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.tun import TunDevice
import numpy as np
from support.namespaces import Namespace
from support.waiting import wait_until

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NEAR, FAR = {4: '10.213.0.1', 6: 'fd00:213::1'}, {4: '10.213.0.2', 6: 'fd00:213::2'}
PREFIXES = ['10.213.0.0/24', 'fd00:213::/64']


class StandInBatch:
    """What pool.Batch is, of records and bytes."""

    def __init__(self, records=(), payloads=(), *, torn=()):
        """Hold them; the slots of `torn` (places) were taken away meanwhile."""
        self.descriptors = np.array(list(records), DESCRIPTOR)
        self._payloads, self._torn = list(payloads), list(torn)
        self.released = False

    def __len__(self):
        """Return how many there are."""
        return len(self.descriptors)

    def payload(self, number):
        """Return one payload."""
        return memoryview(self._payloads[number])

    def payloads(self):
        """Yield all payloads."""
        yield from map(memoryview, self._payloads)

    def intact(self):
        """Return which are whole."""
        found = np.ones(len(self), dtype=bool)
        found[self._torn] = False
        return found

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Note that it was given back."""
        self.released = True


class StandIn:
    """What pool.Consumer is: gives out the batches that the test puts in."""

    connected, problem = True, ''

    def __init__(self):
        """Make it without batches."""
        self.batches, self.exempted, self.closed = queue.Queue(), [], False
        self.memory = object()

    def put(self, *batches):
        """Have these read."""
        for batch in batches:
            self.batches.put(batch)

    def read(self, timeout=None, most=4096):
        """Return the next batch, empty at the timeout."""
        assert most > 0
        try:
            return self.batches.get(timeout=timeout or 1e-6)
        except queue.Empty:
            return StandInBatch()

    def exempt(self, sock):
        """Note a socket."""
        self.exempted.append(sock)

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Close."""
        self.closed = True


@contextmanager
def ends():
    """Yield (near, far): two namespaces that nothing joins."""
    with Namespace('n') as near, Namespace('f') as far:
        yield near, far


def networks(addresses):
    """Return NEAR's or FAR's addresses with their prefix lengths."""
    return [f'{addresses[4]}/24', f'{addresses[6]}/64']


class Joined:
    """A Bridge with devices in two namespaces, and a StandIn attached to it."""

    def __init__(self, near, far, *, local=True, mtu=65535, prefixes=PREFIXES):
        """Make it; without a local device, answers are sent from this process's namespace."""
        self.device = TunDevice('far0', namespace=far.name, addresses=networks(FAR),
                                routes=['0.0.0.0/0', '::/0'], mtu=mtu)
        self.local = TunDevice('near0', namespace=near.name, routes=PREFIXES, mtu=mtu,
                               addresses=[f'{NEAR[4]}/32', f'{NEAR[6]}/128']) if local else None
        self.bridge = Bridge(self.device, self.local, Prefixes(prefixes))
        self.consumer = StandIn()
        self.bridge.attach(self.consumer)

    def counters(self):
        """Return the counters that are not 0; raises AssertionError where they do not add up."""
        counters = self.bridge.counters()
        for total, outcomes in GROUPS.items():
            assert counters[total] == sum(counters[name] for name in outcomes)
        return {name: number for name, number in counters.items() if number}

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Close everything."""
        self.bridge.close()
        self.device.close()
        if self.local:
            self.local.close()


def bound(space, address, port=0, timeout=20):
    """Return a UDP socket that is bound in a namespace."""
    with space.entered():
        made = socket.socket(FAMILIES[6 if ':' in address else 4], socket.SOCK_DGRAM)
    # SO_RCVBUFFORCE, uapi/asm-generic/socket.h: room for every datagram of a test.
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)

    def is_bound():
        try:
            made.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
        return True
    wait_until(is_bound, f'{address} is there')  # the kernel makes IPv6 ones ready in its time
    made.settimeout(timeout)
    return made
