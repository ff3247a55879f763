"""The bridge between two namespaces: what it carries, what not, and where that is counted."""

import os
import socket
import time

from bridge_tools import (
    bound,
    ends,
    FAMILIES,
    FAR,
    Joined,
    NEAR,
    networks,
    PREFIXES,
    StandIn,
    StandInBatch,
)
from ipc_bypass.kernel.errors import BypassError, PoolError
from ipc_bypass.pool import layout
from ipc_bypass.udp.bridge import Bridge
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.tun import TunDevice
import numpy as np
from packet_tools import content, descriptor, DIVERT, MIRROR
import pytest
from support.waiting import wait_until

LENGTHS = [0, 1, 1472, 1473, 4096, 65507]
PORT = 7411


@pytest.fixture(scope='module', autouse=True)
def _privileged(privileged):
    """Devices and namespaces need capabilities."""


@pytest.fixture
def spaces():
    """Yield two namespaces that nothing joins: (near, far)."""
    with ends() as pair:
        yield pair


def captured(family, length, *, port=40_000, **rest):
    """Return the record of a datagram from NEAR to FAR's PORT."""
    return descriptor((NEAR[family], port), (FAR[family], PORT), length, **rest)


def nothing_more(sock):
    """Assert that a socket has no further datagram."""
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('mtu', [65535, 1500])
def test_diverted_arrives_once(spaces, family, mtu):
    with Joined(*spaces, mtu=mtu) as joined, bound(spaces[1], FAR[family], PORT) as receiver:
        batch = StandInBatch([captured(family, length, port=40_000 + number)
                              for number, length in enumerate(LENGTHS)],
                             [content(length) for length in LENGTHS])
        joined.consumer.put(batch)
        for number, length in enumerate(LENGTHS):
            data, source = receiver.recvfrom(1 << 16)
            assert data == content(length)
            assert source[:2] == (NEAR[family], 40_000 + number)
        wait_until(lambda: joined.counters().get('taken'), 'it is counted')
        assert joined.counters() == {'taken': len(LENGTHS), 'to_device': len(LENGTHS)}
        assert batch.released
        nothing_more(receiver)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('mtu', [65535, 1500])
def test_usual_way_and_answers(spaces, family, mtu):
    """What is not captured arrives too, and answers come back, as large as they may be."""
    near, far = spaces
    with Joined(near, far, mtu=mtu) as joined, bound(far, FAR[family], PORT) as receiver, \
            bound(near, NEAR[family]) as sender:
        for length in LENGTHS:
            sender.sendto(content(length), (FAR[family], PORT))
            data, source = receiver.recvfrom(1 << 16)
            assert data == content(length)
            assert source[:2] == sender.getsockname()[:2]
            receiver.sendto(data[::-1], source)
            assert sender.recvfrom(1 << 16) == (data[::-1], receiver.getsockname())
        nothing_more(sender)
        nothing_more(receiver)
        # The longest one and its IPv6 header are more than an MTU can be.
        least = len(LENGTHS) + (family == 6)
        wait_until(lambda: (least <= joined.counters().get('local', 0)
                            == joined.counters().get('device')), 'they are counted')
        counters = joined.counters()
        assert counters['local_to_device'] == counters['local'] == counters['answers']
        assert set(counters) == {'local', 'local_to_device', 'device', 'answers'}
        assert mtu < 65535 or counters['local'] == least


def test_errors_come_back(spaces):
    """A port where nobody listens: the far kernel's answer reaches the sender's socket."""
    near, far = spaces
    with Joined(near, far), bound(near, NEAR[4]) as sender:
        sender.connect((FAR[4], PORT))
        sender.send(b'anybody?')
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)


@pytest.mark.parametrize('family', FAMILIES)
def test_answers_by_raw_socket(spaces, family):
    """Without a local device. Also in fragments, where the device's MTU makes these."""
    near, far = spaces
    for mtu in 65535, 1500:
        with Joined(near, far, local=False, mtu=mtu) as joined:
            joined.bridge._crossing._own = f'/run/netns/{near.name}'  # as if it lived there
            near.ip('address', 'replace', f'{NEAR[family]}/{32 if family == 4 else 128}',
                    'dev', 'lo')
            with bound(near, NEAR[family]) as sender, bound(far, FAR[family], PORT) as receiver:
                port = sender.getsockname()[1]
                for length in LENGTHS:
                    joined.consumer.put(StandInBatch([captured(family, length, port=port)],
                                                     [content(length)]))
                    data, source = receiver.recvfrom(1 << 16)
                    assert data == content(length)
                    receiver.sendto(data[::-1], source)
                    data, source = sender.recvfrom(1 << 16)
                    assert data == content(length)[::-1]
                    assert source[:2] == (FAR[family], PORT)
                nothing_more(sender)
            wait_until(lambda: (joined.counters().get('taken', 0) == len(LENGTHS)  # noqa: B023
                                <= joined.counters().get('device', 0)), 'the counts')  # noqa: B023
            counters = joined.counters()
            assert counters['to_device'] == len(LENGTHS)
            assert counters['answers'] == counters['device'] >= len(LENGTHS)
            assert set(counters) == {'taken', 'to_device', 'device', 'answers'}
            assert len(joined.consumer.exempted) == 1


def test_mirrored(spaces):
    """A copy of what goes the usual way is carried only where that leads nowhere."""
    near, far = spaces
    for local, outcome in ((True, 'mirrored'), (False, 'to_device')):
        with Joined(near, far, local=local) as joined, bound(far, FAR[4], PORT) as receiver:
            joined.consumer.put(StandInBatch(
                [captured(4, 3, action=MIRROR), captured(4, 3, action=DIVERT)], [b'abc', b'def']))
            wait_until(lambda: joined.counters().get('taken') == 2, 'they are taken')  # noqa: B023
            expected = {'taken': 2, 'to_device': 1}
            expected[outcome] = expected.get(outcome, 0) + 1
            assert joined.counters() == expected
            received = [receiver.recv(10) for _ in range(expected['to_device'])]
            assert received == ([b'def'] if local else [b'abc', b'def'])
            nothing_more(receiver)


def test_not_claimed(spaces):
    """A diverted datagram to elsewhere is sent on, once, from its sender's address."""
    near, far = spaces
    near.ip('address', 'add', '10.77.0.1/32', 'dev', 'lo')
    with Joined(near, far) as joined, near.inhabited(), bound(near, '10.77.0.1', PORT) as receiver:
        def there():
            for name in filter(str.isdigit, os.listdir('/proc')):
                try:
                    if os.path.samefile(f'/proc/{name}/ns/net', f'/run/netns/{near.name}'):
                        return int(name)
                except OSError:
                    continue
            return 0
        records = np.array(
            [descriptor((NEAR[4], 4000), ('10.77.0.1', PORT), 3),
             descriptor((NEAR[4], 4000), ('10.77.0.1', PORT), 3, action=MIRROR),
             captured(4, 3, flags=layout.TRUNCATED), captured(4, 3, flags=layout.TCP)])
        records['sender_pid'] = wait_until(there, 'a process lives there')
        records['capture_ns'] = time.monotonic_ns()
        gone = descriptor((NEAR[4], 4000), ('10.77.0.1', PORT), 3)
        joined.consumer.put(StandInBatch([*records, gone], [b'abc'] * 5))
        assert receiver.recvfrom(10) == (b'abc', (NEAR[4], 4000))
        wait_until(lambda: joined.counters().get('taken'), 'they are taken')
        assert joined.counters() == {
            'taken': 5, 'sent_on': 1, 'not_claimed': 1, 'truncated': 2, 'stranded': 1}
        assert len(joined.consumer.exempted) == 1
        nothing_more(receiver)
        # Another node's pool: its program knows nothing of the socket.
        joined.consumer.memory = object()
        joined.consumer.put(StandInBatch(records[:1], [b'def']))
        receiver.settimeout(20)
        assert receiver.recv(10) == b'def'
        assert len(joined.consumer.exempted) == 2


@pytest.mark.parametrize('family', FAMILIES)
def test_diverted_answers(spaces, family):
    """What a process at the far end sends back may be captured too; from here to here is not."""
    near, far = spaces
    with Joined(near, far) as joined, bound(near, NEAR[family], PORT) as receiver:
        ours, theirs = (NEAR[family], PORT), (FAR[family], PORT)
        joined.consumer.put(StandInBatch(
            [descriptor(theirs, ours, 3), descriptor(ours, ours, 3)], [b'abc', b'def']))
        data, source = receiver.recvfrom(10)
        assert (data, source[:2]) == (b'abc', theirs)
        wait_until(lambda: joined.counters().get('taken') == 2, 'they are taken')
        assert joined.counters() == {'taken': 2, 'to_local': 1, 'stranded': 1}
        nothing_more(receiver)


@pytest.mark.parametrize('family', FAMILIES)
def test_own_namespace(spaces, family):
    """The device is where the sender is: packets whose source is local come in."""
    near, _ = spaces
    near.sysctl('net.ipv4.conf.all.rp_filter', 0)
    near.ip('address', 'add', '10.77.0.1/32', 'dev', 'lo')
    near.ip('address', 'add', 'fd00:77::1/128', 'dev', 'lo', 'nodad')
    source = {4: '10.77.0.1', 6: 'fd00:77::1'}[family]
    device = TunDevice('far0', namespace=near.name, addresses=networks(FAR), accept_local=True)
    bridge, consumer = Bridge(device, None, Prefixes(PREFIXES)), StandIn()
    try:
        bridge.attach(consumer)
        with bound(near, FAR[family], PORT) as receiver:
            for action in MIRROR, DIVERT:
                consumer.put(StandInBatch(
                    [descriptor((source, 4000), (FAR[family], PORT), 3, action=action)],
                    [b'abc']))
                data, sender = receiver.recvfrom(10)
                assert (data, sender[:2]) == (b'abc', (source, 4000))
    finally:
        bridge.close()
        device.close()


def test_slot_taken_away(spaces):
    with Joined(*spaces) as joined, bound(spaces[1], FAR[4], PORT) as receiver:
        joined.consumer.put(StandInBatch(
            [captured(4, 1, port=40_000 + number) for number in range(4)],
            [b'0', b'1', b'2', b'3'], torn=[1, 2]))
        for number in 0, 3:
            data, source = receiver.recvfrom(10)
            assert (data, source[1]) == (str(number).encode(), 40_000 + number)
        wait_until(lambda: joined.counters().get('taken'), 'they are taken')
        assert joined.counters() == {'taken': 4, 'to_device': 2, 'overwritten': 2}


def test_device_is_down(spaces):
    near, far = spaces
    with Joined(near, far) as joined, bound(near, NEAR[4]) as sender:
        far.ip('link', 'set', 'far0', 'down')
        joined.consumer.put(StandInBatch([captured(4, 3)] * 2, [b'abc'] * 2))
        wait_until(lambda: joined.counters().get('taken'), 'they are taken')
        sender.sendto(b'abc', (FAR[4], PORT))
        wait_until(lambda: joined.counters().get('local'), 'it is read')
        assert joined.counters() == {
            'taken': 2, 'device_refused': 2, 'local': 1, 'local_refused': 1}
        assert joined.bridge.fault == ''
        far.ip('link', 'set', 'far0', 'up')
        with bound(far, FAR[4], PORT) as receiver:
            joined.consumer.put(StandInBatch([captured(4, 3)], [b'def']))
            assert receiver.recv(10) == b'def'


@pytest.mark.parametrize('which', ['far0', 'near0'])
def test_device_is_gone(spaces, which):
    """Its namespace ended: the lease is given back, so that nothing is diverted any more."""
    with Joined(*spaces) as joined:
        spaces[which == 'far0'].ip('link', 'delete', which)
        wait_until(lambda: joined.consumer.closed, 'the lease is given back')
        assert joined.bridge.fault.startswith('carry packets through far0: the device is gone')
        wait_until(lambda: not joined.bridge._thread.is_alive(), 'its thread ends')
        with pytest.raises(BypassError, match='the device is gone; cleanup and configure again'):
            joined.bridge.check()
        joined.counters()


def test_consumer_fails(spaces):
    with Joined(*spaces) as joined:
        def fail(*_):
            raise PoolError('map the pool', 'no reason', next_step='none')
        joined.consumer.read = fail
        wait_until(lambda: joined.consumer.closed, 'the lease is given back')
        assert joined.bridge.fault == 'map the pool: no reason; none'
        joined.bridge.check()
        joined.bridge.detach()
        joined.bridge.attach(type(joined.consumer)())
        assert joined.bridge.fault == ''


def test_what_does_not_come_back(spaces):
    """From an address that is not claimed, to a group, to the claimed prefix; not IP at all."""
    near, far = spaces
    far.ip('address', 'add', '10.78.0.1/32', 'dev', 'lo')
    with Joined(near, far) as joined, bound(far, '10.78.0.1') as stranger, \
            bound(far, FAR[4]) as sender:
        stranger.sendto(b'abc', (NEAR[4], PORT))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                          socket.inet_aton(FAR[4]))
        sender.sendto(b'abc', ('239.255.0.1', 7400))
        sender.sendto(b'abc', ('10.213.0.77', PORT))
        wait_until(lambda: joined.counters().get('device', 0) == 3, 'they are read')
        assert joined.counters() == {
            'device': 3, 'answers_not_claimed': 1, 'answers_not_carried': 2}
        with near.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
            raw.bind(('near0', 0x0800))
            raw.send(b'no packet at all')
        wait_until(lambda: joined.counters().get('local', 0) == 1, 'it is read')
        assert joined.counters()['local_malformed'] == 1


def test_attach_again(spaces):
    """As deactivate and activate do: meanwhile the usual way is carried."""
    near, far = spaces
    with Joined(near, far) as joined, bound(far, FAR[4], PORT) as receiver, \
            bound(near, NEAR[4]) as sender:
        for number in range(3):
            consumer = joined.consumer
            joined.bridge.detach()
            assert consumer.closed
            sender.sendto(b'usual', (FAR[4], PORT))
            assert receiver.recv(10) == b'usual'
            joined.consumer = type(consumer)()
            joined.bridge.attach(joined.consumer)
            joined.consumer.put(StandInBatch([captured(4, 3)], [b'abc']))
            assert receiver.recv(10) == b'abc'
            wait_until(lambda: joined.counters().get('taken') == number + 1, 'taken')  # noqa: B023
        joined.bridge.close()
        joined.bridge.close()
        assert joined.consumer.closed


def test_both_ways_at_once(spaces):
    """Numbered datagrams by the pool and by the usual way, echoed: each comes once."""
    near, far = spaces
    count = 20_000
    with Joined(near, far) as joined, bound(far, FAR[4], PORT) as receiver, \
            bound(near, NEAR[4]) as sender:
        port = sender.getsockname()[1]
        answered, seen = [], []
        for begin in range(0, count, 100):
            numbers = [number.to_bytes(4, 'big') for number in range(begin, begin + 100)]
            joined.consumer.put(StandInBatch(
                [captured(4, 4, port=port)] * 50, numbers[::2]))
            for number in numbers[1::2]:
                sender.sendto(number, (FAR[4], PORT))
            for _ in range(100):
                data, source = receiver.recvfrom(10)
                seen.append(data)
                receiver.sendto(data, source)
        answered = [sender.recv(10) for _ in range(count)]
        wanted = [number.to_bytes(4, 'big') for number in range(count)]
        assert sorted(seen) == wanted
        assert sorted(answered) == wanted
        nothing_more(sender)
        nothing_more(receiver)
        wait_until(lambda: (joined.counters().get('taken') == count // 2
                            and joined.counters().get('device') == count), 'they are counted')
        assert joined.counters() == {
            'taken': count // 2, 'to_device': count // 2, 'local': count // 2,
            'local_to_device': count // 2, 'device': count, 'answers': count}
        for device in joined.device, joined.local:
            assert device.statistics() == {'refused': 0, 'queue_dropped': 0}
