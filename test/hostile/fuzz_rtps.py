"""RTPS messages, announcements of participants, and what is published of both."""

from dataclasses import asdict
import json
import struct

from ipc_bypass.graph import parameter_list as plist
from ipc_bypass.graph.listener import _udp_payload
from ipc_bypass.graph.spdp import MOST_LOCATORS, parse_announcement, PARTICIPANT_WRITER
from ipc_bypass.rules.rtps_message import parse_rtps

_HEADER = b'RTPS\x02\x03\x01\x0f' + bytes(range(12))


def submessage(kind, body, *, flags=1, length=None):
    """Return a submessage, little endian unless the flags say otherwise."""
    order = '<' if flags & 1 else '>'
    return struct.pack(f'{order}BBH', kind, flags, len(body) if length is None else length) + body


def parameter(identifier, value):
    """Return a parameter of a list, little endian."""
    return struct.pack('<HH', identifier, len(value)) + value


def _announcement():
    text = b'robot\0\0\0'
    locator = struct.pack('<iI', 1, 7411) + bytes(12) + b'\x0a\0\0\1'
    pair = b''.join(struct.pack('<I', len(part)) + part for part in (
        b'fastdds.physical_data.process\0\0\0', b'4711\0\0\0\0'))
    parameters = b''.join((
        parameter(plist.PARTICIPANT_GUID, bytes(16)), parameter(plist.DOMAIN_ID, bytes(4)),
        parameter(plist.DEFAULT_UNICAST_LOCATOR, locator),
        parameter(plist.ENTITY_NAME, struct.pack('<I', 6) + text),
        parameter(plist.PROPERTY_LIST, struct.pack('<I', 1) + pair),
        parameter(plist.FAST_PRODUCT_VERSION, bytes((3, 2, 2, 0))),
        parameter(plist.SENTINEL, b'')))
    return struct.pack('<HHIIiI', 0, 16, 0, 0, 0, 1)[:4] + struct.pack(
        '>II', 0x000100c7, PARTICIPANT_WRITER) + struct.pack('<iI', 0, 1) + \
        b'\0\x03\0\0' + parameters


def seeds():
    """Yield whole messages of many kinds."""
    numbered = bytes(4) + struct.pack('>II', 0x104, 0x103) + struct.pack('<iI', 0, 7)
    yield _HEADER
    yield _HEADER + submessage(0x09, bytes(8)) + submessage(0x15, bytes(4) + numbered, flags=5)
    yield _HEADER + submessage(0x0e, bytes(12)) + submessage(0x07, numbered[4:] + bytes(12))
    yield _HEADER + submessage(0x06, numbered[4:] + bytes(8)) + submessage(0x01, b'')
    yield _HEADER + submessage(0x16, bytes(40), flags=0) + submessage(0x30, bytes(20))
    yield _HEADER + submessage(0x15, _announcement(), flags=5)
    yield _HEADER + submessage(0x09, bytes(8)) + submessage(0x15, _announcement(), flags=5,
                                                            length=0)
    yield b'\x45\0' + bytes(26) + _HEADER + submessage(0x15, _announcement(), flags=5)


def one(data):
    """Try bytes as a whole message, as the beginning of a longer one, and as a packet."""
    whole = parse_rtps(data)
    cut = parse_rtps(data[:len(data) // 2], len(data))
    for found in (whole, cut):
        if found is not None:
            assert len(found.submessages) <= len(data) // 4
            assert all(each.length >= 0 for each in found.submessages)
            assert len(found.guid_prefix) == 12 and found.kinds is not None
            assert found.carrier is None or found.carrier.writer is not None
    assert (whole is None) == (data[:4] != b'RTPS')
    for payload in (data, _udp_payload(data)):
        participant = parse_announcement(payload)
        if participant is not None:
            assert len(participant.locators) <= MOST_LOCATORS
            text = json.dumps(asdict(participant))
            text.encode()
            assert all(letter.isprintable() for letter in participant.name + participant.host)
