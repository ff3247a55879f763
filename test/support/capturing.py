"""A UdpPath for tests: rules from texts, what changed in its counters, which objects it made."""

from contextlib import contextmanager
from dataclasses import dataclass
import socket
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.rules.table import parse, RuleTable

from support.connections import block
from support.namespaces import Namespace
from support.waiting import PATIENCE, wait_until

SO_RCVBUFFORCE = 33
#: Counters that are no datagrams of senders.
_OTHERS = 'passed_bytes',


@dataclass(frozen=True)
class Route:
    """Where a test's datagrams go; a namespace of None is the test's own."""

    name: str
    address: str = '127.0.0.1'
    server: Namespace = None
    client: Namespace = None

    @property
    def family(self):
        """Return the address family of `address`."""
        return socket.AF_INET6 if ':' in self.address else socket.AF_INET

    def receiver(self, port, address=None, **options):
        """Return a bound socket that waits for datagrams, PATIENCE seconds at most."""
        sock = udp_socket(self.server, self.family, **options)
        sock.bind((self.address if address is None else address, port))
        return block(sock)

    def sender(self, port=None):
        """Return a socket that sends, connected where a port is given."""
        sock = udp_socket(self.client, self.family)
        if port:
            sock.connect((self.address, port))
        return sock

    def send(self, sock, payload, port, *ancillary):
        """Send one datagram to a port."""
        assert sock.sendmsg([payload], ancillary, 0, (self.address, port)) == len(payload)


def udp_socket(space=None, family=socket.AF_INET, kind=socket.SOCK_DGRAM, protocol=0, *,
               buffer=0, reuse=False):
    """Return a socket in a Namespace, or in this one."""
    if space is None:
        sock = socket.socket(family, kind, protocol)
    else:
        with space.entered():
            sock = socket.socket(family, kind, protocol)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def rules(*texts):
    """Return Rules with ids from texts like 'udp:7400-7500:mirror'."""
    table = RuleTable()
    for text in texts:
        rule = parse(text)
        table.add(rule.transport, rule.port_first, rule.port_last, rule.action)
    return table.rules()


def object_ids(path):
    """Return {'programs': ids, 'maps': ids} of a configured path."""
    objects = path._capture._objects
    descriptors = [entry.fd for entry in objects.maps.values()] + list(objects.wake_fds.values())
    return {'programs': [info.id for info in objects.program_info.values()],
            'maps': [syscall.map_info(fd).id for fd in descriptors]}


def datagrams(path):
    """Return {counter: datagrams} of those that are not 0: captured_ACTION and passed_REASON."""
    counters = path.counters() if hasattr(path, 'counters') else path.ask('counters')
    return {name: count for name, count in counters.items()
            if name.startswith(('captured_', 'passed_')) and not name.endswith('_bytes')
            and count}


@contextmanager
def changes(path):
    """Yield a dict that holds, after the block, how many datagrams went which way in it."""
    found, before = {}, datagrams(path)
    yield found
    after = datagrams(path)
    found.update({name: count - before.get(name, 0) for name, count in after.items()
                  if count != before.get(name, 0)})


def take(consumer, count=1):
    """Return the payloads of the next `count` datagrams, as bytes; raises AssertionError."""
    got = []
    while len(got) < count:
        with consumer.read(PATIENCE) as batch:
            assert len(batch), f'{len(got)} of {count} datagrams came'
            got += [bytes(payload) for payload in batch.payloads()]
    assert len(got) == count, got
    return got


def nothing_came(sock):
    """Assert that a socket has no datagram: loopback and veth deliver within the send."""
    try:
        more = sock.recv(100, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    raise AssertionError(f'a datagram was delivered: {more!r}')


def nothing_captured(consumer):
    """Assert that a consumer has nothing to read."""
    with consumer.read(0) as batch:
        assert not len(batch), [bytes(payload) for payload in batch.payloads()]


def knows(path, *addresses):
    """Wait until a path knows that addresses are on this host."""
    destinations = path._capture._destinations
    for address in addresses:
        wait_until(lambda address=address: destinations.namespaces_of_address(address),
                   f'{address} is known to be on this host')


def dropped(sock):
    """Return how many datagrams the kernel dropped for a full queue (SO_MEMINFO)."""
    size, place = 9 * 4, 8  # uapi/linux/sock_diag.h, SK_MEMINFO_DROPS
    return struct.unpack('=9I', sock.getsockopt(socket.SOL_SOCKET, 55, size))[place]
