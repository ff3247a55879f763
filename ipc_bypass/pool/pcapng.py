"""
Write captured datagrams to a pcapng file, with what was left out.

The form is that of the IETF draft "PCAP Now Generic" (draft-ietf-opsawg-pcapng): sections 4.1
(section header), 4.2 (interface description), 4.3 (enhanced packet), 4.6 (interface statistics)
and 3.5 (options). One section, one interface: IP packets (LINKTYPE_RAW) whose headers are built
from the descriptors, times in nanoseconds.

Own code, since of the libraries at hand dpkt 1.9 and scapy 2.8 write microseconds and no
statistics, and python-pcapng 2.1 writes all of it but 23,000 packets a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import contextlib
from dataclasses import dataclass, field
import os
import struct
import time
from typing import BinaryIO

from ipc_bypass.pool.describe import original_lengths
from ipc_bypass.udp.packets import build_parts
import numpy as np

#: IPv4 or IPv6, as the packet's first byte says.
LINKTYPE_RAW = 101
#: Name of the interface in the file.
INTERFACE = 'ipc_bypass'

_SECTION, _INTERFACE, _PACKET, _STATISTICS = 0x0a0d0d0a, 1, 6, 5
_BYTE_ORDER = 0x1a2b3c4d
_UNKNOWN_LENGTH = 0xffffffffffffffff
_END, _COMMENT = 0, 1
_SECTION_OS, _SECTION_APPLICATION = 3, 4
_INTERFACE_NAME, _INTERFACE_DESCRIPTION, _TIME_RESOLUTION = 2, 3, 9
_PACKET_DROPS = 4
_START, _STOP, _RECEIVED, _DROPPED, _OS_DROPPED, _DELIVERED = 2, 3, 4, 5, 7, 8
_NANOSECONDS = b'\x09'  # a negative power of ten

_HEAD = np.dtype([('type', '<u4'), ('total', '<u4'), ('interface', '<u4'), ('time_high', '<u4'),
                  ('time_low', '<u4'), ('captured', '<u4'), ('original', '<u4')])
# What follows a packet without options: bytes up to a multiple of four, and the length again.
_TAILS = tuple(struct.Struct(f'<{-length % 4}xI').pack for length in range(4))
_LENGTH = struct.Struct('<I').pack
_WRITE_AT = 1 << 20
# The wall clock is looked at again with each batch, but followed only where it was set.
_CLOCK_STEP_NS = 1_000_000


@dataclass
class Account:
    """
    What is in a file and what is not, in datagrams.

    :param written: packets in the file
    :param missed: captured, but overwritten before the reader came to them
    :param torn: overwritten while they were read
    :param left_out: read, but not written, by reason
    :param passed: not captured by the kernel program, by reason; of the whole node
    """

    written: int = 0
    missed: int = 0
    torn: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)

    @property
    def lacking(self) -> int:
        """Return how many captured datagrams are not in the file."""
        return self.missed + self.torn + sum(self.left_out.values())

    def text(self) -> str:
        """Return all of it as one line, for example 'written 10, missed 0, torn 0'."""
        parts = [f'written {self.written}', f'missed {self.missed}', f'torn {self.torn}']
        parts += [f'left out: {name} {count}' for name, count in self.left_out.items()]
        parts += [f'passed: {name} {count}' for name, count in self.passed.items() if count]
        return ', '.join(parts)


class WallClock:
    """
    Turns times of CLOCK_MONOTONIC into times since 1970.

    :param monotonic_ns: as of time.monotonic_ns
    :param wall_ns: as of time.time_ns
    """

    def __init__(self, monotonic_ns=time.monotonic_ns, wall_ns=time.time_ns) -> None:
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        # The least of some, since a pause between the two looks makes it larger.
        self.offset_ns = min(self._look() for _ in range(5))

    def update(self) -> None:
        """Follow the wall clock where somebody set it."""
        offset = self._look()
        if abs(offset - self.offset_ns) > _CLOCK_STEP_NS:
            self.offset_ns = min(offset, *(self._look() for _ in range(5)))

    def _look(self) -> int:
        monotonic = self._monotonic_ns()
        return self._wall_ns() - monotonic


class PcapngWriter:
    """
    Writes packets to a binary stream, in large pieces; `flush` brings all of it to the file.

    After each flush the file is whole: it ends with a complete block.

    :param stream: unbuffered, at its beginning; its write() may write less than it is given
    :param snaplen: most bytes of a packet to keep, headers included; 0 for all of them
    :param description: what the interface is, for the file
    :raises OSError: the stream cannot be written to (also each method)
    """

    def __init__(self, stream: BinaryIO, *, snaplen: int = 0, description: str = '') -> None:
        self._stream, self._snaplen = stream, snaplen
        self._parts: list = []
        self._bytes = self._whole = 0
        self._failed = False
        self._started = time.time_ns()
        system = os.uname()
        self._put(_block(_SECTION, struct.pack('<IHHQ', _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH), (
            (_SECTION_OS, f'{system.sysname} {system.release}'.encode()),
            (_SECTION_APPLICATION, b'ipc-bypass record'))))
        self._put(_block(_INTERFACE, struct.pack('<HHI', LINKTYPE_RAW, 0, snaplen), (
            (_INTERFACE_NAME, INTERFACE.encode()), (_INTERFACE_DESCRIPTION, description.encode()),
            (_TIME_RESOLUTION, _NANOSECONDS))))
        self.flush()

    def write_datagrams(self, descriptors: np.ndarray, payloads: Sequence, offset_ns: int, *,
                        drops: int = 0, comments: Iterable[str] | None = None) -> None:
        """
        Add datagrams as IP packets with right checksums.

        :param descriptors: records of pool.layout.DESCRIPTOR, none of them of TCP
        :param payloads: bytes-like, one a record; kept until the next flush
        :param offset_ns: what to add to capture times (CLOCK_MONOTONIC) for the wall clock's
        :param drops: datagrams that are lacking just before the first one
        :param comments: one a record, '' for none
        """
        payloads, originals = list(payloads), original_lengths(descriptors).tolist()
        # Headers tell the whole length; what was not captured counts as zeros, and is not written.
        whole = [payload if len(payload) >= original
                 else bytes(payload) + bytes(original - len(payload))
                 for payload, original in zip(payloads, originals, strict=True)]
        packets = [(head, payload, len(head) + len(payload))
                   for head, payload in build_parts(descriptors, whole)]
        if not packets:
            return
        count = len(packets)
        options = self._options(count, drops, comments)
        lengths = np.fromiter((packet[2] for packet in packets), 'u4', count)
        lacking = np.fromiter(map(len, whole), 'u4', count) - np.fromiter(
            map(len, payloads), 'u4', count)
        kept = np.minimum(lengths - lacking, self._snaplen or 0xffffffff)
        times = descriptors['capture_ns'] + np.uint64(offset_ns)
        heads = np.zeros(count, _HEAD)
        heads['type'], heads['captured'], heads['original'] = _PACKET, kept, lengths
        heads['time_high'], heads['time_low'] = times >> np.uint64(32), times
        heads['total'] = _HEAD.itemsize + 4 + (kept + 3 & ~np.uint32(3))
        for place, option in options.items():
            heads['total'][place] += len(option)
        data, size = memoryview(heads.tobytes()), _HEAD.itemsize
        add = self._parts.append
        totals, kept = heads['total'].tolist(), kept.tolist()
        for place, (head, payload, length) in enumerate(packets):
            add(data[place * size:(place + 1) * size])
            keep = kept[place]
            if keep < length:
                head, payload = head[:keep], payload[:max(0, keep - len(head))]
            add(head)
            add(payload)
            if place in options:
                add(bytes(-keep % 4) + options[place] + _LENGTH(totals[place]))
            else:
                add(_TAILS[keep & 3](totals[place]))
        self._bytes += sum(totals)
        if self._bytes >= _WRITE_AT:
            self.flush()

    def write_statistics(self, account: Account) -> None:
        """
        Add a statistics block: what came, what of it is not here, and why.

        isb_ifrecv counts what the kernel program saw, isb_osdrop what it let pass, isb_ifdrop
        what it captured and the file lacks, isb_usrdeliv what is in the file; a comment says all
        of it by reason.
        """
        passed = sum(account.passed.values())
        counters = ((_RECEIVED, account.written + account.lacking + passed),
                    (_DROPPED, account.lacking), (_OS_DROPPED, passed),
                    (_DELIVERED, account.written))
        now = time.time_ns()
        self._put(_block(_STATISTICS, struct.pack('<I', 0) + _time(now), (
            (_COMMENT, account.text().encode()), (_START, _time(self._started)),
            (_STOP, _time(now)),
            *((option, struct.pack('<Q', value)) for option, value in counters))))

    def flush(self) -> None:
        """
        Write all that was added; payloads may change from then on.

        Where that fails, the file is cut back to the last flush and nothing more is written.
        """
        data = memoryview(b''.join(self._parts))
        self._parts, self._bytes = [], 0
        if self._failed:
            return
        try:
            rest = data
            while len(rest):
                rest = rest[self._stream.write(rest):]
        except BaseException:
            self._failed = True
            with contextlib.suppress(OSError):
                self._stream.truncate(self._whole)
            raise
        self._whole += len(data)

    def _put(self, block: bytes) -> None:
        self._parts.append(block)
        self._bytes += len(block)

    @staticmethod
    def _options(count: int, drops: int, comments: Iterable[str] | None) -> dict[int, bytes]:
        """Return {place: options} of the packets that have some."""
        found = {}
        texts = [''] * count if comments is None else comments
        first = ((_PACKET_DROPS, struct.pack('<Q', drops)),) if drops else ()
        for place, text in enumerate(texts):
            options = (() if place else first) + (((_COMMENT, text.encode()),) if text else ())
            if options:
                found[place] = _encoded(options)
            elif comments is None:
                break
        return found


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a block with its length at both ends."""
    content = body + _encoded(options)
    total = len(content) + 12
    return struct.pack('<II', kind, total) + content + _LENGTH(total)


def _encoded(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Return options, each up to a multiple of four bytes, and the end of options."""
    return b''.join(struct.pack('<HH', code, len(value)) + value + bytes(-len(value) % 4)
                    for code, value in options if value) + struct.pack('<HH', _END, 0)


def _time(nanoseconds: int) -> bytes:
    """Return a time as a high and a low word."""
    return struct.pack('<II', nanoseconds >> 32 & 0xffffffff, nanoseconds & 0xffffffff)
