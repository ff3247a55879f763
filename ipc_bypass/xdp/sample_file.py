"""
Write samples to a pcapng file: whole interfaces, real times, the beginning of each packet.

The form is that of pool.pcapng, whose blocks it shares: one interface description (section 4.2 of
draft-ietf-opsawg-pcapng) for each interface, packets with their queue (epb_queue, section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import os
import struct
import time
from typing import BinaryIO

from ipc_bypass.pool.pcapng import _block, _time
from ipc_bypass.xdp.sampler import Sample, SamplerStatus

LINKTYPE_ETHERNET = 1
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0a0d0d0a, 1, 5, 6
_BYTE_ORDER, _UNKNOWN_LENGTH, _NANOSECONDS = 0x1a2b3c4d, 0xffffffffffffffff, b'\x09'
_COMMENT, _SECTION_OS, _SECTION_APPLICATION = 1, 3, 4
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_DROPS, _QUEUE = 4, 6
_START, _STOP, _RECEIVED, _DROPPED, _ACCEPTED, _DELIVERED = 2, 3, 4, 5, 6, 8


@dataclass
class InterfaceAccount:
    """
    What is in a file of one interface, and what is not; packets since the capture began.

    :param seen: that the sampler saw
    :param selected: that it took
    :param lost: taken, and not here since the ring buffer was full
    :param written: in the file
    """

    seen: int = 0
    selected: int = 0
    lost: int = 0
    written: int = 0

    def text(self) -> str:
        """Return it as one line."""
        return (f'{self.written} written, {self.lost} lost (ring buffer full); the sampler took '
                f'{self.selected} of {self.seen}')


class SampleWriter:
    """
    Writes samples of any number of interfaces to a binary stream.

    After each flush() the file is whole: it ends with a complete block.

    :param stream: unbuffered, at its beginning; its write() may write less than it is given
    :raises OSError: the stream cannot be written to (also each method)
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._parts = stream, bytearray()
        self._interfaces: list[InterfaceAccount] = []
        self._begun: list[tuple[SamplerStatus, int]] = []
        self._started = time.time_ns()
        system = os.uname()
        self._parts += _block(
            _SECTION, struct.pack('<IHHQ', _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH), (
                (_SECTION_OS, f'{system.sysname} {system.release}'.encode()),
                (_SECTION_APPLICATION, b'ipc-bypass xdp capture')))
        self.flush()

    def add_interface(self, name: str, status: SamplerStatus, description: str = '') -> int:
        """
        Return the number in the file of an interface, from which packets come now.

        :param status: its sampler's: counters begin with it
        """
        self._parts += _block(
            _INTERFACE, struct.pack('<HHI', LINKTYPE_ETHERNET, 0, status.settings.snap), (
                (_NAME, name.encode()), (_DESCRIPTION, description.encode()),
                (_RESOLUTION, _NANOSECONDS)))
        self._interfaces.append(InterfaceAccount())
        self._begun.append((status, 0))
        return len(self._interfaces) - 1

    def write(self, number: int, samples: Iterable[Sample], offset_ns: int) -> None:
        """
        Add the samples of an interface, each with its queue and what it stands for.

        :param offset_ns: what to add to their times (CLOCK_MONOTONIC) for the wall clock's
        """
        account = self._interfaces[number]
        begun, told = self._begun[number]
        for sample in samples:
            options: tuple = ((_QUEUE, struct.pack('<I', sample.queue)),)
            if account.lost > told:
                options += ((_DROPS, struct.pack('<Q', account.lost - told)),)
                told = account.lost
            comment = f'queue {sample.queue}'
            if sample.every > 1:
                comment += f', 1 in {sample.every}'
            if sample.rule:
                comment += f', rule {sample.rule}'
            options += ((_COMMENT, comment.encode()),)
            captured, stamp = len(sample.data), sample.time_ns + offset_ns
            self._parts += _block(
                _PACKET, struct.pack('<I', number) + _time(stamp)
                + struct.pack('<II', captured, sample.length) + sample.data
                + bytes(-captured % 4), options)
            account.written += 1
        self._begun[number] = begun, told

    def update(self, number: int, status: SamplerStatus) -> InterfaceAccount:
        """Take an interface's counters over into its account, and return that."""
        account, (begun, _) = self._interfaces[number], self._begun[number]
        account.seen = status.seen - begun.seen
        account.selected = status.selected - begun.selected
        account.lost = status.readers['capture'].full - begun.readers['capture'].full
        return account

    def write_statistics(self) -> None:
        """Add a statistics block (section 4.6) for each interface, as its account is now."""
        now = time.time_ns()
        for number, account in enumerate(self._interfaces):
            counters = ((_RECEIVED, account.seen), (_ACCEPTED, account.selected),
                        (_DROPPED, account.lost), (_DELIVERED, account.written))
            self._parts += _block(_STATISTICS, struct.pack('<I', number) + _time(now), (
                (_COMMENT, account.text().encode()), (_START, _time(self._started)),
                (_STOP, _time(now)),
                *((option, struct.pack('<Q', value)) for option, value in counters)))

    def flush(self) -> None:
        """Write all that was added."""
        data, self._parts = memoryview(bytes(self._parts)), bytearray()
        while len(data):
            data = data[self._stream.write(data):]
