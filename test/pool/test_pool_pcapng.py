"""The pcapng file: its blocks read back by hand, and what happens where it cannot be written."""

import errno
import io
import struct

from ipc_bypass.pool import layout
from ipc_bypass.pool.pcapng import Account, LINKTYPE_RAW, PcapngWriter, WallClock
from ipc_bypass.udp.packets import parse_packet
import numpy as np
import pytest
from support.pcapng_blocks import blocks

OFFSET = 1_800_000_000_000_000_000
ACCOUNT = Account(written=2, missed=3, torn=4, left_out={'tcp': 5},
                  passed={'pool_full': 6, 'no_consumer': 0, 'fragment': 1})


def records(lengths, family=4):
    """Return descriptors of datagrams of so many bytes, and their payloads."""
    found = np.zeros(len(lengths), layout.DESCRIPTOR)
    found['length'], found['family'] = lengths, family
    found['source_address'][:, 10:] = (255, 255, 127, 0, 0, 1)
    found['destination_address'][:, 10:] = (255, 255, 127, 0, 0, 2)
    found['source_port'], found['destination_port'] = 40000, 7411
    found['capture_ns'] = 1_000_000_007 + np.arange(len(lengths))
    return found, [bytes(range(256)) * (length // 256) + bytes(range(length % 256))
                   for length in lengths]


def written(use, **options_of_writer):
    """Return the blocks of a file after `use(writer)`."""
    stream = io.BytesIO()
    writer = PcapngWriter(stream, **options_of_writer)
    use(writer)
    writer.flush()
    return list(blocks(stream.getvalue()))


def test_section_and_interface():
    (section, interface) = written(lambda writer: None, snaplen=100, description='what it is')
    assert section[0] == 0x0a0d0d0a
    assert struct.unpack('<IHHq', section[1]) == (0x1a2b3c4d, 1, 0, -1)
    assert section[2][4] == b'ipc-bypass record'
    assert interface[0] == 1
    assert struct.unpack('<HHI', interface[1]) == (LINKTYPE_RAW, 0, 100)
    assert interface[2] == {2: b'ipc_bypass', 3: b'what it is', 9: b'\x09'}


@pytest.mark.parametrize('family', [4, 6])
def test_packets(family):
    """Whole packets with nanoseconds, for every remainder of four, empty ones too."""
    descriptors, payloads = records([0, 1, 2, 3, 4, 4096, 65507], family)
    found = written(lambda writer: writer.write_datagrams(descriptors, payloads, OFFSET))[2:]
    assert len(found) == len(payloads)
    for number, (kind, body, extra) in enumerate(found):
        interface, high, low, captured, original = struct.unpack_from('<IIIII', body)
        assert (kind, interface, extra) == (6, 0, {})
        assert high << 32 | low == OFFSET + int(descriptors['capture_ns'][number])
        assert captured == original
        packet = parse_packet(body[20:20 + captured])
        assert packet.payload == payloads[number]
        assert (packet.family, packet.source_port, packet.destination_port) == (
            family, 40000, 7411)


def test_snaplen_cuts_packets():
    descriptors, payloads = records([0, 10, 100])
    found = written(lambda writer: writer.write_datagrams(descriptors, payloads, 0), snaplen=30)
    assert [struct.unpack_from('<II', body, 12) for _, body, _ in found[2:]] == [
        (28, 28), (30, 38), (30, 128)]
    found = written(lambda writer: writer.write_datagrams(descriptors, payloads, 0), snaplen=9)
    assert [struct.unpack_from('<II', body, 12) for _, body, _ in found[2:]] == [
        (9, 28), (9, 38), (9, 128)]


def test_options_of_packets():
    """Drops stand at the first packet, comments where there is one."""
    descriptors, payloads = records([5, 6, 7])
    found = written(lambda writer: writer.write_datagrams(
        descriptors, payloads, 0, drops=300, comments=['one', '', 'three']))
    assert [extra for _, _, extra in found[2:]] == [
        {4: struct.pack('<Q', 300), 1: b'one'}, {}, {1: b'three'}]


def test_statistics():
    """Received is the sum of all others; a comment says the reasons."""
    (_, _, (kind, body, extra)) = written(lambda writer: writer.write_statistics(ACCOUNT))
    assert kind == 5
    assert body[:4] == bytes(4)
    counters = {code: struct.unpack('<Q', extra[code])[0] for code in (4, 5, 7, 8)}
    assert counters == {4: 2 + 3 + 4 + 5 + 7, 5: 3 + 4 + 5, 7: 7, 8: 2}
    assert extra[1] == (b'written 2, missed 3, torn 4, left out: tcp 5, passed: pool_full 6, '
                        b'passed: fragment 1')


class Full(io.BytesIO):
    """A disk that takes so many bytes, some at a time."""

    def __init__(self, room):
        """Take `room` bytes."""
        super().__init__()
        self.room = room

    def write(self, data):
        """Write a part, or raise ENOSPC."""
        if not self.room:
            raise OSError(errno.ENOSPC, 'no space')
        part = bytes(data[:min(self.room, 1000)])
        self.room -= len(part)
        return super().write(part)


def test_full_disk_leaves_whole_blocks():
    """What failed is cut off, and nothing follows it."""
    descriptors, payloads = records([700] * 3)
    stream = Full(4000)
    writer = PcapngWriter(stream)
    writer.write_datagrams(descriptors, payloads, 0)
    writer.flush()
    writer.write_datagrams(descriptors, payloads, 0)
    with pytest.raises(OSError, match='no space'):
        writer.flush()
    stream.room = 10_000
    writer.write_statistics(ACCOUNT)
    writer.flush()
    assert [kind for kind, _, _ in blocks(stream.getvalue())] == [0x0a0d0d0a, 1, 6, 6, 6]


def test_wall_clock():
    """It follows the wall clock where that was set, not where it merely was looked at late."""
    monotonic, wall = iter(range(0, 10**9, 10)), [0]
    clock = WallClock(lambda: next(monotonic), lambda: wall[0] + 10**15)
    before = clock.offset_ns
    clock.update()
    assert clock.offset_ns == before
    wall[0] = 5 * 10**9
    clock.update()
    assert abs(clock.offset_ns - before - 5 * 10**9) < 10**6
