"""
What an RTPS message says of itself: its sender, its submessages and their writers.

By DDSI-RTPS 2.5, 8.3 and 9.4. Only headers are read, and nothing of a sample's content. A parser
of what comes from the network: any bytes give an answer, in time linear in their number.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b'RTPS'
#: Magic, version, vendor, guid prefix (9.4.4).
HEADER_BYTES = 20
#: Why the rest of a message was not read.
SHORT_HEADER = 'short_header'
SUBMESSAGE_LENGTH = 'submessage_length'  # it says that it is longer than the message
SHORT_SUBMESSAGE = 'short_submessage'  # it is shorter than its own fields
STRAY_BYTES = 'stray_bytes'  # too few bytes for one more submessage

#: Kinds by number: 9.4.5.1.1, DDS Security 1.1 7.3.6.2 (SEC_*) and RTPS 2.5's header extension.
KINDS = {
    0x00: 'HEADER_EXTENSION', 0x01: 'PAD', 0x06: 'ACKNACK', 0x07: 'HEARTBEAT', 0x08: 'GAP',
    0x09: 'INFO_TS', 0x0c: 'INFO_SRC', 0x0d: 'INFO_REPLY_IP4', 0x0e: 'INFO_DST',
    0x0f: 'INFO_REPLY', 0x12: 'NACK_FRAG', 0x13: 'HEARTBEAT_FRAG', 0x15: 'DATA',
    0x16: 'DATA_FRAG', 0x30: 'SEC_BODY', 0x31: 'SEC_PREFIX', 0x32: 'SEC_POSTFIX',
    0x33: 'SRTPS_PREFIX', 0x34: 'SRTPS_POSTFIX'}
#: Vendors by number, from the list that the DDS Foundation keeps.
VENDORS = {
    0x0101: 'RTI Connext', 0x0102: 'OpenSplice', 0x0103: 'OpenDDS', 0x0104: 'MilDDS',
    0x0105: 'InterCOM', 0x0106: 'CoreDX', 0x0107: 'Lakota', 0x0108: 'ICOUP', 0x0109: 'ETRI',
    0x010a: 'RTI Connext Micro', 0x010b: 'Vortex Cafe', 0x010c: 'Vortex Gateway',
    0x010d: 'Vortex Lite', 0x010e: 'Qeo', 0x010f: 'Fast DDS', 0x0110: 'Cyclone DDS',
    0x0111: 'GurumDDS', 0x0112: 'RustDDS', 0x0113: 'ZRDDS', 0x0114: 'Dust DDS',
    0x0120: 'Vortex Cloud'}
#: Entities that every participant has (9.3.1.3).
BUILTIN_ENTITIES = {
    0x000001c1: 'participant', 0x000002c2: 'topics', 0x000002c7: 'topics',
    0x000003c2: 'publications', 0x000003c7: 'publications', 0x000004c2: 'subscriptions',
    0x000004c7: 'subscriptions', 0x000100c2: 'participants', 0x000100c7: 'participants',
    0x000200c2: 'liveliness', 0x000200c7: 'liveliness'}

# Kinds that may have no content: length 0 means that, and not 'to the end' (9.4.5.1.3).
_PAD, _INFO_TS = 0x01, 0x09
_INFO_SRC, _INFO_DST = 0x0c, 0x0e
# Where (reader, writer, sequence number) stand in a submessage's content (9.4.5). DATA and
# DATA_FRAG have extra flags and the offset of the inline QoS before them. The number is the
# sample's own, a GAP's first missing one, the first that a HEARTBEAT's writer still has, or the
# first that an ACKNACK's reader lacks.
_NUMBERED = {0x15: 4, 0x16: 4, 0x06: 0, 0x07: 0, 0x08: 0, 0x12: 0, 0x13: 0}
# A sequence number is a signed high and an unsigned low word (9.3.2).
_WORDS = {True: struct.Struct('<iI').unpack_from, False: struct.Struct('>iI').unpack_from}
_TIME = {True: struct.Struct('<II').unpack_from, False: struct.Struct('>II').unpack_from}
_LENGTH = {True: struct.Struct('<H').unpack_from, False: struct.Struct('>H').unpack_from}
# Entity ids are octets, not numbers: their order is the same in both endiannesses (9.2.2).
_ENTITIES = struct.Struct('>II').unpack_from
_VERSION = struct.Struct('>BBH').unpack_from
_INVALIDATE = 0x02
_TIME_INVALID = 0xffffffff, 0xffffffff


class Submessage(NamedTuple):
    """
    One submessage. A member that its kind does not have, or that was cut off, is None.

    :param kind: name from KINDS, or 'VENDOR_0x80' (9.4.5.1.1 leaves 0x80 and up to vendors) or
        'UNKNOWN_0x40'
    :param number: the kind's number
    :param little_endian: how its numbers are written
    :param length: bytes of content, as said in its header; to the message's end where it says 0
    :param reader: entity id as a number, 0 for any reader
    :param writer: entity id as a number
    :param sequence: the sample's number, a GAP's first one, a HEARTBEAT's first one, or the
        first one that an ACKNACK lacks
    :param timestamp: of INFO_TS, nanoseconds since 1970; None also where it takes it back
    :param prefix: 12 bytes: whom INFO_DST means, or for whom INFO_SRC speaks
    """

    kind: str
    number: int
    little_endian: bool
    length: int
    reader: int | None = None
    writer: int | None = None
    sequence: int | None = None
    timestamp: int | None = None
    prefix: bytes | None = None


class RtpsMessage(NamedTuple):
    """
    The facts of one message.

    :param version: (major, minor) of the protocol
    :param vendor_id: the vendor's number
    :param vendor: its name, 'vendor 0x0199' for one that VENDORS does not have
    :param guid_prefix: 12 bytes that name the sending participant
    :param submessages: those that could be read
    :param truncated: whether the payload was cut off before the message's end
    :param error: why the rest was not read, '' where all of it was
    """

    version: tuple[int, int]
    vendor_id: int
    vendor: str
    guid_prefix: bytes
    submessages: tuple[Submessage, ...]
    truncated: bool = False
    error: str = ''

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of the submessages, in their order."""
        return [submessage.kind for submessage in self.submessages]

    @property
    def carrier(self) -> Submessage | None:
        """Return the submessage that says most: the first sample, else the first with a writer."""
        numbered = [found for found in self.submessages if found.writer is not None]
        samples = (found for found in numbered if found.number in (0x15, 0x16))
        return next(samples, numbered[0] if numbered else None)


def parse_rtps(payload: bytes | memoryview, length: int | None = None) -> RtpsMessage | None:
    """
    Return the facts of an RTPS message, or None where the payload does not begin as one.

    :param payload: the bytes that are there
    :param length: bytes of the whole datagram, where the payload is only its beginning
    """
    data = memoryview(payload)
    here = len(data)
    if data[:4] != MAGIC:
        return None
    whole = here if length is None else max(length, here)
    cut = whole > here
    if here < HEADER_BYTES:
        return RtpsMessage((0, 0), 0, vendor_name(0), bytes(12), (), cut,
                           '' if cut else SHORT_HEADER)
    major, minor, vendor = _VERSION(data, 4)
    found: list[Submessage] = []
    error = _read_submessages(data, here, whole, found.append)
    return RtpsMessage((major, minor), vendor, VENDORS.get(vendor) or vendor_name(vendor),
                       bytes(data[8:HEADER_BYTES]), tuple(found), cut, error)


def vendor_name(number: int) -> str:
    """Return a vendor's name, for example 'Cyclone DDS' for 0x0110."""
    return VENDORS.get(number) or f'vendor 0x{number:04x}'


def entity_name(number: int) -> str:
    """Return what a built-in entity is about, else its number as eight hexadecimal digits."""
    return BUILTIN_ENTITIES.get(number) or f'{number:08x}'


def kind_name(number: int) -> str:
    """Return the name of a submessage kind, for example 'DATA' for 0x15."""
    return KINDS.get(number) or f"{'VENDOR' if number & 0x80 else 'UNKNOWN'}_0x{number:02x}"


def _read_submessages(data, here, whole, add):
    """Call `add` with each submessage; return the name of what ended it before the end, or ''."""
    position = HEADER_BYTES
    while position + 4 <= here:
        number, flags = data[position], data[position + 1]
        little = bool(flags & 1)
        length, = _LENGTH[little](data, position + 2)
        position += 4
        end = position + length
        if not length and number not in (_PAD, _INFO_TS):
            end, length = whole, whole - position
        elif end > whole:
            return SUBMESSAGE_LENGTH
        last = min(end, here)
        kind = KINDS.get(number) or kind_name(number)
        at = _NUMBERED.get(number)
        complete = True
        if at is not None:
            at += position
            complete = at + 16 <= last
            reader = writer = sequence = None
            if at + 8 <= last:
                reader, writer = _ENTITIES(data, at)
            if complete:
                high, low = _WORDS[little](data, at + 8)
                sequence = (high << 32) + low
            add(Submessage(kind, number, little, length, reader, writer, sequence))
        elif number == _INFO_TS:
            stamp = None
            if not flags & _INVALIDATE:
                complete = position + 8 <= last
                if complete:
                    stamp = _nanoseconds(*_TIME[little](data, position))
            add(Submessage(kind, number, little, length, timestamp=stamp))
        elif number in (_INFO_DST, _INFO_SRC):
            # Before INFO_SRC's prefix stand four unused bytes, a version and a vendor.
            at = position if number == _INFO_DST else position + 8
            complete = at + 12 <= last
            add(Submessage(kind, number, little, length,
                           prefix=bytes(data[at:at + 12]) if complete else None))
        else:
            add(Submessage(kind, number, little, length))
        if not complete and end <= here:
            return SHORT_SUBMESSAGE
        position = end
    return STRAY_BYTES if position < here and here == whole else ''


def _nanoseconds(seconds, fraction):
    """Return a time of 32.32 bits as nanoseconds, None for TIME_INVALID (9.3.2.1)."""
    if (seconds, fraction) == _TIME_INVALID:
        return None
    return seconds * 1_000_000_000 + (fraction * 1_000_000_000 >> 32)
