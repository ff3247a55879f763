"""Ethernet frames as bytes: IPv4 and IPv6, VLAN tags, options, fragments, UDP, TCP, ICMP."""

import ipaddress
import struct

NEAR_MAC, FAR_MAC = bytes.fromhex('020000000001'), bytes.fromhex('020000000002')
NEAR, FAR = '10.124.0.1', '10.124.0.2'
NEAR_V6, FAR_V6 = 'fd00:124::1', 'fd00:124::2'
UDP, TCP, ICMP, ICMP6, NO_NEXT = 17, 6, 1, 58, 59
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000


def checksum(data):
    """Return the Internet checksum of `data` (RFC 1071)."""
    data = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ethernet(payload, *, destination=NEAR_MAC, source=FAR_MAC, ethertype=0x0800, vlans=()):
    """Return a frame; `vlans` are (tag protocol, identifier) pairs, the outer one first."""
    tags = b''.join(struct.pack('!HH', protocol, identifier) for protocol, identifier in vlans)
    return destination + source + tags + struct.pack('!H', ethertype) + payload


def ip4(payload, *, source=FAR, destination=NEAR, protocol=UDP, options=b'', fragment=0,
        identifier=1, ttl=64):
    """Return an IPv4 packet; `options` are of a multiple of 4 bytes, `fragment` as on the wire."""
    def header(found):
        return struct.pack(
            '!BBHHHBBH4s4s', 0x40 | (5 + len(options) // 4), 0, 20 + len(options) + len(payload),
            identifier, fragment, ttl, protocol, found, ipaddress.ip_address(source).packed,
            ipaddress.ip_address(destination).packed) + options
    return header(checksum(header(0))) + payload


def ip6(payload, *, source=FAR_V6, destination=NEAR_V6, protocol=UDP, hop_limit=64):
    """Return an IPv6 packet; `protocol` is that of the first header in the payload."""
    return struct.pack('!IHBB16s16s', 6 << 28, len(payload), protocol, hop_limit,
                       ipaddress.ip_address(source).packed,
                       ipaddress.ip_address(destination).packed) + payload


def extension(payload, protocol, *, units=1):
    """Return an IPv6 extension header of `units` times 8 bytes before a payload."""
    return struct.pack('!BB', protocol, units - 1) + bytes(8 * units - 2) + payload


def fragment6(payload, protocol, *, offset=0, more=False, identifier=1):
    """Return an IPv6 fragment header before a payload; `offset` in units of 8 bytes."""
    return struct.pack('!BBHI', protocol, 0, offset << 3 | more, identifier) + payload


def udp(payload=b'', *, source_port=1000, destination_port=7400, addresses=(FAR, NEAR)):
    """Return a UDP datagram with its checksum."""
    length = 8 + len(payload)
    head = struct.pack('!HHH', source_port, destination_port, length)
    found = checksum(_pseudo(addresses, UDP, length) + head + bytes(2) + payload)
    return head + struct.pack('!H', found or 0xffff) + payload


def tcp(payload=b'', *, source_port=1000, destination_port=7400, flags=0x10,
        addresses=(FAR, NEAR)):
    """Return a TCP segment with its checksum."""
    def segment(found):
        return struct.pack('!HHIIBBHHH', source_port, destination_port, 1, 1, 5 << 4, flags,
                           1024, found, 0) + payload
    return segment(checksum(_pseudo(addresses, TCP, 20 + len(payload)) + segment(0)))


def icmp_echo(*, identifier=1, sequence=1, payload=b'ping'):
    """Return an ICMP echo request."""
    def message(found):
        return struct.pack('!BBHHH', 8, 0, found, identifier, sequence) + payload
    return message(checksum(message(0)))


def udp4_frame(payload=b'x' * 32, *, vlans=(), **ports):
    """Return a whole frame: UDP over IPv4 from FAR to NEAR."""
    return ethernet(ip4(udp(payload, **ports)), vlans=vlans)


def udp6_frame(payload=b'x' * 32, *, vlans=(), **ports):
    """Return a whole frame: UDP over IPv6 from FAR_V6 to NEAR_V6."""
    return ethernet(ip6(udp(payload, addresses=(FAR_V6, NEAR_V6), **ports)), ethertype=0x86dd,
                    vlans=vlans)


def _pseudo(addresses, protocol, length):
    source, destination = (ipaddress.ip_address(address).packed for address in addresses)
    if len(source) == 4:
        return source + destination + struct.pack('!BBH', 0, protocol, length)
    return source + destination + struct.pack('!II', length, protocol)
