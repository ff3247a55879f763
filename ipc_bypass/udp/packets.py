"""
IP and UDP headers around the payload of a captured datagram, and back.

Forms: RFC 791 (IPv4), RFC 768 (UDP), RFC 8200 (IPv6 and its extension headers). Checksums:
RFC 1071; a sum of 16-bit words may be made of wider words, and in the byte order of the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import itertools
import struct
import sys
from typing import NamedTuple

import numpy as np

HOP_LIMIT = 64
#: Most bytes of payload, by family: a length field has 16 bits, and in IPv4 it counts the header.
MOST_PAYLOAD = {4: 65507, 6: 65527}

#: Of struct in6_addr: what comes before an IPv4 address in ::ffff:a.b.c.d.
MAPPED = bytes(10) + b'\xff\xff'

_UDP = 17
# Extension headers that may stand before UDP (RFC 8200, section 4; RFC 4302).
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS = 0, 43, 44, 51, 60
_MOST_EXTENSIONS = 16
_V4_MORE, _V4_PLACE = 0x2000, 0x1fff
# Up to here one integer of all bytes is quicker than numpy.
_SHORT = 512
_WORD = struct.Struct('=H')
_swapped = sys.byteorder == 'little'
_identifications = itertools.count(1)

_UDP_FIELDS = [('source_port', '>u2'), ('destination_port', '>u2'), ('udp_length', '>u2'),
               ('udp_checksum', '=u2')]
_V4 = np.dtype([('version', 'u1'), ('service', 'u1'), ('length', '>u2'), ('id', '>u2'),
                ('fragment', '>u2'), ('hops', 'u1'), ('protocol', 'u1'), ('checksum', '=u2'),
                ('source', 'u1', 4), ('destination', 'u1', 4), *_UDP_FIELDS])
_V6 = np.dtype([('version', '>u4'), ('length', '>u2'), ('protocol', 'u1'), ('hops', 'u1'),
                ('source', 'u1', 16), ('destination', 'u1', 16), *_UDP_FIELDS])


class Packet(NamedTuple):
    """A UDP packet; addresses in network order (4 or 16 bytes), ports in host order."""

    family: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    payload: memoryview


def build_packet(descriptor: np.void, payload) -> bytes:
    """
    Return a captured datagram as an IP packet, whatever the MTU.

    :param descriptor: one record of dtype pool.layout.DESCRIPTOR; its family, addresses and
        ports count
    :param payload: bytes-like
    :raises ValueError: the payload is longer than a datagram of the family can be
    """
    return b''.join(next(build_parts(np.asarray(descriptor).reshape(1), [payload])))


def build_parts(descriptors: np.ndarray, payloads: Iterable) -> Iterator[tuple]:
    """
    Yield (headers, payload) of each captured datagram, to be written with one writev.

    The headers of a batch are made at once, and no payload is copied.

    :param descriptors: records as of `build_packet`
    :param payloads: bytes-like, one a record
    :raises ValueError: a payload is longer than a datagram of its family can be, or a family is
        neither 4 nor 6
    """
    payloads = list(payloads)
    lengths = np.fromiter(map(len, payloads), 'i8', len(payloads))
    heads: list = [None] * len(payloads)
    sums: list = [0] * len(payloads)
    for family, make in ((4, _v4_heads), (6, _v6_heads)):
        places = np.flatnonzero(descriptors['family'] == family)
        if len(places):
            if lengths[places].max() > MOST_PAYLOAD[family]:
                raise ValueError(f'{lengths[places].max()} bytes are no UDP datagram of '
                                 f'IPv{family}: at most {MOST_PAYLOAD[family]}')
            made, partial = make(descriptors[places], lengths[places])
            data, size = bytearray(made.tobytes()), made.dtype.itemsize
            for number, (place, part) in enumerate(zip(places.tolist(), partial, strict=True)):
                heads[place] = memoryview(data)[number * size:(number + 1) * size]
                sums[place] = part
    if None in heads:
        raise ValueError('a datagram is neither of IPv4 nor of IPv6')
    for head, part, payload in zip(heads, sums, payloads, strict=True):
        # Never 0, which would say that there is no checksum: in ones' complement, 0xffff is 0.
        _WORD.pack_into(head, len(head) - 2, 0xffff - (part + word_sum(payload)) % 0xffff)
        yield head, payload


def word_sum(data) -> int:
    """
    Return the sum of the 16-bit words of `data`, modulo 65,535, in the host's byte order.

    An odd last byte counts as if a zero followed.
    """
    length = len(data)
    if length <= _SHORT:
        if _swapped:
            return int.from_bytes(data, 'little') % 0xffff
        return (int.from_bytes(data, 'big') << 8 * (length & 1)) % 0xffff
    whole = length & ~3
    total = int(np.frombuffer(data, '=u4', whole >> 2).sum(dtype='u8'))
    return (total + word_sum(memoryview(data)[whole:])) % 0xffff


def parse_packet(data) -> Packet | None:
    """
    Return the UDP datagram in an IP packet; None where there is no whole and sound one.

    IPv4 options and IPv6 extension headers are stepped over. Fragments are not whole; a wrong
    checksum, a length that does not fit and a source route still to be gone are not sound.
    """
    view = memoryview(data)
    found = _udp_place(view)
    if found is None:
        return None
    family, begin, end = found
    segment = view[begin:end]
    if len(segment) < 8:
        return None
    source_port, destination_port, length, checksum = struct.unpack_from('!4H', segment)
    if not 8 <= length <= len(segment):
        return None
    segment = segment[:length]
    source, destination = addresses(view)
    if checksum == 0:
        if family == 6:
            return None
    elif (word_sum(segment) + word_sum(source + destination)
          + word_sum(struct.pack('!HH', _UDP, length))) % 0xffff:
        return None
    return Packet(family, source, destination, source_port, destination_port, segment[8:])


def addresses(packet) -> tuple[bytes, bytes]:
    """Return the (source, destination) of an IP packet, in network order, by its version."""
    if packet[0] >> 4 == 4:
        return bytes(packet[12:16]), bytes(packet[16:20])
    return bytes(packet[8:24]), bytes(packet[24:40])


def address_bytes(mapped, family: int) -> bytes:
    """Return the 4 or 16 bytes of an address as descriptors hold it (16 bytes)."""
    return bytes(mapped)[12 if family == 4 else 0:]


def _v4_heads(descriptors, lengths):
    """Return the IPv4 and UDP headers, and the sums that go into each UDP checksum."""
    heads = np.zeros(len(descriptors), _V4)
    heads['version'], heads['hops'], heads['protocol'] = 0x45, HOP_LIMIT, _UDP
    heads['length'] = lengths + _V4.itemsize
    # Not 0: a raw socket would put a number of the kernel's there.
    heads['id'] = [next(_identifications) % 0xffff + 1 for _ in range(len(heads))]
    heads['source'] = descriptors['source_address'][:, 12:]
    heads['destination'] = descriptors['destination_address'][:, 12:]
    _udp_fields(heads, descriptors, lengths)
    words = _words(heads)
    heads['checksum'] = (0xffff - words[:, :10].sum(axis=1, dtype='u8') % 0xffff) % 0xffff
    return heads, _partial(words[:, 6:], heads)


def _v6_heads(descriptors, lengths):
    """Return the IPv6 and UDP headers, and the sums that go into each UDP checksum."""
    heads = np.zeros(len(descriptors), _V6)
    heads['version'], heads['hops'], heads['protocol'] = 6 << 28, HOP_LIMIT, _UDP
    heads['length'] = lengths + 8
    heads['source'] = descriptors['source_address']
    heads['destination'] = descriptors['destination_address']
    _udp_fields(heads, descriptors, lengths)
    return heads, _partial(_words(heads)[:, 4:], heads)


def _udp_fields(heads, descriptors, lengths):
    heads['source_port'] = descriptors['source_port']
    heads['destination_port'] = descriptors['destination_port']
    heads['udp_length'] = lengths + 8


def _words(heads):
    """Return headers as an array of words, (headers, words of one)."""
    return heads.view('=u2').reshape(len(heads), -1)


def _partial(words, heads):
    """Return the sum of the pseudo header's and the UDP header's words, one integer a header."""
    length = heads['udp_length'].astype('>u2').view('=u2').astype('u8')
    protocol = int(np.array([_UDP], '>u2').view('=u2')[0])
    return (words.sum(axis=1, dtype='u8') + length + protocol).tolist()


def _udp_place(view):
    """Return (family, begin, end) of the UDP header and its payload in a packet, or None."""
    if len(view) >= 20 and view[0] >> 4 == 4:
        header = (view[0] & 15) * 4
        length, = struct.unpack_from('!H', view, 2)
        fragment, = struct.unpack_from('!H', view, 6)
        if (not 20 <= header <= length <= len(view) or view[9] != _UDP
                or fragment & (_V4_MORE | _V4_PLACE) or word_sum(view[:header])):
            return None
        return 4, header, length
    if len(view) >= 40 and view[0] >> 4 == 6:
        end = 40 + struct.unpack_from('!H', view, 4)[0]
        begin = _after_extensions(view, end) if end <= len(view) else None
        return None if begin is None else (6, begin, end)
    return None


def _after_extensions(view, end):
    """Return where UDP begins in an IPv6 packet that ends at `end`, None where it is not UDP."""
    following, place = view[6], 40
    for _ in range(_MOST_EXTENSIONS):
        if following == _UDP:
            return place
        if following not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _OPTIONS) \
                or place + 8 > end:
            return None
        if following == _FRAGMENT:
            # A place other than 0, or more to come. RFC 6946: 0 and none to come is whole.
            if struct.unpack_from('!H', view, place + 2)[0] & 0xfff9:
                return None
            size = 8
        elif following == _AUTHENTICATION:
            size = (view[place + 1] + 2) * 4
        else:
            size = (view[place + 1] + 1) * 8
        if following == _ROUTING and view[place + 3]:
            return None  # segments left: the destination is not the last one
        following, place = view[place], place + size
    return None
