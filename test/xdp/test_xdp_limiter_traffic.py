"""The rate limiter on real packets: what arrives is what the bucket's own time accounts for."""

import socket
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp import limiter_layout as layout
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.limits import parse_limit
from ipc_bypass.xdp.root import RootArray, RootSettings
import pytest
from support import frames
from support.capturing import SO_RCVBUFFORCE
from support.waiting import wait_until
from support.xdp import veth_lab

GROUP, DISCOVERY, PORT = '239.255.0.1', 7400, 7411


class Lab:
    """A rate limiter on the near end of a veth pair, with sockets at both ends."""

    def __init__(self, near, far, array):
        """Take an attached array; the thread has to be in `near`."""
        self.maps = array.load(3, slot_program('rate_limiter')).maps
        self.limiter = RateLimiter(self.maps)
        self.receivers = {port: self._receiver(port) for port in (DISCOVERY, PORT)}
        with far.entered():
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                                   socket.inet_aton(frames.FAR))

    @staticmethod
    def _receiver(port):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        made.bind(('', port))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                        socket.inet_aton(GROUP) + socket.inet_aton(frames.NEAR))
        made.setblocking(False)
        return made

    def send(self, count, host=frames.NEAR, port=PORT):
        """Send datagrams, and wait until the program has seen all of them."""
        before = self.seen()
        for _ in range(count):
            self.sender.sendto(bytes(60), (host, port))
        wait_until(lambda: self.seen() - before >= count, 'the packets')

    def seen(self):
        """Return how many packets of the sender there were."""
        totals = self.limiter.status().totals
        return sum(totals[name] for name in (
            'passed', 'dropped_by_packets', 'dropped_by_bytes', 'unlimited', 'contended'))

    def received(self, port):
        """Return how many datagrams wait at a port, and take them."""
        count = 0
        while True:
            try:
                self.receivers[port].recv(100)
            except BlockingIOError:
                return count
            count += 1

    def close(self):
        """Close the sockets."""
        for each in (self.sender, *self.receivers.values()):
            each.close()


@pytest.fixture
def lab(templates):
    settings = RootSettings(pin_directory='')
    with veth_lab() as (near, far), near.entered(), \
            RootArray(find('near0'), settings, templates=templates) as array:
        made = Lab(near, far, array)
        try:
            array.attach('native')
            yield made
        finally:
            made.close()


def test_what_passes_is_what_the_time_allows(lab):
    rate, burst, count = 500, 1000, 6000
    lab.limiter.apply([parse_limit(f'10.124.0.0/16 each /32 packets {rate} burst {burst}')])
    begin = time.monotonic_ns()
    lab.send(count)
    end = time.monotonic_ns()
    status = lab.limiter.status()
    counts = status.limits[0].counts
    passed = counts['passed']
    assert passed + counts['dropped_by_packets'] == count and counts['contended'] == 0
    assert lab.received(PORT) == passed
    # A bucket that was never full holds the time of the first packet and the cost of each.
    (_, bucket), = syscall.map_items(lab.maps['limiter_buckets'].fd, layout.BUCKET_KEY.size,
                                     layout.BUCKET.size)
    full_at = layout.BUCKET.unpack(bucket)[0] / (1 << layout.TIME_SHIFT)
    assert begin <= full_at - passed * 1e9 / rate <= end
    assert passed <= burst + rate * (end - begin) / 1e9 + 1
    assert passed >= min(count, burst)


def test_a_discovery_storm_is_limited_and_nothing_else(lab):
    lab.limiter.apply([parse_limit('0.0.0.0/0 each /32 packets 1 burst 20 discovery')])
    lab.send(300, GROUP, DISCOVERY)
    lab.send(300, GROUP, PORT)
    lab.send(300, frames.NEAR, DISCOVERY)
    lab.send(300, frames.NEAR, PORT)
    counts = lab.limiter.status().limits[0].counts
    assert counts['passed'] + counts['dropped_by_packets'] == 300
    assert 20 <= counts['passed'] < 300
    assert lab.received(DISCOVERY) == counts['passed'] + 300
    assert lab.received(PORT) == 600


def test_limits_change_under_load(lab):
    lab.limiter.apply([parse_limit('10.0.0.0/8 packets 1e6 burst 100000')])
    lab.send(300)
    lab.limiter.apply([parse_limit('10.0.0.0/8 packets 1e6 burst 100000 dry_run')])
    lab.send(300)
    lab.limiter.apply([])
    lab.sender.sendto(struct.pack('!I', 7), (frames.NEAR, PORT))
    assert wait_until(lambda: lab.received(PORT) or None, 'the datagrams') == 601
    status = lab.limiter.status()
    assert status.totals['passed'] == 600 and status.limits == ()
