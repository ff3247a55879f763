"""
Answers that a host on a link has to give, made in the place of the question.

ARP (RFC 826), ICMP echo (RFC 792), IPv6 neighbour advertisements (RFC 4861, section 4.4) and
ICMPv6 echo (RFC 4443, section 4). Frames with a VLAN tag, fragments and packets with IP options
or extension headers get no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
import ipaddress
import struct

from ipc_bypass.udp.packets import HOP_LIMIT, word_sum

_ARP, _IPV4, _IPV6 = b'\x08\x06', b'\x08\x00', b'\x86\xdd'
_ICMP, _ICMPV6 = 1, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
# Solicited, override: the sender is told once, and believes it.
_ADVERTISED = 0x60000000
_ALL_NODES = bytes.fromhex('ff020000000000000000000000000001')
_ALL_NODES_MAC = bytes.fromhex('333300000001')
# Ethernet, IPv4 or IPv6 header, in bytes.
_V4_PAYLOAD, _V6_PAYLOAD = 34, 54
_ARP_BYTES, _ADVERTISEMENT_BYTES = 42, 86
_CHECKSUM = struct.Struct('=H')
_LENGTH = struct.Struct('!H')


class Answers:
    """
    Answers for one MAC address and the IP addresses that belong to it.

    :param mac: 6 bytes
    :param addresses: IPv4 and IPv6 addresses as text, without prefix lengths
    """

    def __init__(self, mac: bytes, addresses: Iterable[str]) -> None:
        self.mac = bytes(mac)
        packed = [ipaddress.ip_address(text).packed for text in addresses]
        self._v4 = frozenset(one for one in packed if len(one) == 4)
        self._v6 = frozenset(one for one in packed if len(one) == 16)

    def answer(self, space: memoryview, length: int) -> int:
        """
        Turn a question into its answer, in place; return the answer's length, 0 for none.

        :param space: writable memory that begins with the frame; an answer may be longer
        :param length: bytes of the frame
        """
        kind = bytes(space[12:14])
        if kind == _ARP:
            return self._arp(space, length)
        if bytes(space[:6]) != self.mac and not space[0] & 1:
            return 0
        if kind == _IPV4:
            return self._echo_v4(space, length)
        if kind == _IPV6:
            return self._icmp_v6(space, length)
        return 0

    def _arp(self, space, length):
        # Ethernet and IPv4, a request, for one of our addresses.
        if length < _ARP_BYTES or bytes(space[14:22]) != b'\0\1\x08\0\6\4\0\1' \
                or bytes(space[38:42]) not in self._v4:
            return 0
        asker, target = bytes(space[22:32]), bytes(space[38:42])
        space[0:6], space[6:12] = asker[:6], self.mac
        space[21] = 2
        space[22:28], space[28:32], space[32:42] = self.mac, target, asker
        return length

    def _echo_v4(self, space, length):
        if length < _V4_PAYLOAD + 8 or space[14] != 0x45 or space[23] != _ICMP \
                or bytes(space[30:34]) not in self._v4 or space[_V4_PAYLOAD] != 8 \
                or (space[20] & 0x3f) or space[21]:
            return 0
        total, = _LENGTH.unpack_from(space, 16)
        end = 14 + total
        if not _V4_PAYLOAD + 8 <= end <= length or word_sum(space[_V4_PAYLOAD:end]):
            return 0
        self._turn_back(space, 26, 30, 4)
        space[22], space[_V4_PAYLOAD] = HOP_LIMIT, 0
        _write_sum(space, 24, word_sum(space[14:24]) + word_sum(space[26:34]))
        _CHECKSUM.pack_into(space, 36, 0)
        _write_sum(space, 36, word_sum(space[_V4_PAYLOAD:end]))
        return length

    def _icmp_v6(self, space, length):
        if length < _V6_PAYLOAD + 8 or space[14] >> 4 != 6 or space[20] != _ICMPV6:
            return 0
        size, = _LENGTH.unpack_from(space, 18)
        end = _V6_PAYLOAD + size
        if size < 8 or end > length or _sum_v6(space, end) % 0xffff:
            return 0
        if space[_V6_PAYLOAD] == 128:
            if bytes(space[38:54]) not in self._v6:
                return 0
            self._turn_back(space, 22, 38, 16)
            space[_V6_PAYLOAD], space[21] = 129, HOP_LIMIT
        elif space[_V6_PAYLOAD] == _SOLICITATION:
            target = bytes(space[62:78])
            if size < 24 or space[21] != 255 or target not in self._v6 \
                    or len(space) < _ADVERTISEMENT_BYTES:
                return 0
            length = end = self._advertise(space, target)
        else:
            return 0
        _CHECKSUM.pack_into(space, 56, 0)
        _write_sum(space, 56, _sum_v6(space, end))
        return length

    def _advertise(self, space, target):
        """Write an advertisement with our MAC over a solicitation; return its length."""
        asker = bytes(space[22:38])
        if not any(asker):
            # Asked to find out whether the address is taken: everybody is told.
            space[0:6], space[38:54], flags = _ALL_NODES_MAC, _ALL_NODES, _ADVERTISED & ~(1 << 30)
        else:
            space[0:6], space[38:54], flags = bytes(space[6:12]), asker, _ADVERTISED
        space[6:12], space[22:38] = self.mac, target
        _LENGTH.pack_into(space, 18, _ADVERTISEMENT_BYTES - _V6_PAYLOAD)
        struct.pack_into('!BBHI', space, _V6_PAYLOAD, _ADVERTISEMENT, 0, 0, flags)
        space[78:86] = b'\2\1' + self.mac
        return _ADVERTISEMENT_BYTES

    def _turn_back(self, space, source, destination, size):
        """Send to whom it came from, from us."""
        space[0:6] = bytes(space[6:12])
        space[6:12] = self.mac
        asker, asked = bytes(space[source:source + size]), bytes(
            space[destination:destination + size])
        space[source:source + size], space[destination:destination + size] = asked, asker


def _sum_v6(space, end):
    """Return the sum of the pseudo header and an ICMPv6 message (RFC 8200, section 8.1)."""
    return (word_sum(space[22:54]) + word_sum(space[_V6_PAYLOAD:end])
            + word_sum(struct.pack('!HH', end - _V6_PAYLOAD, _ICMPV6)))


def _write_sum(space, place, total):
    _CHECKSUM.pack_into(space, place, 0xffff - total % 0xffff)
