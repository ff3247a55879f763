"""A ready-made handler: sends UDP packets back, and answers ARP, neighbour and echo requests."""

from __future__ import annotations

from collections.abc import Iterable
import struct

from ipc_bypass.udp.packets import word_sum
from ipc_bypass.xdp.af_xdp.answers import Answers
from ipc_bypass.xdp.af_xdp.batch import Batch, DROP, TRANSMIT
import numpy as np

_UDP = 17
_ETHERNET = [('destination_mac', 'u1', 6), ('source_mac', 'u1', 6), ('ethertype', '>u2')]
_PORTS = [('source_port', '>u2'), ('destination_port', '>u2'), ('udp_length', '>u2'),
          ('udp_checksum', '>u2')]
#: The first bytes of a UDP packet over IPv4 without options, and over IPv6 without extensions.
UDP_V4 = np.dtype([*_ETHERNET, ('version', 'u1'), ('service', 'u1'), ('length', '>u2'),
                   ('id', '>u2'), ('fragment', '>u2'), ('hops', 'u1'), ('protocol', 'u1'),
                   ('checksum', '>u2'), ('source', 'u1', 4), ('destination', 'u1', 4), *_PORTS])
UDP_V6 = np.dtype([*_ETHERNET, ('version', 'u1'), ('flow', 'u1', 3), ('length', '>u2'),
                   ('protocol', 'u1'), ('hops', 'u1'), ('source', 'u1', 16),
                   ('destination', 'u1', 16), *_PORTS])
_SWAPPED = (('source_mac', 'destination_mac'), ('source', 'destination'),
            ('source_port', 'destination_port'))
# Up to so many packets, one after the other is quicker than numpy.
_FEW = 4
_CHECKSUM = struct.Struct('=H')


class Echo:
    """
    Sends UDP packets to some ports back to where they came from; checksums stay valid by that.

    :param ports: destination ports
    :param answers: Answers for other questions, None for none
    :param rest: verdict for all other packets
    :param compute_checksums: compute UDP checksums anew; for a sender that leaves them to its
        interface (tx-checksumming of a veth), so that what came carries none
    """

    def __init__(self, ports: Iterable[int], answers: Answers | None = None, *, rest: int = DROP,
                 compute_checksums: bool = False) -> None:
        self._ports = np.zeros(1 << 16, bool)
        self._few_ports = frozenset(ports)
        self._ports[list(self._few_ports)] = True
        self._answers, self._rest, self._compute = answers, rest, compute_checksums
        #: Packets that were sent back, and questions that were answered.
        self.echoed = self.answered = 0

    def __call__(self, batch: Batch) -> np.ndarray | list[int] | int:
        """Return the verdicts for a Batch."""
        count = len(batch)
        if count == 1:
            return self._one(batch, 0)
        if count <= _FEW:
            verdicts = [self._one(batch, number) for number in range(count)]
            return TRANSMIT if min(verdicts) == max(verdicts) == TRANSMIT else verdicts
        verdicts = np.full(count, self._rest, np.uint8)
        left = np.ones(count, bool)
        for dtype, ethertype, version in ((UDP_V4, 0x0800, 0x45), (UDP_V6, 0x86dd, 0x60)):
            places = np.flatnonzero(left & (batch.lengths >= dtype.itemsize))
            heads = batch.headers(dtype, places)
            fits = ((heads['ethertype'] == ethertype) & (heads['protocol'] == _UDP)
                    & (heads['version'] & (0xff if version == 0x45 else 0xf0) == version)
                    & (heads['destination_mac'][:, 0] & 1 == 0)
                    & self._ports[heads['destination_port']])
            if version == 0x45:
                fits &= heads['fragment'] & 0x3fff == 0
            places, heads = places[fits], heads[fits]
            if not len(places):
                continue
            for one, other in _SWAPPED:
                heads[one], heads[other] = heads[other].copy(), heads[one].copy()
            batch.write_headers(heads, places)
            verdicts[places], left[places] = TRANSMIT, False
            self.echoed += len(places)
            if self._compute:
                for place in places.tolist():
                    _compute_checksum(batch.packet(place))
        if left.any() and self._answers is not None:
            for place in np.flatnonzero(left).tolist():
                verdicts[place] = self._answer(batch, place)
        return verdicts

    def _one(self, batch, number):
        """Return the verdict for one packet."""
        packet = batch.packet(number)
        if len(packet) >= 42 and not packet[0] & 1:
            kind = packet[12] << 8 | packet[13]
            if kind == 0x0800:
                sound = packet[14] == 0x45 and packet[23] == _UDP and not (
                    packet[20] & 0x3f or packet[21])
                addresses, size = 26, 4
            else:
                sound = kind == 0x86dd and len(packet) >= 62 and packet[14] >> 4 == 6 \
                    and packet[20] == _UDP
                addresses, size = 22, 16
            ports = addresses + 2 * size
            if sound and packet[ports + 2] << 8 | packet[ports + 3] in self._few_ports:
                packet[0:12] = bytes(packet[6:12]) + bytes(packet[0:6])
                middle = addresses + size
                packet[addresses:ports + 4] = b''.join((
                    packet[middle:ports], packet[addresses:middle],
                    packet[ports + 2:ports + 4], packet[ports:ports + 2]))
                if self._compute:
                    _compute_checksum(packet)
                self.echoed += 1
                return TRANSMIT
        return self._rest if self._answers is None else self._answer(batch, number)

    def _answer(self, batch, number):
        length = self._answers.answer(batch.space(number), batch.length(number))
        if not length:
            return self._rest
        batch.set_length(number, length)
        self.answered += 1
        return TRANSMIT


def _compute_checksum(packet):
    """Write the UDP checksum of a packet without options or extensions (RFC 768, RFC 8200)."""
    first, start = (26, 34) if packet[12] == 0x08 else (22, 54)
    end = start + (packet[start + 4] << 8 | packet[start + 5])
    if not start + 8 <= end <= len(packet):
        return
    _CHECKSUM.pack_into(packet, start + 6, 0)
    total = (word_sum(packet[first:start]) + word_sum(packet[start:end])
             + word_sum(struct.pack('!HH', end - start, _UDP)))
    # In ones' complement 0xffff is 0, which would say that there is none.
    _CHECKSUM.pack_into(packet, start + 6, 0xffff - total % 0xffff)
