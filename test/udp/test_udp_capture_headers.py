"""Datagrams that are not plain: segmented, fragments, options, extension headers, bad lengths."""

import itertools
import os
import socket
import struct

from ipc_bypass.udp.packets import word_sum
import pytest
from support.capturing import changes, nothing_came, nothing_captured, take, udp_socket

UDP_SEGMENT, IPV6_HDRINCL = 103, 36
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, UDP = 0, 43, 44, 60, 17
#: Never 0: the kernel would give each fragment a number of its own.
_identifications = itertools.count((os.getpid() & 0xff) << 8 | 1)


@pytest.fixture
def port(captured, action):
    """Return the port of a rule with the action."""
    return captured.port[action]


@pytest.fixture
def raw(local, stack):
    """Return a function that sends a packet, header included, to the loopback's address."""
    if local.family == socket.AF_INET:
        sock = stack.enter_context(udp_socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW))
    else:
        sock = stack.enter_context(udp_socket(
            family=socket.AF_INET6, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_RAW))
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
    return lambda packet: sock.sendto(packet, (local.address, 0))


def udp(address, port, payload, *, length=None):
    """Return a UDP header with its payload; the length it tells may be a wrong one."""
    length = 8 + len(payload) if length is None else length
    told = payload[:max(0, length - 8)]
    raw_address = socket.inet_pton(socket.AF_INET6 if ':' in address else socket.AF_INET, address)
    header = struct.pack('!HHHH', 40000, port, length, 0)
    pseudo = raw_address * 2 + struct.pack('!HH', UDP, length)
    checksum = struct.pack('=H', 0xffff - word_sum(pseudo + header + told) or 0xffff)
    return header[:6] + checksum + payload


def ipv4(content, *, more=False, offset=0, identification=0):
    """Return an IPv4 packet to ourselves; the kernel fills in its length and checksum."""
    address = socket.inet_aton('127.0.0.1')
    return struct.pack('!BBHHHBBH', 0x45, 0, 0, identification, more << 13 | offset >> 3, 64, UDP,
                       0) + address * 2 + content


def ipv6(content, *headers):
    """Return an IPv6 packet to ourselves, with extension headers (number, bytes from byte 1)."""
    kinds = [kind for kind, _ in headers] + [UDP]
    extensions = b''.join(bytes([following]) + rest
                          for following, (_, rest) in zip(kinds[1:], headers, strict=True))
    address = socket.inet_pton(socket.AF_INET6, '::1')
    return struct.pack('!IHBB', 6 << 28, len(extensions) + len(content), kinds[0], 64) + \
        address * 2 + extensions + content


def packet(route, content):
    """Return a plain packet to the route's address."""
    return (ipv4 if route.family == socket.AF_INET else ipv6)(content)


def options(blocks=1):
    """Return hop-by-hop or destination options for experiments, which are skipped."""
    return bytes([blocks - 1, 0x1e, 8 * blocks - 4]) + bytes(8 * blocks - 4)


def fragment(identification, offset=0, more=False):
    """Return a fragment header, from byte 1 on."""
    return struct.pack('!BHI', 0, offset | more, identification)


def routing(segments_left):
    """Return a routing header of the deprecated type 0 with one address, from byte 1 on."""
    return bytes([2, 0, segments_left]) + bytes(4) + socket.inet_pton(socket.AF_INET6, '::1')


@pytest.mark.parametrize('by', ['setsockopt', 'cmsg'])
def test_segmented(route, captured, port, consumer, by, stack):
    """Several datagrams in one send: counted once, delivered one by one."""
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender())
    ancillary = []
    if by == 'setsockopt':
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 500)
    else:
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack('=H', 500))]
    payload = os.urandom(2100)
    before = captured.path.counters()['passed_bytes']
    with changes(captured.path) as changed:
        route.send(sender, payload, port, *ancillary)
    assert changed == {'passed_segmented': 1}
    assert captured.path.counters()['passed_bytes'] == before + len(payload)
    assert b''.join(receiver.recv(3000) for _ in range(5)) == payload
    nothing_came(receiver)
    nothing_captured(consumer)


def test_segment_of_one(route, action, captured, port, consumer, stack):
    """A send that is no longer than one segment is a plain datagram."""
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender())
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 500)
    with changes(captured.path) as changed:
        route.send(sender, bytes(500), port)
    assert changed == {f'captured_{action}': 1}
    assert take(consumer) == [bytes(500)]
    if action == 'mirror':
        assert receiver.recv(1000) == bytes(500)


def test_raw(local, action, captured, port, consumer, raw, stack):
    """A whole datagram that a raw socket makes."""
    receiver = stack.enter_context(local.receiver(port))
    with changes(captured.path) as changed:
        raw(packet(local, udp(local.address, port, b'made by hand')))
    assert changed == {f'captured_{action}': 1}
    assert take(consumer) == [b'made by hand']
    if action == 'mirror':
        assert receiver.recv(100) == b'made by hand'
    nothing_came(receiver)


def test_fragments(local, captured, port, consumer, raw, stack):
    """The first fragment is counted, later ones show no port; the receiver gets the whole."""
    receiver = stack.enter_context(local.receiver(port))
    payload, number = os.urandom(3000), next(_identifications)
    content = udp(local.address, port, payload)
    with changes(captured.path) as changed:
        for start in (0, 1600):
            piece, more = content[start:start + 1600], start == 0
            if local.family == socket.AF_INET:
                raw(ipv4(piece, more=more, offset=start, identification=number & 0xffff))
            else:
                raw(ipv6(piece, (FRAGMENT, fragment(number & 0xffffffff, start, more))))
    assert changed == {'passed_fragment': 1}
    assert receiver.recv(4000) == payload
    nothing_captured(consumer)


@pytest.mark.parametrize('headers', [
    [(HOP_BY_HOP, options())], [(DESTINATION, options(3))], [(ROUTING, routing(0))],
    [(FRAGMENT, fragment(7))],
    [(HOP_BY_HOP, options(2)), (DESTINATION, options()), (ROUTING, routing(0)),
     (FRAGMENT, fragment(8)), (DESTINATION, options(4))],
    [(DESTINATION, options())] * 8,
], ids=['hop_by_hop', 'destination', 'routing', 'fragment', 'all', 'eight'])
@pytest.mark.parametrize('local', ['loopback_v6'], indirect=True)
def test_extension_headers(local, action, captured, port, consumer, raw, headers, stack):
    """Extension headers move the ports."""
    receiver = stack.enter_context(local.receiver(port))
    with changes(captured.path) as changed:
        raw(ipv6(udp(local.address, port, b'behind headers'), *headers))
    assert changed == {f'captured_{action}': 1}
    assert take(consumer) == [b'behind headers']
    if action == 'mirror':
        assert receiver.recv(100) == b'behind headers'
    nothing_came(receiver)


@pytest.mark.parametrize('local', ['loopback_v6'], indirect=True)
def test_socket_options(local, action, captured, port, consumer, stack):
    """Extension headers that a socket has the kernel make."""
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender())
    for option in (socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS):
        sender.setsockopt(socket.IPPROTO_IPV6, option, bytes([0]) + options())
    local.send(sender, bytes(30000), port)
    assert take(consumer) == [bytes(30000)]
    if action == 'mirror':
        assert receiver.recv(40000) == bytes(30000)


@pytest.mark.parametrize('local', ['loopback_v6'], indirect=True)
def test_too_many_headers(local, captured, port, consumer, raw, stack):
    """Beyond eight, nobody looks for the ports."""
    receiver = stack.enter_context(local.receiver(port))
    with changes(captured.path) as changed:
        raw(ipv6(udp(local.address, port, b'far behind'), *[(DESTINATION, options())] * 9))
    assert changed == {}
    assert receiver.recv(100) == b'far behind'
    nothing_captured(consumer)


@pytest.mark.parametrize('local', ['loopback_v6'], indirect=True)
def test_routed(local, captured, port, consumer, raw):
    """Segments are left: the destination that the header shows is not the last one."""
    with changes(captured.path) as changed:
        raw(ipv6(udp(local.address, port, b'on its way'), (ROUTING, routing(1))))
    assert changed == {'passed_headers': 1}
    nothing_captured(consumer)


@pytest.mark.parametrize('length, reason', [(7, 'headers'), (200, 'headers'), (0, 'too_large')],
                         ids=['too_short', 'too_long', 'none'])
def test_bad_length(local, captured, port, consumer, raw, length, reason):
    """A length that cannot be."""
    with changes(captured.path) as changed:
        raw(packet(local, udp(local.address, port, bytes(100), length=length)))
    assert changed == {f'passed_{reason}': 1}
    nothing_captured(consumer)


def test_shorter_than_its_packet(local, action, captured, port, consumer, raw, stack):
    """What the UDP header tells is the datagram, as for its receiver."""
    receiver = stack.enter_context(local.receiver(port))
    raw(packet(local, udp(local.address, port, b'datagram and more', length=8 + 8)))
    assert take(consumer) == [b'datagram']
    if action == 'mirror':
        assert receiver.recv(100) == b'datagram'


@pytest.mark.parametrize('headers', [
    [(DESTINATION, bytes([255, 1, 4, 0, 0, 0, 0]))], [(HOP_BY_HOP, options()), (135, options())],
], ids=['beyond_the_end', 'not_known'])
@pytest.mark.parametrize('local', ['loopback_v6'], indirect=True)
def test_malformed_headers(local, captured, port, consumer, raw, headers):
    """Extension headers that lead nowhere."""
    with changes(captured.path) as changed:
        raw(ipv6(udp(local.address, port, b'lost'), *headers))
    assert changed == {}
    nothing_captured(consumer)


def test_garbage(local, captured, port, consumer, raw):
    """Packets of random bytes behind a good header disturb nobody."""
    for size in (0, 1, 7, 8, 40, 500):
        for _ in range(20):
            raw(packet(local, os.urandom(size)))
    local.send(local.sender(), b'well', port)
    assert take(consumer) == [b'well']
