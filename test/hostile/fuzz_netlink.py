"""Answers of netlink: truncated, looped, of wrong lengths."""

import struct

from ipc_bypass.xdp import interfaces, netlink
from ipc_bypass.xdp.fast_path import rtnetlink
from ipc_bypass.xdp.netlink import attribute, nested

_PARSERS = (interfaces.parse, rtnetlink.parse_link, rtnetlink.parse_address,
            rtnetlink.parse_neighbour, rtnetlink.family_and_index, rtnetlink.port_of,
            rtnetlink.index_of_control)


def message(kind, body, *, flags=2, sequence=1):
    """Return a message with its header."""
    return struct.pack('=IHHII', 16 + len(body), kind, flags, sequence, 0) + body + \
        bytes(-len(body) % 4)


def seeds():
    """Yield answers as the kernel gives them, several messages in one."""
    link = struct.pack('=BxHiII', 0, 1, 7, 1, 0) + attribute(3, b'veth0\0') + attribute(4, 1500) \
        + attribute(1, bytes(6)) + nested(18, attribute(1, b'veth\0'), nested(
            5, attribute(1, b'\3'), attribute(33, b'\0'))) + attribute(5, 8) + attribute(10, 3) \
        + nested(43, attribute(2, b'\4'), attribute(5, 17), attribute(4, 17)) + attribute(37, -1)
    address = struct.pack('=BBBBI', 2, 24, 0x80, 0, 7) + attribute(1, b'\x0a\0\0\1') \
        + attribute(2, b'\x0a\0\0\1') + attribute(8, 0x80)
    neighbour = struct.pack('=BxxxiHBB', 7, 7, 0x80, 0, 0) + attribute(2, bytes(6)) \
        + attribute(9, 3)
    control = struct.pack('=BxxxiIII', 0, 7, 1, 0xfffffff1, 0) + attribute(1, b'clsact\0')
    refusal = struct.pack('=i', -16) + struct.pack('=IHHII', 16, 0, 0, 0, 0) \
        + attribute(1, b'somebody else is there\0')
    bodies = {16: link, 20: address, 28: neighbour, 36: control, 2: refusal, 3: bytes(4)}
    for kind, body in bodies.items():
        yield message(kind, body, flags=0x202)
    yield b''.join(message(kind, body) for kind, body in bodies.items())


def _walked(data):
    """Yield (type, flags, body) up to the end, or to what is cut off."""
    try:
        for kind, flags, _sequence, body in netlink.messages(data):
            yield kind, flags, body
    except netlink.NetlinkError:
        return


def one(data):
    """Walk the messages; whatever one holds is read or refused as a NetlinkError."""
    total = 0
    for kind, flags, body in _walked(data):
        total += 1
        for parse in _PARSERS:
            try:
                parse(body)
            except netlink.NetlinkError:
                pass
        for offset in (0, 16):
            said = netlink.attributes(body, offset)
            assert sum(map(len, said.values())) <= len(body)
            for value in said.values():
                netlink.text_of(value).encode('utf-8', 'surrogateescape')
                netlink.attributes(value)
        if kind == 2:
            try:
                netlink._raise_refusal(flags, body)
            except OSError as error:
                assert str(error)
    assert total <= len(data) // 16
