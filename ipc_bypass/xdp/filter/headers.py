"""
Read a frame's headers as bpf/xdp_parse.h does, in Python.

The tests hold the two against each other; the filter in user space has no other eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct

IPV4, IPV6 = 0x0800, 0x86dd
_TAGS = (0x8100, 0x88a8)
_WITH_PORTS = (6, 17)
# IPv6 extension headers that are walked: hop by hop, routing, destination, fragment, AH.
_EXTENSIONS = (0, 43, 60, 44, 51)
_MOST_TAGS, _MOST_EXTENSIONS = 2, 6
_FURTHEST = 0x3ff
_HOP_BY_HOP, _FRAGMENT, _AH = 0, 44, 51
_IP4 = struct.Struct('>BBHHHBBH4s4s')
_IP6 = struct.Struct('>IHBB16s16s')


@dataclass
class Facts:
    """struct xdp_facts of bpf/xdp_common.h, and the addresses as bytes of the packet."""

    family: int = 0
    protocol: int = 0
    ethertype: int = 0
    l3_offset: int = 0
    l4_offset: int = 0
    payload_offset: int = 0
    source_port: int = 0
    destination_port: int = 0
    vlan: int = 0
    length: int = 0
    source: bytes = b''
    destination: bytes = b''
    fragment: bool = False
    first_fragment: bool = False
    tagged: bool = False
    options: bool = False
    ports: bool = False
    frame_error: bool = False
    ip_error: bool = False
    transport_error: bool = False
    multicast: bool = False
    dont_fragment: bool = False


def read_headers(frame: bytes | memoryview) -> Facts:
    """Return what the headers of an Ethernet frame say."""
    facts = Facts(length=len(frame))
    if len(frame) < 14:
        facts.frame_error = True
        return facts
    facts.multicast = bool(frame[0] & 1)
    kind, offset = int.from_bytes(frame[12:14], 'big'), 14
    for _ in range(_MOST_TAGS):
        if kind not in _TAGS:
            break
        if len(frame) < offset + 4:
            facts.frame_error = True
            return facts
        if not facts.tagged:
            facts.vlan = int.from_bytes(frame[offset:offset + 2], 'big') & 0xfff
        facts.tagged = True
        kind = int.from_bytes(frame[offset + 2:offset + 4], 'big')
        offset += 4
    facts.ethertype, facts.l3_offset = kind, offset
    if kind == IPV4:
        _read_ip4(frame, facts)
    elif kind == IPV6:
        _read_ip6(frame, facts)
    return facts


def _read_ip4(frame, facts):
    offset = facts.l3_offset
    if len(frame) < offset + _IP4.size:
        facts.ip_error = True
        return
    first, _tos, total, _id, fragment, _ttl, protocol, _sum, source, destination = \
        _IP4.unpack_from(frame, offset)
    length = (first & 0xf) * 4
    if first >> 4 != 4 or length < 20 or total < length or offset + total > len(frame):
        facts.ip_error = True
        return
    facts.family, facts.protocol, facts.l4_offset = 4, protocol, offset + length
    facts.source, facts.destination = source, destination
    facts.options = length > 20
    facts.dont_fragment = bool(fragment & 0x4000)
    if fragment & 0x3fff:
        facts.fragment = True
        if fragment & 0x1fff:
            return
        facts.first_fragment = True
    _read_ports(frame, offset + total, facts)


def _read_ip6(frame, facts):
    offset = facts.l3_offset
    if len(frame) < offset + _IP6.size:
        facts.ip_error = True
        return
    first, length, following, _hops, source, destination = _IP6.unpack_from(frame, offset)
    limit = offset + _IP6.size + length
    if not length and following == _HOP_BY_HOP:  # a jumbogram (RFC 2675)
        limit = len(frame)
    if first >> 28 != 6 or limit > len(frame):
        facts.ip_error = True
        return
    facts.dont_fragment = True
    offset += _IP6.size
    for _ in range(_MOST_EXTENSIONS):
        if following not in _EXTENSIONS:
            break
        facts.options = True
        if len(frame) < offset + 8:
            facts.ip_error = True
            return
        kind, following, size = following, frame[offset], frame[offset + 1]
        later = False
        if kind == _FRAGMENT:
            fragment = int.from_bytes(frame[offset + 2:offset + 4], 'big')
            offset += 8
            later, more = bool(fragment & 0xfff8), bool(fragment & 1)
            facts.fragment |= later or more
            facts.first_fragment |= more and not later
        else:
            offset += (size + 2) * 4 if kind == _AH else (size + 1) * 8
        if offset > min(limit, _FURTHEST):
            facts.ip_error = True
            return
        if later:
            _take_ip6(facts, following, offset, source, destination)
            return
    if following in _EXTENSIONS:
        facts.ip_error = True
        return
    _take_ip6(facts, following, offset, source, destination)
    _read_ports(frame, limit, facts)


def _take_ip6(facts, protocol, offset, source, destination):
    facts.family, facts.protocol, facts.l4_offset = 6, protocol, offset
    facts.source, facts.destination = source, destination


def _read_ports(frame, limit, facts):
    if facts.protocol not in _WITH_PORTS:
        return
    offset, size = facts.l4_offset, 8 if facts.protocol == 17 else 20
    if len(frame) < offset + size:
        facts.transport_error = True
        return
    if facts.protocol == 6:
        size = (frame[offset + 12] >> 4) * 4
        wrong = size < 20
    else:
        whole = int.from_bytes(frame[offset + 4:offset + 6], 'big')
        wrong = whole < size or (not facts.fragment and offset + whole > limit)
    if wrong or offset + size > limit:
        facts.transport_error = True
        return
    facts.source_port, facts.destination_port = struct.unpack_from('>HH', frame, offset)
    facts.payload_offset = offset + size
    facts.ports = True
