"""
The announcement of a participant: SPDP of DDSI-RTPS (8.5.3, 9.6.2.2).

A parser of what comes from the network: any bytes give an answer, in linear time.
"""

from __future__ import annotations

import re
import struct

from ipc_bypass.graph import parameter_list as plist
from ipc_bypass.graph.model import Participant
from ipc_bypass.rules.rtps_message import HEADER_BYTES, MAGIC, vendor_name

#: Entity id of the writer that announces participants (9.3.1.3).
PARTICIPANT_WRITER = 0x000100c2
#: Locators that are kept of one participant.
MOST_LOCATORS = 64

_DATA, _PAD, _INFO_TS = 0x15, 0x01, 0x09
_INLINE_QOS, _HAS_DATA = 0x02, 0x04
_PL_CDR_BE, _PL_CDR_LE = 0x0002, 0x0003
_FAST, _CYCLONE = 0x010f, 0x0110
_LOCATORS = {
    plist.DEFAULT_UNICAST_LOCATOR: ('user', False),
    plist.DEFAULT_MULTICAST_LOCATOR: ('user', True),
    plist.METATRAFFIC_UNICAST_LOCATOR: ('discovery', False),
    plist.METATRAFFIC_MULTICAST_LOCATOR: ('discovery', True)}


def parse_announcement(payload: bytes | memoryview) -> Participant | None:
    """
    Return the participant that an RTPS message announces, None where it announces none.

    A message that takes a participant back (it has no data) is none either.
    """
    data = memoryview(payload)
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        return None
    position = HEADER_BYTES
    while position + 4 <= len(data):
        kind, flags = data[position], data[position + 1]
        little = bool(flags & 1)
        length = int.from_bytes(data[position + 2:position + 4], 'little' if little else 'big')
        position += 4
        end = position + length
        if not length and kind not in (_PAD, _INFO_TS):
            end = len(data)
        if end > len(data):
            return None
        if kind == _DATA:
            content = _announced(data[position:end], flags, little)
            if content is not None:
                return _participant(data, *content)
        position = end
    return None


def _announced(body, flags, little):
    """Return (parameter list, whether it is little endian) of a DATA submessage, or None."""
    if not flags & _HAS_DATA or len(body) < 20:
        return None
    writer = int.from_bytes(body[8:12], 'big')
    if writer != PARTICIPANT_WRITER:
        return None
    start = 4 + struct.unpack_from('<H' if little else '>H', body, 2)[0]
    if flags & _INLINE_QOS:
        start = _after_list(body, start, little)
    if start + 4 > len(body):
        return None
    scheme = int.from_bytes(body[start:start + 2], 'big')
    if scheme not in (_PL_CDR_BE, _PL_CDR_LE):
        return None
    return body[start + 4:], scheme == _PL_CDR_LE


def _after_list(body, position, little):
    """Return where an inline parameter list ends; the body's end where it does not."""
    head = struct.Struct('<HH' if little else '>HH').unpack_from
    while position + 4 <= len(body):
        identifier, length = head(body, position)
        position += 4
        if identifier == plist.SENTINEL:
            return position
        position += length
    return len(body)


def _participant(message, content, little):
    vendor = int.from_bytes(message[6:8], 'big')
    found = Participant(bytes(message[8:HEADER_BYTES]).hex(), vendor_name(vendor),
                        protocol=f'{message[4]}.{message[5]}')
    for identifier, value in plist.parameters(content, little):
        if identifier in _LOCATORS and len(found.locators) < MOST_LOCATORS:
            locator = plist.locator(value, little, *_LOCATORS[identifier])
            if locator is not None:
                found.locators.append(locator)
        elif identifier == plist.PARTICIPANT_GUID and len(value) >= 12:
            found.guid_prefix = bytes(value[:12]).hex()
        elif identifier == plist.DOMAIN_ID:
            found.domain = plist.number(value, little)
        elif identifier == plist.ENTITY_NAME:
            found.name = plist.text(value, little)
        elif identifier == plist.PROPERTY_LIST:
            _take_properties(found, plist.properties(value, little))
        elif vendor == _FAST and identifier == plist.FAST_PRODUCT_VERSION and len(value) >= 3:
            found.version = '.'.join(str(octet) for octet in value[:3])
        elif vendor == _CYCLONE and identifier == plist.ADLINK_VERSION_INFO:
            _take_version_info(found, plist.text(value[20:], little))
    if vendor == _FAST and not found.said_pid:
        # Fast DDS writes the pid's lower half in the prefix (GuidUtils.hpp); enough for a hint.
        found.said_pid = int.from_bytes(bytes.fromhex(found.guid_prefix)[4:6], 'little')
    return found


def _take_properties(found, named):
    found.host = named.get('fastdds.physical_data.host') or named.get('__Hostname') or \
        named.get('dds.sys_info.hostname') or found.host
    found.user = named.get('fastdds.physical_data.user', found.user)
    pid = named.get('fastdds.physical_data.process') or named.get('__Pid') or \
        named.get('dds.sys_info.process_id') or ''
    if re.fullmatch(r'[0-9]{1,10}', pid):
        found.said_pid = int(pid)


def _take_version_info(found, content):
    """Read Cyclone's 'host/version/system' text."""
    parts = content.split('/')
    found.host = parts[0]
    if len(parts) > 1 and re.match(r'\d+\.\d+', parts[1]):
        found.version = parts[1]
