"""IP packets from TUN devices: what the bridge reads of them, cuts up, and sends back."""

import contextlib
import os
import socket

from ipc_bypass.udp.crossing import _ends, Crossing
from ipc_bypass.udp.fragments import fragments
from ipc_bypass.udp.outcomes import GROUPS, Tally
from ipc_bypass.udp.packets import parse_packet, word_sum
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.xdp.filter.headers import read_headers
from mutations import Values
from support import frames

LONGEST = 4200
_MTU = 1280


def seeds():
    """Yield packets: whole, with options and extension headers, fragments, and long ones."""
    parts = [
        frames.ip4(frames.udp(b'RTPS')), frames.ip6(frames.udp(b'RTPS')),
        frames.ip4(frames.udp(b'x'), options=bytes(8)),
        frames.ip4(frames.udp(bytes(24)), fragment=0x2001),
        frames.ip4(frames.tcp(b'x'), protocol=frames.TCP),
        frames.ip6(frames.extension(frames.udp(b'x'), frames.UDP, units=2), protocol=60),
        frames.ip6(frames.fragment6(frames.udp(b'x'), frames.UDP, more=True), protocol=44),
        frames.ip6(frames.fragment6(frames.udp(b'x'), frames.UDP), protocol=44),
        frames.ip4(frames.udp(bytes(2000))), frames.ip6(frames.udp(bytes(3000))),
        frames.ip4(frames.udp(b'x'), destination='239.255.0.1'),
        frames.ip4(frames.udp(b'x'), source='10.9.0.1', destination='10.9.0.2')]
    return [bytes([number % 4]) + part for number, part in enumerate(parts)]


class Device:
    """One end of a pair of sockets that keep packets apart, as a TUN device does."""

    def __init__(self, addresses=()):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mtu, self.addresses = _MTU, frozenset(addresses)
        for end in (self.ours, self.theirs):
            end.setblocking(False)

    def fileno(self):
        """Return the descriptor of the bridge's end."""
        return self.ours.fileno()

    def put(self, packet):
        """Have a packet come out of the device."""
        with contextlib.suppress(BlockingIOError):
            self.theirs.send(packet)

    def taken(self):
        """Return what was written into the device."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.theirs.recv(1 << 17))
        return found


_far, _near = Device(), Device([bytes((10, 9, 0, 1))])
_prefixes = Prefixes(['10.9.0.0/16', '10.124.0.1/32', 'fd00:124::1/128'])
_tally = Tally()
_crossing = Crossing(_far, _near, _prefixes, _tally, lambda sock: None)


def one(data):
    """Read it, cut it up, and carry it both ways; each packet is counted once."""
    values = Values(data)
    way = values.number() & 3
    packet = values.rest()
    found = parse_packet(packet)
    if found is not None:
        assert found.payload.nbytes <= len(packet) and len(found.source) in (4, 16)
    assert 0 <= word_sum(packet) < 0xffff
    ends = _ends(packet)
    read_headers(packet)
    pieces = fragments(packet, _MTU) if ends else [packet]
    assert sum(map(len, pieces)) >= len(packet)
    if len(pieces) > 1:
        assert all(len(piece) <= _MTU for piece in pieces)
        assert b''.join(_payload(piece) for piece in pieces) == _payload(packet)
    before = _tally.counters()
    if packet:
        (_far if way & 1 else _near).put(packet)
        _crossing.carry()
        after = _tally.counters()
        total = 'device' if way & 1 else 'local'
        assert after[total] == before[total] + 1, (before, after)
        assert all(after[name] == sum(after[part] for part in GROUPS[name]) for name in GROUPS)
        assert all(len(piece) <= len(packet) + 8
                   for device in (_far, _near) for piece in device.taken())


def _payload(packet):
    if packet[0] >> 4 == 4:
        return bytes(packet[20:])
    return bytes(packet[48:] if packet[6] == 44 else packet[40:])


def closed():
    """Close the devices' descriptors at the process's end."""
    for device in (_far, _near):
        os.close(device.ours.detach())
