"""Cut an IP packet into fragments for a device with a small MTU (RFC 791; RFC 8200, 4.5)."""

from __future__ import annotations

import itertools
import struct

from ipc_bypass.udp.packets import word_sum

#: IPv6 asks this of every link (RFC 8200, section 5); less makes no sense for IPv4 either.
SMALLEST_MTU = 1280

_UDP, _V6_FRAGMENT = 17, 44
_identifications = itertools.count(1)


def fragments(packet, mtu: int) -> list:
    """
    Return a UDP packet as packets of at most `mtu` bytes.

    One with IPv4 options or IPv6 extension headers, or that is a fragment itself, is returned as
    it is, however large.

    :param packet: bytes-like
    :param mtu: in bytes, at least SMALLEST_MTU
    """
    view = memoryview(packet)
    if len(view) > mtu:
        if view[0] == 0x45 and not struct.unpack_from('!H', view, 6)[0] & 0x3fff:
            return list(_v4_fragments(view, mtu))
        if view[0] >> 4 == 6 and view[6] == _UDP:
            return list(_v6_fragments(view, mtu))
    return [packet]


def _pieces(data, most):
    """Yield (place in units of 8 bytes, piece, whether more come); `most` bytes a piece."""
    size = most & ~7
    for begin in range(0, len(data), size):
        yield begin >> 3, data[begin:begin + size], begin + size < len(data)


def _v4_fragments(view, mtu):
    for place, piece, more in _pieces(view[20:], mtu - 20):
        head = bytearray(view[:20])
        struct.pack_into('!H', head, 2, 20 + len(piece))
        struct.pack_into('!H', head, 6, more << 13 | place)
        struct.pack_into('=H', head, 10, 0)
        struct.pack_into('=H', head, 10, (0xffff - word_sum(head)) % 0xffff)
        yield bytes(head) + piece


def _v6_fragments(view, mtu):
    number = next(_identifications) & 0xffffffff
    for place, piece, more in _pieces(view[40:], mtu - 48):
        head = bytearray(view[:40])
        struct.pack_into('!H', head, 4, 8 + len(piece))
        head[6] = _V6_FRAGMENT
        yield bytes(head) + struct.pack('!BBHI', view[6], 0, place << 3 | more, number) + piece
