"""What a node sends on of diverted datagrams whose descriptors a consumer has changed."""

from ipc_bypass.pool.consumer import Consumer
import pytest
from support.capturing import udp_socket
from support.waiting import wait_until

COUNT = 6


@pytest.fixture
def pending(captured, stack):
    """Yield (path, receiver, the owner's descriptors, a function that ends its lease)."""
    path, port = captured.path, captured.port['divert']
    receiver = stack.enter_context(udp_socket())
    receiver.bind(('127.0.0.1', port))
    receiver.settimeout(0.3)
    owner = stack.enter_context(Consumer(control=captured.control))
    sender = stack.enter_context(udp_socket())
    before = path.counters()['captured_divert']
    for number in range(COUNT):
        sender.sendto(bytes([number]) * 32, ('127.0.0.1', port))
    wait_until(lambda: path.counters()['captured_divert'] == before + COUNT, 'all are captured')
    ring, first = owner._places[0].ring, owner._places[0].cursor
    assert first & (owner.memory.ring_entries - 1) == first
    yield path, receiver, owner.memory.descriptors[ring][first:first + COUNT], owner.close


def came(receiver):
    """Return the first bytes of what comes, in its order."""
    found = []
    try:
        while True:
            found.append(receiver.recv(2048)[0])
    except TimeoutError:
        return found


def test_a_sender_that_never_sent(pending):
    """A process that sent nothing to the port is spoken for by nobody."""
    path, receiver, descriptors, end = pending
    before = path.counters()['stranded_forged']
    descriptors['sender_pid'][1] = 1
    end()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    assert came(receiver) == [0, 2, 3, 4, 5]
    assert path.counters()['stranded_forged'] == before + 1


def test_a_datagram_in_many_descriptors(pending):
    """It is sent once, however often it is named."""
    path, receiver, descriptors, end = pending
    for name in ('slot', 'sequence', 'source_port'):
        descriptors[name][1:4] = descriptors[name][0]
    end()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    assert came(receiver) == [0, 4, 5]


@pytest.mark.parametrize(('name', 'value'), [
    ('family', 9), ('length', 1 << 31), ('slot', (1 << 32) - 1), ('sequence', 0), ('flags', 1),
    ('destination_port', 1), ('capture_ns', (1 << 64) - 1), ('number', 0)])
def test_what_makes_no_sense(pending, name, value):
    """The others are sent on, and what is not is counted."""
    path, receiver, descriptors, end = pending
    descriptors[name][2] = value
    end()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    found = came(receiver)
    assert found in ([0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    assert not path.pool['problems']
