"""
A ParameterList of DDSI-RTPS (9.4.2.11) and the values that discovery writes in it (9.6.3).

It comes from the network: any bytes give an answer, in time linear in their number. What cannot
be read is left out, and the rest is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
import ipaddress
import struct

from ipc_bypass.graph.model import Locator

PAD, SENTINEL = 0x0000, 0x0001
DOMAIN_ID = 0x000f
PROTOCOL_VERSION, VENDOR_ID = 0x0015, 0x0016
DEFAULT_UNICAST_LOCATOR, DEFAULT_MULTICAST_LOCATOR = 0x0031, 0x0048
METATRAFFIC_UNICAST_LOCATOR, METATRAFFIC_MULTICAST_LOCATOR = 0x0032, 0x0033
PARTICIPANT_GUID, PROPERTY_LIST, ENTITY_NAME = 0x0050, 0x0059, 0x0062
#: eProsima's product version: four octets.
FAST_PRODUCT_VERSION = 0x8000
#: Cyclone's: three words and more, then text with host, version and pid.
ADLINK_VERSION_INFO = 0x8007

# Bits of a parameter's id: vendor specific and 'must understand' (9.6.3.2).
_MUST_UNDERSTAND = 0x4000
_LOCATOR_BYTES = 24
# Locator kinds: 9.3.2 (UDP), and those of Fast DDS (rtps/common/Locator.hpp): its shared memory
# is 16 plus, from 3.0, its major version.
_LOCATOR_KINDS = {1: 'UDPv4', 2: 'UDPv6', 4: 'TCPv4', 8: 'TCPv6',
                  **dict.fromkeys(range(16, 32), 'SHM')}
#: What is shown of a text, in characters: a name of a megabyte is nobody's.
LONGEST_TEXT = 256
#: Properties that are read of one list.
MOST_PROPERTIES = 64


def parameters(data: bytes | memoryview, little_endian: bool) -> Iterator[tuple[int, memoryview]]:
    """
    Yield (id, value) of a list's parameters, to its sentinel or to the first malformed one.

    :param data: the list, without the encapsulation header
    """
    data = memoryview(data)
    head = struct.Struct('<HH' if little_endian else '>HH').unpack_from
    position = 0
    while position + 4 <= len(data):
        identifier, length = head(data, position)
        position += 4
        if identifier & ~_MUST_UNDERSTAND == SENTINEL or position + length > len(data):
            return
        if identifier & ~_MUST_UNDERSTAND != PAD:
            # The bit is no part of the vendor's number space below 0x8000.
            yield (identifier & ~_MUST_UNDERSTAND if identifier < 0x8000 else identifier,
                   data[position:position + length])
        position += length + (-length & 3)


def text(value: memoryview, little_endian: bool) -> str:
    """Return a CDR string, '' where it is malformed; what cannot be printed becomes '?'."""
    return _text_at(value, 0, little_endian)[0]


def _text_at(value, position, little_endian):
    """Return (text, position after it and its padding), ('', -1) where it is malformed."""
    if position < 0 or position + 4 > len(value):
        return '', -1
    length = int.from_bytes(value[position:position + 4], _order(little_endian))
    end = position + 4 + length
    if end > len(value):
        return '', -1
    shown = bytes(value[position + 4:min(end, position + 4 + LONGEST_TEXT)])
    return printable(shown.rstrip(b'\0').decode(errors='replace')), end + (-length & 3)


def printable(content: str) -> str:
    """Return text of others without what would move a terminal's cursor."""
    return ''.join(letter if letter.isprintable() else '?' for letter in content)


def properties(value: memoryview, little_endian: bool) -> dict[str, str]:
    """Return the name and value pairs of a property list, those that can be read."""
    if len(value) < 4:
        return {}
    count = min(number(value, little_endian), MOST_PROPERTIES)
    found, position = {}, 4
    for _ in range(count):
        name, position = _text_at(value, position, little_endian)
        content, position = _text_at(value, position, little_endian)
        if position < 0:
            break
        found[name] = content
    return found


def number(value: memoryview, little_endian: bool) -> int:
    """Return an unsigned word of 32 bits, 0 where it is too short."""
    return int.from_bytes(value[:4], _order(little_endian)) if len(value) >= 4 else 0


def locator(value: memoryview, little_endian: bool, use: str, multicast: bool) -> Locator | None:
    """Return a locator; None for an invalid or malformed one."""
    if len(value) < _LOCATOR_BYTES:
        return None
    kind, port = struct.unpack_from('<iI' if little_endian else '>iI', value)
    octets = bytes(value[8:_LOCATOR_BYTES])
    if kind <= 0:
        return None
    name = _LOCATOR_KINDS.get(kind, f'kind {kind}')
    if name.startswith('TCP'):
        port &= 0xffff  # Fast DDS keeps its logical port in the upper half
    if name in ('UDPv4', 'TCPv4'):
        address = str(ipaddress.IPv4Address(octets[12:]))
    elif name in ('UDPv6', 'TCPv6'):
        address = str(ipaddress.IPv6Address(octets))
    else:
        address = ''
    return Locator(name, address, port, use, multicast)


def _order(little_endian):
    return 'little' if little_endian else 'big'
