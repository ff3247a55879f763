"""What samples say of the traffic of a period: which protocols, and who talks most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ipc_bypass.xdp.sampler import Sample

_PROTOCOLS = {1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmp6', 2: 'igmp'}
_ETHERTYPES = {0x0806: 'arp', 0x88cc: 'lldp', 0x88f7: 'ptp', 0x8863: 'pppoe', 0x8864: 'pppoe'}
_UDP, _RTPS = 17, (b'RTPS', b'RTPX')


@dataclass(frozen=True)
class Share:
    """So many packets and bytes of frames, as estimated from so many samples."""

    samples: int = 0
    packets: int = 0
    bytes_: int = 0


@dataclass(frozen=True)
class Talker:
    """A source with what it sends to; '' and 0 where there are no addresses or ports."""

    source: str
    destination: str
    protocol: str
    destination_port: int
    share: Share


@dataclass(frozen=True)
class Summary:
    """
    The traffic of a period, estimated: each sample stands for as many packets as it was one of.

    :param begin_ns: CLOCK_MONOTONIC of the first sample, 0 without one
    :param end_ns: ... of the last one
    :param whole: all of it; the protocols add up to it, and so do the talkers and the rest
    :param protocols: at most as many as asked for, the largest first; the last is 'other' where
        there are more
    :param talkers: the largest first
    :param rest: of all other talkers
    """

    begin_ns: int = 0
    end_ns: int = 0
    whole: Share = Share()
    protocols: tuple[tuple[str, Share], ...] = ()
    talkers: tuple[Talker, ...] = ()
    rest: Share = Share()


@dataclass
class Summarizer:
    """
    Adds samples up.

    :param most: talkers and protocols of a summary
    :param memory: talkers that are told apart in a period; those that come later are the rest
    """

    most: int = 10
    memory: int = 4096
    _protocols: dict = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _talkers: dict = field(default_factory=dict)
    _rest: list = field(default_factory=lambda: [0, 0, 0])
    _times: tuple = (0, 0)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add samples, the oldest first."""
        for sample in samples:
            self._times = self._times[0] or sample.time_ns, sample.time_ns
            protocol = protocol_name(sample)
            key = (*sample.addresses, protocol, sample.destination_port)
            sums = self._talkers.get(key)
            if sums is None:
                sums = self._rest
                if len(self._talkers) < self.memory:
                    sums = self._talkers[key] = [0, 0, 0]
            for each in (sums, self._protocols[protocol]):
                each[0] += 1
                each[1] += sample.every
                each[2] += sample.every * sample.length

    def take(self) -> Summary:
        """Return the summary of what was added since the last one."""
        protocols = sorted(self._protocols.items(), key=lambda item: (-item[1][2], item[0]))
        talkers = sorted(self._talkers.items(), key=lambda item: (-item[1][2], item[0]))
        whole = _sum(sums for _, sums in protocols)
        rest = _sum((*(sums for _, sums in talkers[self.most:]), self._rest))
        if len(protocols) > self.most:
            others = _sum(sums for _, sums in protocols[self.most - 1:])
            protocols = [*protocols[:self.most - 1], ('other', others)]
        summary = Summary(
            *self._times, Share(*whole), tuple((name, Share(*sums)) for name, sums in protocols),
            tuple(Talker(*key, Share(*sums)) for key, sums in talkers[:self.most]), Share(*rest))
        self._protocols.clear()
        self._talkers, self._rest, self._times = {}, [0, 0, 0], (0, 0)
        return summary


def protocol_name(sample: Sample) -> str:
    """Return 'tcp', 'udp', 'rtps' (UDP that begins as a message of RTPS does), 'arp', ..."""
    if not sample.family:
        return _ETHERTYPES.get(sample.ethertype, f'ethertype 0x{sample.ethertype:04x}')
    if sample.protocol == _UDP and sample.payload_offset and \
            sample.data[sample.payload_offset:sample.payload_offset + 4] in _RTPS:
        return 'rtps'
    return _PROTOCOLS.get(sample.protocol, f'ip {sample.protocol}')


def _sum(shares: Iterable[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*shares, strict=True)] or [0, 0, 0]
