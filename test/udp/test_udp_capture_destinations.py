"""Where a diverted datagram may be taken from: this host's unicast addresses, claimed prefixes."""

import socket
import struct

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool.consumer import Consumer
import pytest
from support.capturing import (
    changes,
    knows,
    nothing_came,
    nothing_captured,
    Route,
    take,
    udp_socket,
)
from support.namespaces import CLIENT, CLIENT_V6
from support.waiting import wait_until

GROUP, GROUP_V6 = '239.255.0.1', 'ff02::1234'
NOBODY, NOBODY_V6 = '10.123.0.77', 'fd00:123::77'


@pytest.fixture(params=[4, 6])
def family(request):
    """Return the IP version of a test."""
    return request.param


def multicast_sender(space, family, *, loop=True, hops=1):
    """Return a socket that sends to a group over eth0, and the (address, scope) of the group."""
    if family == 4:
        sock = udp_socket(space)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(CLIENT))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
    else:
        sock = udp_socket(space, socket.AF_INET6)
        with space.entered():
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF,
                            socket.if_nametoindex('eth0'))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
    return sock


def member(space, family, port, address):
    """Return a socket that has joined the group on the interface with this address."""
    if family == 4:
        sock = Route('group', '0.0.0.0', space).receiver(port)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                        socket.inet_aton(GROUP) + socket.inet_aton(address))
    else:
        sock = Route('group', '::', space).receiver(port)
        with space.entered():
            index = socket.if_nametoindex('eth0')
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                        socket.inet_pton(socket.AF_INET6, GROUP_V6) + struct.pack('=I', index))
    return sock


@pytest.mark.parametrize('loop', [True, False], ids=['loop', 'no_loop'])
def test_multicast(captured, consumer, namespaces, family, action, loop, stack):
    """Mirrored once a send, however many get it; never diverted."""
    port, (server, client) = captured.port[action], namespaces
    there = stack.enter_context(member(server, family, port, '10.123.0.1'))
    here = stack.enter_context(member(client, family, port, CLIENT))
    sender = stack.enter_context(multicast_sender(client, family, loop=loop))
    payloads = [b'%d' % number for number in range(5)]
    with changes(captured.path) as changed:
        for payload in payloads:
            sender.sendto(payload, (GROUP if family == 4 else GROUP_V6, port))
    if action == 'mirror':
        assert changed == {'captured_mirror': 5}
        assert take(consumer, 5) == payloads
    else:
        assert changed == {'passed_multicast': 5}
    nothing_captured(consumer)
    for receiver, count in ((there, 5), (here, 5 if loop else 0)):
        assert [receiver.recv(100) for _ in range(count)] == payloads[:count]
        nothing_came(receiver)


def test_multicast_of_nobody(captured, consumer, namespaces, family, action, stack):
    """A group that nobody here has joined."""
    port = captured.port[action]
    sender = stack.enter_context(multicast_sender(namespaces[1], family))
    with changes(captured.path) as changed:
        sender.sendto(b'nobody', (GROUP if family == 4 else GROUP_V6, port))
    assert changed == ({'captured_mirror': 1} if action == 'mirror' else {'passed_multicast': 1})


@pytest.mark.parametrize('address, reason', [
    ('255.255.255.255', 'multicast'), ('10.123.0.255', 'not_local'),
    ('127.255.255.255', 'multicast')])
def test_broadcast(captured, consumer, namespaces, action, address, reason, stack):
    """Broadcasts are not diverted, those of a subnet as what is no address of this host."""
    port, (server, client) = captured.port[action], namespaces
    space = client if address.startswith('127') else server
    receiver = stack.enter_context(Route('all', '0.0.0.0', space).receiver(port))
    sender = stack.enter_context(udp_socket(client))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE,
                      b'lo' if address.startswith('127') else b'eth0')
    with changes(captured.path) as changed:
        sender.sendto(b'to all', (address, port))
    assert changed == {'captured_mirror' if action == 'mirror' else f'passed_{reason}': 1}
    assert receiver.recv(100) == b'to all'
    nothing_came(receiver)


def test_not_local(captured, consumer, namespaces, family, action, stack):
    """An address of the subnet that nobody has may be another host's."""
    address = NOBODY if family == 4 else NOBODY_V6
    sender = stack.enter_context(Route('nobody', address, *namespaces).sender())
    with changes(captured.path) as changed:
        sender.sendto(b'to another host', (address, captured.port[action]))
    assert changed == ({'captured_mirror': 1} if action == 'mirror'
                       else {'passed_not_local': 1})


def test_own_address(captured, consumer, namespaces, family, stack):
    """To oneself, by the address of the interface."""
    address = CLIENT if family == 4 else CLIENT_V6
    knows(captured.path, address)
    sender = stack.enter_context(Route('self', address, None, namespaces[1]).sender())
    with changes(captured.path) as changed:
        sender.sendto(b'to oneself', (address, captured.port['divert']))
    assert changed == {'captured_divert': 1}
    assert take(consumer) == [b'to oneself']


def test_any_address(captured, consumer, family, stack):
    """0.0.0.0 and :: mean this host to the kernel."""
    route = Route('any', '0.0.0.0' if family == 4 else '::')
    sender = stack.enter_context(route.sender())
    route.send(sender, b'to any', captured.port['divert'])
    assert take(consumer) == [b'to any']


def test_address_comes_and_goes(captured, consumer, namespaces, family, stack):
    """An address that a namespace gets later is this host's from then on, until it goes."""
    address, length = (NOBODY, 32) if family == 4 else (NOBODY_V6, 128)
    server, client = namespaces
    port = captured.port['divert']
    sender = stack.enter_context(Route('late', address, *namespaces).sender())

    def sent():
        with changes(captured.path) as changed:
            sender.sendto(b'?', (address, port))
        return changed
    assert sent() == {'passed_not_local': 1}
    server.ip('address', 'add', f'{address}/{length}', 'dev', 'eth0',
              *(['nodad'] if family == 6 else []))
    try:
        wait_until(lambda: sent() == {'captured_divert': 1}, 'the address is local')
    finally:
        server.ip('address', 'del', f'{address}/{length}', 'dev', 'eth0')
    wait_until(lambda: sent() == {'passed_not_local': 1}, 'the address is gone')


def test_claimed(captured, namespaces, family, stack):
    """A prefix that a consumer claims, as the bridge does, while it is there."""
    address = NOBODY if family == 4 else NOBODY_V6
    prefix = '10.123.0.64/26' if family == 4 else 'fd00:123::40/122'
    sender = stack.enter_context(Route('claimed', address, *namespaces).sender())
    port = captured.port['divert']
    with Consumer(control=captured.control, claims=[prefix]) as consumer:
        with changes(captured.path) as changed:
            sender.sendto(b'claimed', (address, port))
        assert changed == {'captured_divert': 1}
        assert take(consumer) == [b'claimed']
    stack.enter_context(Consumer(control=captured.control))
    wait_until(lambda: len(captured.path.pool['leases']) == 1 and not
               captured.path._capture._leases.claims, 'the claim is taken back')
    with changes(captured.path) as changed:
        sender.sendto(b'not any more', (address, port))
    assert changed == {'passed_not_local': 1}


def test_claimed_by_another(captured, namespaces, stack):
    """A prefix counts for the consumer that claimed it, and for no other; two cannot claim it."""
    prefix = '10.123.0.64/26'
    sender = stack.enter_context(Route('claimed', NOBODY, *namespaces).sender())
    port = captured.port['divert']
    owner = stack.enter_context(Consumer([f'udp:{port}'], control=captured.control))
    stack.enter_context(Consumer(['udp:1'], control=captured.control, claims=[prefix]))
    with changes(captured.path) as changed:
        sender.sendto(b'not yours', (NOBODY, port))
    assert changed == {'passed_not_local': 1}
    assert len(owner.read(0)) == 0
    for claims in ([prefix], ['10.123.0.65/26'], ['224.0.0.0/8'], ['nonsense']):
        with pytest.raises(PoolError):
            Consumer(['udp:1'], control=captured.control, claims=claims)


def test_claimed_and_never_taken(captured, namespaces, stack):
    """What a consumer claimed and left lying when it ended is sent on the usual way."""
    sender = stack.enter_context(Route('claimed', NOBODY, *namespaces).sender())
    before = captured.path.counters()
    with Consumer(control=captured.control, claims=['10.123.0.64/26']):
        with changes(captured.path) as changed:
            for number in range(3):
                sender.sendto(b'%d' % number, (NOBODY, captured.port['divert']))
        assert changed == {'captured_divert': 3}
    wait_until(lambda: not captured.path.pool['leases'], 'the lease is over')
    counters = captured.path.counters()
    assert counters['sent_on'] - before['sent_on'] == 3
    assert counters['stranded'] == before['stranded']
    assert not captured.path._capture._leases.claims
    with changes(captured.path) as changed:
        sender.sendto(b'not any more', (NOBODY, captured.port['divert']))
    assert changed == {'passed_no_consumer': 1}
