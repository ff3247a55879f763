"""The sampler's slot: what it takes, what it counted, and the samples themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import select
import socket
import struct
import time
from typing import NamedTuple

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.maps import possible_cpus
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.xdp.reader_lease import ReaderLease
from ipc_bypass.xdp.ring_buffer import RingBuffer
from ipc_bypass.xdp.sampler_layout import (
    PLACES,
    READERS,
    SAMPLE,
    SETTINGS_SIZE,
    SNAP,
    STATE,
    STATE_SIZE,
    WORD_GENERATION,
)
from ipc_bypass.xdp.sampler_settings import SamplerSettings

_WORD, _INDEX = struct.Struct('=Q'), struct.Struct('=I')
#: Most samples of one read.
MOST = 4096
# Heartbeats in the time for which one is believed.
_BEATS = 5
#: Nanoseconds after which a reader looks by itself: it is woken when much waits, not at once.
LOOK_EVERY_NS = 20_000_000


class Sample(NamedTuple):
    """
    A packet that was taken.

    :param time_ns: CLOCK_MONOTONIC (pool.pcapng.WallClock makes wall time of it)
    :param interface: the index of its interface, in the interface's network namespace
    :param queue: the receive queue
    :param length: bytes of the whole frame
    :param data: its first bytes, from the Ethernet header on
    :param every: it stands for so many packets
    :param rule: number of the rule that it matched, from 1; 0 for none
    :param family: 4, 6; 0 for neither
    :param protocol: of IP, behind extension headers
    :param flags: enum xdp_fact of bpf/xdp_common.h
    :param ethertype: behind VLAN tags
    :param vlan: id of the outer tag, 0 without one
    :param network_offset: where the IP header stands in the frame
    :param payload_offset: where the payload of UDP or TCP stands, 0 where there is none
    """

    time_ns: int
    interface: int
    queue: int
    length: int
    data: bytes
    every: int
    rule: int
    family: int
    protocol: int
    flags: int
    ethertype: int
    vlan: int
    network_offset: int
    payload_offset: int
    source_port: int
    destination_port: int

    @property
    def addresses(self) -> tuple[str, str]:
        """Return the source and the destination as text, '' where they were not captured."""
        start = self.network_offset + {4: 12, 6: 8}.get(self.family, 0)
        size, family = (4, socket.AF_INET) if self.family == 4 else (16, socket.AF_INET6)
        if not self.family or start + 2 * size > len(self.data):
            return '', ''
        return (socket.inet_ntop(family, self.data[start:start + size]),
                socket.inet_ntop(family, self.data[start + size:start + 2 * size]))


@dataclass(frozen=True)
class ReaderStatus:
    """
    One of the two readers; its first three add up to the packets that were selected.

    :param written: samples that were put into its ring buffer
    :param full: lost, because the reader is behind
    :param unread: not written, because nobody read
    :param holder: who reads now, '' for nobody
    """

    written: int
    full: int
    unread: int
    holder: str


@dataclass(frozen=True)
class SamplerStatus:
    """
    What a sampler does and did.

    :param seen: packets, since it was loaded
    :param selected: packets that were taken, since it was loaded; `by_rule` of these, by the
        number of the rule, 0 for packets without one
    :param not_copied: samples without bytes, since the kernel could not copy them
    :param readers: ReaderStatus by 'node' and 'capture'
    """

    settings: SamplerSettings
    seen: int
    selected: int
    by_rule: tuple[int, ...]
    not_copied: int
    readers: dict[str, ReaderStatus]


class Sampler:
    """
    The sampler of one interface, by its maps.

    Settings belong to the node; samples go to each of the two readers by a ring buffer of its
    own. The first `read` takes the right to read, and every further one keeps it: a reader that
    does not come back for SamplerSettings.fresh_seconds counts as gone, and nothing is written
    for it. Traffic waits for nobody.

    :param maps: the slot's maps by name, as LoadedSlot.maps; they stay the caller's
    :param reader: 'node' or 'capture': whose samples `read` returns
    :param name: what another that wants to read is told
    """

    def __init__(self, maps: Mapping[str, LoadedMap], *, reader: str = 'node',
                 name: str = 'ipc_bypass', clock=time.monotonic_ns) -> None:
        self._maps = {map_name: entry.fd for map_name, entry in maps.items()}
        self._ring_entry = maps[READERS[reader]]
        self._cpus = possible_cpus()
        self._reader, self._name, self._clock = reader, name, clock
        self._lease: ReaderLease | None = None
        self._ring: RingBuffer | None = None
        self._beat_at = self._resynchronised = 0

    def apply(self, settings: SamplerSettings) -> None:
        """
        Have these settings hold for packets that come from now on; raises BypassError.

        They are written beside those that hold, and made valid by one number: no packet sees
        half of them.
        """
        packed = settings.packed()
        generation = self._generation() + 1
        # Whoever still reads the settings before these is done with them after this.
        wait_for_programs()
        self._update('sampler_settings', _INDEX.pack(generation & 1), packed)
        self._update('sampler_words', _INDEX.pack(WORD_GENERATION), _WORD.pack(generation))

    @property
    def settings(self) -> SamplerSettings:
        """Return the settings that hold, whoever made them."""
        index = _INDEX.pack(self._generation() & 1)
        return SamplerSettings.unpacked(self._look_up('sampler_settings', index, SETTINGS_SIZE))

    def status(self) -> SamplerStatus:
        """Return what it does and did."""
        size = STATE_SIZE + 7 & ~7
        raw = self._look_up('sampler_state', _INDEX.pack(0), size * self._cpus)
        seen, *sums = map(sum, zip(*(STATE.unpack_from(raw, cpu * size)
                                     for cpu in range(self._cpus)), strict=True))
        selected, counts, readers = sums[:PLACES], sums[PLACES:], {}
        for number, reader in enumerate(READERS):
            readers[reader] = ReaderStatus(
                *counts[number:3 * len(READERS):len(READERS)], self._lease_of(reader).holder)
        settings = self.settings
        return SamplerStatus(settings, seen, sum(selected), tuple(selected), counts[-1], readers)

    def read(self, timeout: float = 0.0, most: int = MOST) -> list[Sample]:
        """
        Return samples as soon as there are some, the oldest first.

        :param timeout: seconds to wait for the first one; none come after it: an empty list
        :raises ReaderError: when another process reads them, or took the right to from this one
        :raises BypassError: when the ring buffer cannot be mapped
        """
        deadline = self._clock() + int(timeout * 1e9)
        while True:
            self.keep()
            found = [_sample(record) for record in self._ring.read(most)]
            left = deadline - self._clock()
            if found or left <= 0:
                return found
            wait = min(left, LOOK_EVERY_NS)
            poll = select.poll()
            poll.register(self._ring.fd, select.POLLIN)
            poll.poll(max(1, wait // 1_000_000))

    def keep(self) -> None:
        """Take the right to read, or keep it; `read` does so, too."""
        now = self._clock()
        if self._lease is None:
            lease = self._lease_of(self._reader)
            lease.take(self._name)
            self._lease = lease
            try:
                self._ring = RingBuffer(self._ring_entry.fd, self._ring_entry.max_entries,
                                        least=SAMPLE.size, most=SAMPLE.size + SNAP)
            except OSError as error:
                self.close()
                raise BypassError('map the ring buffer of samples', errno=error.errno or 0,
                                  next_step='run as root') from error
            except BypassError:
                self.close()
                raise
            self._ring.skip()  # what a reader before this one left
        elif now >= self._beat_at:
            try:
                self._lease.beat()
            except BypassError:
                self.close()
                raise
        else:
            return
        self._beat_at = now + self._fresh_ns() // _BEATS

    @property
    def resynchronised(self) -> int:
        """Return how often this reader found no record where one had to be, and skipped it."""
        return self._resynchronised + (self._ring.resynchronised if self._ring else 0)

    def fileno(self) -> int:
        """Return what is ready for poll(2) when there are samples, woken when many are."""
        return self._ring_entry.fd

    def close(self) -> None:
        """Give the right to read up; settings and counters stay."""
        lease, self._lease = self._lease, None
        ring, self._ring = self._ring, None
        if ring is not None:
            self._resynchronised += ring.resynchronised
            ring.close()
        if lease is not None:
            lease.release()

    def _lease_of(self, reader: str) -> ReaderLease:
        return ReaderLease(self._maps['sampler_leases'], self._maps['sampler_words'], reader,
                           fresh_ns=self._fresh_ns(), clock=self._clock)

    def _fresh_ns(self) -> int:
        # Before the first settings the program believes no heartbeat, but a lease is one.
        return int((self.settings.fresh_seconds or SamplerSettings.fresh_seconds) * 1e9)

    def _generation(self) -> int:
        raw = self._look_up('sampler_words', _INDEX.pack(WORD_GENERATION), _WORD.size)
        return _WORD.unpack(raw)[0]

    def _look_up(self, name: str, key: bytes, size: int) -> bytes:
        return syscall.map_lookup(self._maps[name], key, size)

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        syscall.map_update(self._maps[name], key, value)


def _sample(record: bytes) -> Sample:
    (stamp, interface, queue, captured, every, rule, _, _, family, protocol, flags, ethertype,
     network, _, payload, source, destination, vlan, length) = SAMPLE.unpack_from(record)
    return Sample(stamp, interface, queue, length, record[SAMPLE.size:SAMPLE.size + captured],
                  every, rule, family, protocol, flags, ethertype, vlan, network, payload,
                  source, destination)
