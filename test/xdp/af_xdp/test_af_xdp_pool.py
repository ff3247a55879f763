"""UDP payloads from AF_XDP in a pool that ordinary consumers map."""

from contextlib import contextmanager
import socket

from af_xdp_tools import every_frame_is_somewhere, pipeline, running, settle
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.udp.settings import UdpSettings
from ipc_bypass.xdp.af_xdp.pooling import PoolDelivery
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
import pytest
from support.frames import NEAR, NEAR_V6
from support.waiting import PATIENCE, wait_until

# Small rings that still take a burst of the test.
SETTINGS = AfXdpSettings(frames=512, ring_entries=128, batch=32)


class Kept:
    """A reinjector that keeps what it is given."""

    def __init__(self):
        """Begin with nothing."""
        self.packets = []

    def send(self, packets):
        """Take all."""
        self.packets += map(bytes, packets)
        return len(packets)

    def close(self):
        """Do nothing."""


@pytest.fixture
def pooled(lab, everything, tmp_path):
    """Yield (Pipeline, PoolDelivery, Kept, control socket) of a pipeline that runs on near0."""
    near, far = lab
    for address in (NEAR, NEAR_V6):
        far.ip('neigh', 'replace', address, 'lladdr', '02:00:00:00:00:01', 'dev', 'far0')
    control, kept = str(tmp_path / 'pool.sock'), Kept()
    settings = UdpSettings(control_socket=control, pool_size=8 << 20, heartbeat_ms=20_000)
    with PoolDelivery(['udp:4242:divert', 'udp:4243:mirror'], settings) as delivery:
        with pipeline(everything, near, delivery, SETTINGS, reinjector=kept) as made:
            with running(made):
                yield made, delivery, kept, control
            settle(made)
            every_frame_is_somewhere(made)


@contextmanager
def sending(space, family=socket.AF_INET):
    """Yield a UDP socket in a namespace."""
    with space.entered():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    with sock:
        yield sock


def take(consumer, count):
    """Return [(payload, descriptor)] of so many datagrams."""
    found = []

    def look():
        with consumer.read(0.05) as batch:
            found.extend((bytes(payload), descriptor.copy()) for payload, descriptor in zip(
                batch.payloads(), batch.descriptors, strict=True))
        return len(found) >= count
    wait_until(look, f'{count} datagrams')
    return found


def test_a_consumer_takes_what_the_network_brings(lab, pooled):
    made, delivery, kept, control = pooled
    with Consumer(['udp:4242:divert'], control=control) as consumer, sending(lab[1]) as sock, \
            sending(lab[1], socket.AF_INET6) as sock_v6:
        for number in range(40):
            sock.sendto(b'datagram %d' % number, (NEAR, 4242))
            if number % 8 == 7:
                assert len(take(consumer, 8)) == 8
        sock_v6.sendto(b'six' * 400, (NEAR_V6, 4242))
        (payload, descriptor), = take(consumer, 1)
        assert payload == b'six' * 400
        assert (descriptor['family'], descriptor['destination_port']) == (6, 4242)
        assert bytes(descriptor['destination_address']) == socket.inet_pton(
            socket.AF_INET6, NEAR_V6)
        # Counted behind the consumer's being shown it.
        wait_until(lambda: delivery.counters['captured'] == 41, 'all are counted')
        assert not [data for data in kept.packets if b'datagram' in data]


def test_what_has_no_consumer_is_reinjected_and_counted(lab, pooled):
    made, delivery, kept, control = pooled
    with sending(lab[1]) as sock:
        sock.sendto(b'nobody', (NEAR, 4242))
        sock.sendto(b'not asked for', (NEAR, 9999))
        wait_until(lambda: sum(b'nobody' in data or b'not asked' in data
                               for data in kept.packets) == 2, 'both were reinjected')
    assert delivery.counters['passed_no_consumer'] == 1
    assert delivery.counters['passed_not_enrolled'] >= 1


def test_a_mirror_goes_to_both(lab, pooled):
    made, delivery, kept, control = pooled
    with Consumer(['udp:4243:mirror'], control=control) as consumer, sending(lab[1]) as sock:
        sock.sendto(b'twice', (NEAR, 4243))
        assert take(consumer, 1)[0][0] == b'twice'
        wait_until(lambda: any(b'twice' in data for data in kept.packets), 'it was reinjected')
        assert consumer.passed_by_reason() == {
            name.removeprefix('passed_'): count for name, count in delivery.counters.items()
            if name.startswith('passed_')}


def test_a_consumer_that_went_leaves_all_to_the_reinjector(lab, pooled):
    made, delivery, kept, control = pooled
    with sending(lab[1]) as sock:
        with Consumer(['udp:4242:divert'], control=control) as consumer:
            sock.sendto(b'first', (NEAR, 4242))
            take(consumer, 1)

        def reinjected():
            sock.sendto(b'second', (NEAR, 4242))
            return any(b'second' in data for data in kept.packets)
        wait_until(reinjected, 'the lease has ended', timeout=PATIENCE, interval=0.1)
