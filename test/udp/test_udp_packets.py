"""Packets that this package builds, judged by the kernel and by tshark."""

import os
import socket
import struct
import subprocess

from ipc_bypass.udp import fragments, packets
from packet_tools import content, descriptor, FAR, NEAR, read_packet, tun_in
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

LENGTHS = [0, 1, 2, 7, 511, 512, 513, 1471, 1472, 4095, 4096, 65506, 65507]
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT, SENDER_PORT = 7411, 40_001


@pytest.fixture
def device():
    """Yield (Namespace, TUN descriptor)."""
    with Namespace('t') as space:
        fd = tun_in(space)
        yield space, fd
        os.close(fd)


def receiver(space, family):
    """Return a bound socket in a namespace, with room for large datagrams."""
    with space.entered():
        made = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.bind((FAR[family], PORT))
    made.settimeout(20)
    return made


def record(family, length):
    return descriptor((NEAR[family], SENDER_PORT), (FAR[family], PORT), length)


def in_errors(space):
    """Return how many datagrams the kernel dropped in a namespace for their checksum."""
    with space.entered(), open('/proc/thread-self/net/snmp') as stream:
        names, values = (line.split() for line in stream if line.startswith('Udp:'))
    with space.entered(), open('/proc/thread-self/net/snmp6') as stream:
        six = dict(line.split() for line in stream)
    return int(values[names.index('InCsumErrors')]) + int(six['Udp6InCsumErrors'])


@pytest.mark.parametrize('family', FAMILIES)
def test_kernel_delivers(device, family):
    space, fd = device
    with receiver(space, family) as sock:
        for length in LENGTHS:
            data = content(length)
            packet = packets.build_packet(record(family, length), data)
            assert os.write(fd, packet) == len(packet)
            received, source = sock.recvfrom(1 << 16)
            assert received == data
            assert source[:2] == (NEAR[family], SENDER_PORT)
    assert in_errors(space) == 0


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('length', [0, 1, 1472, 65507])
def test_kernel_drops_a_wrong_checksum(device, family, length):
    space, fd = device
    with receiver(space, family) as sock:
        packet = bytearray(packets.build_packet(record(family, length), content(length)))
        packet[-1] ^= 1  # of the payload; of the checksum where there is none
        os.write(fd, packet)
        sock.setblocking(False)
        # A long datagram is summed up when it is read, a short one when it comes.
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        assert in_errors(space) == 1
    assert packets.parse_packet(packet) is None


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('mtu', [1280, 1500, 9001])
def test_kernel_joins_fragments(device, family, mtu):
    space, fd = device
    with receiver(space, family) as sock:
        for length in LENGTHS:
            data = content(length)
            packet = packets.build_packet(record(family, length), data)
            pieces = fragments.fragments(packet, mtu)
            assert (len(pieces) > 1) == (len(packet) > mtu)
            for piece in pieces:
                assert len(piece) <= mtu
                assert len(pieces) == 1 or packets.parse_packet(piece) is None
                os.write(fd, piece)
            assert sock.recv(1 << 16) == data


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('length', LENGTHS)
def test_parses_what_it_built(family, length):
    data = content(length)
    packet = packets.build_packet(record(family, length), memoryview(data))
    parsed = packets.parse_packet(packet)
    assert parsed[:5] == (family, socket.inet_pton(FAMILIES[family], NEAR[family]),
                          socket.inet_pton(FAMILIES[family], FAR[family]), SENDER_PORT, PORT)
    assert parsed.payload == data
    for cut in {1, 20, 27, 28, 39, 40, 47, len(packet) - 1} - {len(packet)}:
        if cut < len(packet):
            assert packets.parse_packet(packet[:cut]) is None


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('length', [0, 1, 1472, 20_000])
def test_parses_what_the_kernel_sends(device, family, length):
    space, fd = device
    data = content(length)
    with receiver(space, family) as sock:
        sock.sendto(data, (NEAR[family], SENDER_PORT))

        def parsed():
            packet = read_packet(fd)  # the kernel's own, as MLD reports, come too
            return packets.parse_packet(packet) if packet else None
        packet = wait_until(parsed, 'the packet')
    assert (packet.source_port, packet.destination_port) == (PORT, SENDER_PORT)
    assert packet.payload == data


@pytest.mark.parametrize('option', ['options', 'hop_by_hop'])
def test_parses_options_of_the_kernel(device, option):
    """IPv4 options, and a destination options header before UDP, set by setsockopt."""
    space, fd = device
    family = 4 if option == 'options' else 6
    with receiver(space, family) as sock:
        if family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b'\x01\x01\x01\x01')
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b'\0\0\x01\x04' + bytes(4))
        sock.sendto(b'content', (NEAR[family], SENDER_PORT))

        def found():
            packet = read_packet(fd)
            return packet if packet and b'content' in packet else None
        packet = wait_until(found, 'the packet')
    assert len(packet) > len(packets.build_packet(record(family, 7), b'content'))
    assert packets.parse_packet(packet).payload == b'content'


@pytest.mark.parametrize('extension, whole', [
    (struct.pack('!BB6x', 17, 0), True), (struct.pack('!BB14x', 17, 1), True),
    (b'\x11\0' + struct.pack('!HI', 0, 9), True), (b'\x11\0' + struct.pack('!HI', 1, 9), False),
    (b'\x11\0' + struct.pack('!HI', 8, 9), False), (b'\x11\0\x02\x01' + bytes(4), False),
    (b'\x3b\0' + bytes(6), False), (b'\x11\xff' + bytes(6), False)], ids=range(8))
def test_extension_headers(extension, whole):
    """Options, fragment headers (whole and not), a route still to go, none after, too long."""
    packet = bytearray(packets.build_packet(record(6, 5), b'12345'))
    kind = {2: 44, 3: 44, 4: 44, 5: 43}
    number = [struct.pack('!BB6x', 17, 0), struct.pack('!BB14x', 17, 1),
              b'\x11\0' + struct.pack('!HI', 0, 9), b'\x11\0' + struct.pack('!HI', 1, 9),
              b'\x11\0' + struct.pack('!HI', 8, 9), b'\x11\0\x02\x01' + bytes(4)]
    packet[6] = kind.get(number.index(extension), 60) if extension in number else 60
    struct.pack_into('!H', packet, 4, len(packet) - 40 + len(extension))
    parsed = packets.parse_packet(bytes(packet[:40]) + extension + bytes(packet[40:]))
    assert (parsed is not None) == whole
    assert not whole or parsed.payload == b'12345'


def test_other_packets():
    packet = packets.build_packet(record(4, 3), b'abc')
    assert packets.parse_packet(b'') is None
    assert packets.parse_packet(b'\x45') is None
    assert packets.parse_packet(bytes(100)) is None
    assert packets.parse_packet(packet + b'padding').payload == b'abc'
    without = bytearray(packet)
    without[26:28] = bytes(2)  # an IPv4 sender may leave the checksum out
    assert packets.parse_packet(without).payload == b'abc'
    six = bytearray(packets.build_packet(record(6, 3), b'abc'))
    six[46:48] = bytes(2)
    assert packets.parse_packet(six) is None
    with pytest.raises(ValueError, match='65508'):
        packets.build_packet(record(4, 65508), bytes(65508))
    assert len(packets.build_packet(record(6, 65527), bytes(65527))) == 65575


def test_checksum_is_never_zero():
    """A payload whose sum would make the checksum 0 gets 0xffff instead."""
    for family in FAMILIES:
        plain = packets.build_packet(record(family, 2), bytes(2))
        wanted = plain[-4:-2]
        packet = packets.build_packet(record(family, 2), wanted)
        assert packet[-4:-2] == b'\xff\xff'
        assert packets.parse_packet(packet).payload == wanted


def test_tshark_finds_no_fault(tmp_path):
    """Of a mixed batch, and of fragments, with the checks of both checksums on."""
    import numpy as np
    records = np.array([record(4 + 2 * (number % 2), length)
                        for number, length in enumerate(LENGTHS * 2)])
    built = [b''.join(parts) for parts in packets.build_parts(
        records, [content(length) for length in LENGTHS * 2])]
    built += [piece for packet in built for piece in fragments.fragments(packet, 1500)
              if len(packet) > 1500]
    path = tmp_path / 'built.pcap'
    with open(path, 'wb') as stream:
        stream.write(struct.pack('=IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 1 << 18, 101))
        for packet in built:
            stream.write(struct.pack('=IIII', 0, 0, len(packet), len(packet)) + packet)
    said = subprocess.run(
        ['tshark', '-r', path, '-o', 'udp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE',
         '-T', 'fields', '-e', 'udp.checksum.status', '-e', 'ip.checksum.status',
         '-e', '_ws.malformed'],
        capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(built)
    good = [line.split('\t') for line in said]
    assert all(fields[1] in ('', '1') and not fields[2] for fields in good), said
    # One status for each whole datagram: fragments are joined at the last one.
    status = [fields[0] for fields in good if fields[0]]
    large = sum(len(packet) > 1500 for packet in built[:len(records)])
    assert status == ['1'] * (len(records) + large)
