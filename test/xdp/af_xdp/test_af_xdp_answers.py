"""Answers byte by byte: ARP, ICMP echo, neighbour advertisements; and what gets none."""

import random
import struct

from ipc_bypass.udp.packets import parse_packet
from ipc_bypass.xdp.af_xdp.answers import Answers
from ipc_bypass.xdp.af_xdp.batch import Batch, DROP, TRANSMIT
from ipc_bypass.xdp.af_xdp.echo import Echo
from ipc_bypass.xdp.af_xdp.umem import Umem
import numpy as np
import pytest
from support.frames import (
    checksum,
    ethernet,
    FAR,
    FAR_MAC,
    FAR_V6,
    ICMP,
    ICMP6,
    icmp_echo,
    ip4,
    ip6,
    NEAR,
    NEAR_MAC,
    NEAR_V6,
    udp4_frame,
    udp6_frame,
)

ANSWERS = Answers(NEAR_MAC, [NEAR, NEAR_V6])
_NEAR_V6, _FAR_V6 = (bytes.fromhex(f'fd00012400000000000000000000000{n}') for n in (1, 2))


def ask(data, answers=ANSWERS):
    """Return the answer to a frame, b'' for none; without one the frame is as it was."""
    space = memoryview(bytearray(data + bytes(200)))
    length = answers.answer(space, len(data))
    if not length:
        assert space[:len(data)] == data
    return bytes(space[:length])


def icmp6(kind, body, source=FAR_V6, destination=NEAR_V6, hop_limit=255, mac=NEAR_MAC):
    """Return an ICMPv6 message in a frame, with its checksum."""
    def packet(found):
        return ip6(struct.pack('!BBH', kind, 0, found) + body, source=source,
                   destination=destination, protocol=ICMP6, hop_limit=hop_limit)
    bare = packet(0)
    found = checksum(bare[8:40] + struct.pack('!II', len(bare) - 40, ICMP6) + bare[40:])
    return ethernet(packet(found), destination=mac, ethertype=0x86dd)


def sum_of_v6(data):
    """Return the checksum over an ICMPv6 message that holds its own: 0 where it is right."""
    return checksum(data[22:54] + struct.pack('!II', len(data) - 54, ICMP6) + data[54:])


def arp(operation=1, target=NEAR, destination=b'\xff' * 6):
    """Return an ARP frame of FAR's."""
    body = struct.pack('!HHBBH', 1, 0x0800, 6, 4, operation) + FAR_MAC + bytes(
        map(int, FAR.split('.'))) + bytes(6) + bytes(map(int, target.split('.')))
    return ethernet(body, destination=destination, ethertype=0x0806)


def test_arp_is_answered():
    found = ask(arp())
    assert found[:14] == FAR_MAC + NEAR_MAC + b'\x08\x06'
    assert found[20:22] == b'\0\2'
    assert found[22:42] == NEAR_MAC + bytes([10, 124, 0, 1]) + FAR_MAC + bytes([10, 124, 0, 2])


def test_ping_is_answered_with_right_checksums():
    found = ask(ethernet(ip4(icmp_echo(payload=b'odd'), protocol=ICMP, ttl=3)))
    assert found[:12] == FAR_MAC + NEAR_MAC
    assert found[26:34] == bytes([10, 124, 0, 1, 10, 124, 0, 2])
    assert checksum(found[14:34]) == checksum(found[34:]) == 0
    assert (found[22], found[34], found[-3:]) == (64, 0, b'odd')


def test_a_padded_ping_keeps_its_padding():
    question = ethernet(ip4(icmp_echo(), protocol=ICMP)) + bytes(10)
    found = ask(question)
    assert len(found) == len(question)
    assert checksum(found[34:34 + 12]) == 0


def test_ping6_is_answered_with_a_right_checksum():
    found = ask(icmp6(128, b'\0\1\0\2ping!'))
    assert found[:12] == FAR_MAC + NEAR_MAC
    assert found[22:54] == _NEAR_V6 + _FAR_V6
    assert (found[54], found[-5:], sum_of_v6(found)) == (129, b'ping!', 0)


@pytest.mark.parametrize('option', [b'', b'\1\1' + FAR_MAC])
def test_a_neighbour_is_told_our_address(option):
    found = ask(icmp6(135, bytes(4) + _NEAR_V6 + option, mac=bytes.fromhex('3333ff000001'),
                      destination='ff02::1:ff00:1'))
    assert found[:12] == FAR_MAC + NEAR_MAC
    assert found[22:54] == _NEAR_V6 + _FAR_V6
    assert found[54] == 136 and found[58:62] == b'\x60\0\0\0'
    assert found[62:] == _NEAR_V6 + b'\2\1' + NEAR_MAC
    assert (found[21], sum_of_v6(found)) == (255, 0)


def test_who_looks_for_a_free_address_is_told_with_all_others():
    found = ask(icmp6(135, bytes(4) + _NEAR_V6, source='::', destination='ff02::1:ff00:1',
                      mac=bytes.fromhex('3333ff000001')))
    assert found[:6] == bytes.fromhex('333300000001')
    assert found[58] == 0x20
    assert sum_of_v6(found) == 0


@pytest.mark.parametrize('data', [
    arp(target='10.124.0.9'), arp(operation=2), arp()[:41],
    ethernet(ip4(icmp_echo(), protocol=ICMP), destination=FAR_MAC),
    ethernet(ip4(icmp_echo(), protocol=ICMP, destination='10.124.0.9')),
    ethernet(ip4(icmp_echo(), protocol=ICMP, fragment=0x2000)),
    ethernet(ip4(icmp_echo(), protocol=ICMP, fragment=1)),
    ethernet(ip4(icmp_echo(), protocol=ICMP, options=bytes(4))),
    ethernet(ip4(icmp_echo()[:-1] + b'?', protocol=ICMP)),
    ethernet(ip4(icmp_echo(), protocol=ICMP))[:-1],
    icmp6(128, b'1234', destination='fd00::9'), icmp6(128, b'1234')[:-1] + b'?',
    icmp6(135, bytes(4) + _NEAR_V6, hop_limit=64), icmp6(135, bytes(4) + _FAR_V6),
    icmp6(135, bytes(8)), icmp6(134, bytes(12)), udp4_frame(), udp6_frame(), b'', b'\0' * 14],
    ids=lambda data: data.hex()[24:60] or 'empty')
def test_what_is_no_question_to_us_gets_no_answer(data):
    assert ask(data) == b''


def batch_of(*frames):
    """Return a Batch of frames in a UMEM of its own, and its lengths."""
    umem = Umem(max(len(frames), 2), 2048)
    starts = [number * 2048 + 256 for number in range(len(frames))]
    for start, data in zip(starts, frames, strict=True):
        umem.view[start:start + len(data)] = data
    return Batch(umem, 'near0', 0, starts=starts, sizes=[len(data) for data in frames])


def echoed(echo, frames):
    """Return [(verdict, frame afterwards)] of frames that come in one batch."""
    batch = batch_of(*frames)
    verdicts = echo(batch)
    if not hasattr(verdicts, '__len__'):
        verdicts = [verdicts] * len(frames)
    return [(int(verdict), bytes(packet))
            for verdict, packet in zip(verdicts, batch.packets(), strict=True)]


def test_one_by_one_and_in_a_batch_are_the_same():
    chance = random.Random(4242)
    kinds = [udp4_frame(b'four', destination_port=4242), udp6_frame(b'six', destination_port=4242),
             udp4_frame(destination_port=4243), udp6_frame(destination_port=4243),
             udp4_frame(destination_port=4242, vlans=((0x8100, 5),)), arp(),
             ethernet(ip4(icmp_echo(), protocol=ICMP)), icmp6(128, b'1234'),
             icmp6(135, bytes(4) + _NEAR_V6), b'short', b'',
             ethernet(ip4(b'\0\0\x10\x92', fragment=1)),
             b'\xff' * 6 + udp4_frame(destination_port=4242)[6:]]
    for _ in range(300):
        frames = []
        for _ in range(chance.randrange(5, 40)):
            data = bytearray(chance.choice(kinds))
            for _ in range(chance.randrange(3)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            frames.append(bytes(data[:chance.randrange(20, 400)]))
        together = echoed(Echo([4242], ANSWERS), frames)
        alone = [echoed(Echo([4242], ANSWERS), [data])[0] for data in frames]
        assert together == alone


@pytest.mark.parametrize('data', [udp4_frame(b'back', destination_port=4242),
                                  udp6_frame(b'back!', destination_port=4242)])
@pytest.mark.parametrize('count', [1, 9])
def test_udp_is_sent_back_with_a_right_checksum(data, count):
    for compute in (False, True):
        broken = bytearray(data)
        if compute:
            # As a sender leaves it that has its interface compute it.
            start = 40 if data[12] == 8 else 60
            broken[start:start + 2] = b'\x12\x34'
        for verdict, found in echoed(Echo([4242], compute_checksums=compute),
                                     [bytes(broken)] * count):
            assert verdict == TRANSMIT
            assert found[:12] == data[6:12] + data[:6]
            packet = parse_packet(found[14:])
            assert (packet.source_port, packet.destination_port) == (4242, 1000)
            assert bytes(packet.payload).startswith(b'back')


def test_what_an_echo_does_not_know_gets_the_other_verdict():
    assert echoed(Echo([4242], rest=2), [udp4_frame()])[0][0] == 2
    assert [verdict for verdict, _ in echoed(Echo([4242]), [arp()] * 9)] == [DROP] * 9


def test_random_frames_do_no_harm():
    chance = np.random.default_rng(7)
    echo = Echo([4242], ANSWERS, compute_checksums=True)
    for _ in range(300):
        frames = [chance.bytes(int(chance.integers(0, 120))) for _ in range(20)]
        frames += [FAR_MAC[:0] + NEAR_MAC + FAR_MAC + kind + data for kind, data in zip(
            (b'\x08\x00', b'\x86\xdd', b'\x08\x06'), frames, strict=False)]
        assert len(echoed(echo, frames)) == len(frames)
