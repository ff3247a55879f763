"""The announcement of a participant: real ones, and any bytes."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from ipc_bypass.graph import parameter_list as plist
from ipc_bypass.graph.model import Locator
from ipc_bypass.graph.spdp import MOST_LOCATORS, parse_announcement, PARTICIPANT_WRITER
import pytest

PREFIX = bytes.fromhex('010f78fd341c2a0100000000')
ORDERS = {'<': 1, '>': 0}


def text(content, order):
    data = content.encode() + b'\0'
    return struct.pack(f'{order}I', len(data)) + data + bytes(-len(data) % 4)


def parameter(identifier, value, order):
    value += bytes(-len(value) % 4)
    return struct.pack(f'{order}HH', identifier, len(value)) + value


def locator(kind, port, address, order):
    return struct.pack(f'{order}iI', kind, port) + bytes(12) + bytes(address)


def message(content, order='<', *, vendor=0x010f, before=b'', writer=PARTICIPANT_WRITER, flags=4,
            inline=b''):
    """Return an RTPS message with one DATA submessage."""
    scheme = {'<': b'\0\3\0\0', '>': b'\0\2\0\0'}[order]
    body = struct.pack(f'{order}HH', 0, 16) + struct.pack('>II', 0, writer) + struct.pack(
        f'{order}iI', 0, 1) + inline + scheme + content
    head = struct.pack(f'{order}BBH', 0x15, flags | ORDERS[order], len(body))
    return b'RTPS\2\2' + struct.pack('>H', vendor) + PREFIX + before + head + body


def fast(order):
    """Return what Fast DDS 3 announces."""
    named = b''.join(text(part, order) for part in (
        'fastdds.physical_data.process', '4711', 'fastdds.physical_data.user', 'robot'))
    return b''.join((
        parameter(plist.DOMAIN_ID, struct.pack(f'{order}I', 61), order),
        parameter(plist.FAST_PRODUCT_VERSION, bytes((3, 2, 2, 0)), order),
        parameter(plist.ENTITY_NAME, text('talker\x1b[2J', order), order),
        parameter(plist.DEFAULT_UNICAST_LOCATOR, locator(1, 22661, (10, 0, 0, 7), order), order),
        parameter(plist.DEFAULT_UNICAST_LOCATOR, locator(19, 22661, (0,) * 4, order), order),
        parameter(plist.METATRAFFIC_UNICAST_LOCATOR,
                  locator(4, 7 << 16 | 7412, (10, 0, 0, 7), order), order),
        parameter(plist.PROPERTY_LIST, struct.pack(f'{order}I', 2) + named, order),
        parameter(plist.SENTINEL, b'', order)))


@pytest.mark.parametrize('order', ORDERS)
def test_an_announcement_of_fast_dds(order):
    found = parse_announcement(message(fast(order), order))
    assert (found.guid_prefix, found.vendor, found.version, found.domain) == (
        PREFIX.hex(), 'Fast DDS', '3.2.2', 61)
    assert (found.said_pid, found.user, found.name) == (4711, 'robot', 'talker?[2J')
    assert found.locators == [
        Locator('UDPv4', '10.0.0.7', 22661), Locator('SHM', '', 22661),
        Locator('TCPv4', '10.0.0.7', 7412, 'discovery')]


@pytest.mark.parametrize('order', ORDERS)
def test_submessages_and_inline_qos_before_it_are_passed_over(order):
    before = struct.pack(f'{order}BBH', 0x09, ORDERS[order], 8) + bytes(8)
    inline = parameter(0x0070, bytes(16), order) + parameter(plist.SENTINEL, b'', order)
    found = parse_announcement(message(fast(order), order, before=before, inline=inline, flags=6))
    assert found.said_pid == 4711


def test_what_announces_nobody():
    assert parse_announcement(message(fast('<'), writer=0x000003c2)) is None
    assert parse_announcement(message(fast('<'), flags=8)) is None  # it takes one back
    assert parse_announcement(b'HTTP' + bytes(60)) is None
    assert parse_announcement(b'') is None


def test_a_flood_of_locators_is_bounded():
    content = parameter(plist.DEFAULT_UNICAST_LOCATOR, locator(1, 1, (1, 2, 3, 4), '<'), '<') * 999
    assert len(parse_announcement(message(content)).locators) == MOST_LOCATORS


@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer(data):
    parse_announcement(data)
    parse_announcement(b'RTPS' + data)


@given(st.binary(max_size=300), st.sampled_from('<>'), st.sampled_from((0x010f, 0x0110, 0x0101)),
       st.integers(0, 255))
def test_any_parameter_list_gives_an_answer(content, order, vendor, flags):
    parse_announcement(message(content, order, vendor=vendor, flags=flags & 0xfe))


@given(st.data(), st.sampled_from('<>'))
def test_a_cut_or_changed_announcement_gives_an_answer(data, order):
    whole = bytearray(message(fast(order), order))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    parse_announcement(whole[:data.draw(st.integers(0, len(whole)))])
    found = parse_announcement(whole)
    assert found is None or all(character.isprintable() for character in found.name)


@given(st.lists(st.tuples(st.sampled_from((0x0031, 0x0059, 0x0062, 0x8000)),
                          st.binary(max_size=40)), max_size=8), st.sampled_from('<>'))
def test_a_list_is_read_as_it_was_written(parts, order):
    data = b''.join(parameter(identifier, value, order) for identifier, value in parts)
    found = [(identifier, bytes(value)) for identifier, value in
             plist.parameters(data, order == '<')]
    assert found == [(identifier, value + bytes(-len(value) % 4)) for identifier, value in parts]
