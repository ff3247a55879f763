"""
Answers to packets that are too big, as bpf/xdp_too_big.bpf.h builds them.

ICMP 3/4 with the next hop's MTU (RFC 1191, 4) and ICMPv6 type 2 (RFC 4443, 3.2). The answer comes
from the address that the packet was sent to, and is never longer than 576 (RFC 1812, 4.3.2.3) or
1,280 bytes (RFC 4443, 2.4 (c)).
"""

from __future__ import annotations

from collections.abc import Callable
import struct

from ipc_bypass.xdp.filter.headers import Facts

QUOTE4, QUOTE6 = 548, 1232
_ICMP, _ICMP6 = 1, 58
_ICMP_ERRORS = (3, 4, 5, 11, 12)
_REDIRECT6 = 137
_DF, _CONTROL = 0x4000, 0xc0


def answer_too_big(frame: bytes | memoryview, facts: Facts, mtu: int,
                   may_answer: Callable[[], bool]) -> tuple[str, bytes]:
    """Return (outcome, frame to send back), ('', b'') for a packet that is not too big."""
    start = facts.l3_offset
    if len(frame) <= start + mtu:
        return '', b''
    if facts.family == 4:
        length = int.from_bytes(frame[start + 2:start + 4], 'big')
    else:
        payload = int.from_bytes(frame[start + 4:start + 6], 'big')
        # 0: a jumbogram (RFC 2675), whose length stands in an option.
        length = payload + 40 if payload else len(frame) - start
    if length <= mtu:
        return '', b''
    if not answerable(frame, facts):
        return 'ptb_suppressed', b''
    if not may_answer():
        return 'ptb_rate_limited', b''
    quote = bytes(frame[start:start + (QUOTE4 if facts.family == 4 else QUOTE6)])
    body = _answer4(facts, quote, mtu) if facts.family == 4 else _answer6(facts, quote, mtu)
    return 'ptb_sent_count', bytes(frame[6:12]) + bytes(frame[:6]) + bytes(frame[12:start]) + body


def answerable(frame: bytes | memoryview, facts: Facts) -> bool:
    """Return whether RFC 1122, 3.2.2 and RFC 4443, 2.4 (e) allow an answer."""
    if facts.multicast or frame[6] & 1 or (facts.fragment and not facts.first_fragment):
        return False
    source, destination = facts.source, facts.destination
    if facts.family == 4:
        if any(address[0] in (0, 127) or address[0] >= 224 for address in (source, destination)):
            return False
    elif source[0] == 0xff or destination[0] == 0xff or int.from_bytes(source, 'big') <= 1:
        return False
    if facts.protocol not in (_ICMP, _ICMP6):
        return True
    if not facts.l4_offset or len(frame) <= facts.l4_offset:
        return False
    kind = frame[facts.l4_offset]
    if facts.protocol == _ICMP:
        return kind not in _ICMP_ERRORS
    return kind >= 128 and kind != _REDIRECT6


def checksum(data: bytes) -> int:
    """Return what RFC 1071 calls the Internet checksum, of an even number of bytes."""
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def _answer4(facts, quote, mtu):
    def header(value):
        return struct.pack('>BBHHHBBH4s4s', 0x45, _CONTROL, 28 + len(quote), 0, _DF, 64, _ICMP,
                           value, facts.destination, facts.source)

    def message(value):
        return struct.pack('>BBHHH', 3, 4, value, 0, mtu) + quote
    return header(checksum(header(0))) + message(checksum(message(0)))


def _answer6(facts, quote, mtu):
    length = 8 + len(quote)

    def message(value):
        return struct.pack('>BBHI', 2, 0, value, mtu) + quote
    pseudo = facts.destination + facts.source + struct.pack('>II', length, _ICMP6)
    return (struct.pack('>IHBB', 6 << 28, length, _ICMP6, 64) + facts.destination + facts.source
            + message(checksum(pseudo + message(0))))
