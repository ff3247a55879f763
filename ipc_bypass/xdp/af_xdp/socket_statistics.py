"""What a pipeline counts, and how it is shown: two lines a queue, a table, or JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
import json

from ipc_bypass.xdp.af_xdp.uapi import STATISTICS


@dataclass
class Counters:
    """
    Counters of one socket, in packets where nothing else is said.

    rx_packets, rx_bytes    received from the queue
    tx_packets, tx_bytes    queued for sending out of this socket
    transmitted             of those received: queued for sending, here or at another socket
    dropped                 of those received: the handler's verdict was to forget it
    reinjected              of those received: given to the reinjector, which took it
    reinject_failed         ... which did not take it, or there is none
    transmit_full           there was no room in the tx ring
    transmit_invalid        the handler made it too short or too long to be sent
    handler_failed          the handler raised
    verdict_invalid         the handler's answer was no verdict

    What was received is the sum of those from `transmitted` on.
    """

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    transmitted: int = 0
    dropped: int = 0
    reinjected: int = 0
    reinject_failed: int = 0
    transmit_full: int = 0
    transmit_invalid: int = 0
    handler_failed: int = 0
    verdict_invalid: int = 0

    @property
    def accounted(self) -> int:
        """Return the packets of which is known what became: as many as were received."""
        return sum(getattr(self, name) for name in OUTCOMES)


#: Counters of what became of a received packet.
OUTCOMES = tuple(one.name for one in fields(Counters)[4:])
#: Of these, those of packets that went on.
_WELL = ('transmitted', 'reinjected')
#: Of XDP_STATISTICS, those that count received packets.
_LOST = ('rx_dropped', 'rx_ring_full')


@dataclass(frozen=True)
class SocketStatistics:
    """
    What one socket did, in total and in the last period.

    :param period_s: seconds of the period
    :param rx_pps: packets a second in the period; `rx_mbits_per_s` megabits of frames
    :param counters: Counters by name, in total
    :param kernel: XDP_STATISTICS by name, in total: what the kernel could not deliver or send.
        `rx_dropped` counts what found no frame or did not fit in one, `rx_ring_full` what found no
        room in the rx ring; the others count looks, or descriptors
    :param frames: where the frames of the UMEM are, by name
    """

    interface: str
    queue: int
    zero_copy: bool
    period_s: float
    rx_packets: int
    rx_pps: float
    rx_kbytes: float
    rx_mbits_per_s: float
    tx_packets: int
    tx_pps: float
    tx_kbytes: float
    tx_mbits_per_s: float
    counters: dict[str, int] = field(default_factory=dict)
    kernel: dict[str, int] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Return the packets that the kernel could not deliver."""
        return self.kernel['rx_dropped'] + self.kernel['rx_ring_full']

    def drops(self) -> dict[str, int]:
        """Return the packets by name that the kernel lost, or that were forgotten or refused."""
        return {**{name: self.kernel[name] for name in _LOST},
                **{name: self.counters[name] for name in OUTCOMES if name not in _WELL}}


class Meter:
    """Makes SocketStatistics out of counters, once a period."""

    def __init__(self, now: float) -> None:
        """Begin the first period."""
        self._then, self._last = now, Counters()

    def measure(self, socket, counters: Counters, frames, now: float) -> SocketStatistics:
        """
        Return the statistics of the period that ends now, and begin the next one.

        :param socket: XskSocket
        :param frames: socket.Frames
        """
        period = max(now - self._then, 1e-9)
        last, self._then, self._last = self._last, now, Counters(**asdict(counters))
        both = {}
        for way in ('rx', 'tx'):
            packets, size = getattr(counters, f'{way}_packets'), getattr(counters, f'{way}_bytes')
            both[f'{way}_packets'] = packets
            both[f'{way}_pps'] = (packets - getattr(last, f'{way}_packets')) / period
            both[f'{way}_kbytes'] = size / 1000
            both[f'{way}_mbits_per_s'] = (size - getattr(last, f'{way}_bytes')) * 8 / period / 1e6
        return SocketStatistics(
            socket.interface, socket.queue, socket.zero_copy, period, **both,
            counters=asdict(counters), kernel=socket.statistics(), frames=asdict(frames))


def lines(found: SocketStatistics) -> list[str]:
    """Return two lines, RX and TX, and a third one where packets were lost or not handled."""
    text = []
    for way, label in (('rx', 'AF_XDP RX:'), ('tx', '       TX:')):
        packets, pps, size, rate = (getattr(found, f'{way}_{name}') for name in (
            'packets', 'pps', 'kbytes', 'mbits_per_s'))
        text.append(f'{label:<12} {packets:>11,} pkts ({pps:>10,.0f} pps) {size:>11,.0f} Kbytes '
                    f'({rate:>6,.0f} Mbits/s) period:{found.period_s:f}')
    # Looks at an empty tx ring are no fault, and neither are dropped and reinjected packets.
    lost = {name: number for name, number in (*found.kernel.items(), *found.counters.items())
            if number and name in (*STATISTICS[:-1], *OUTCOMES[3:])}
    if lost:
        text.append('       ' + ', '.join(f'{name} {number:,}' for name, number in lost.items()))
    return text


def json_line(found: SocketStatistics) -> str:
    """Return everything as one line of JSON."""
    return json.dumps(asdict(found))


def table(statistics: Iterable[SocketStatistics]):
    """Return a rich table with one line a queue."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    result = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ('interface', 'queue', 'mode', 'RX packets', 'RX pps', 'RX Mbit/s', 'TX packets',
                 'TX pps', 'TX Mbit/s', 'lost', 'not as asked'):
        result.add_column(name, justify='left' if name in ('interface', 'mode') else 'right')
    for one in statistics:
        faults = sum(one.counters[name] for name in OUTCOMES[3:])
        result.add_row(
            one.interface, str(one.queue), 'zero-copy' if one.zero_copy else 'copy',
            f'{one.rx_packets:,}', f'{one.rx_pps:,.0f}', f'{one.rx_mbits_per_s:,.1f}',
            f'{one.tx_packets:,}', f'{one.tx_pps:,.0f}', f'{one.tx_mbits_per_s:,.1f}',
            f'{one.lost:,}', f'{faults:,}')
    return result
