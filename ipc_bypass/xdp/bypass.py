"""
The bypass slot: enrolled flows leave the array for their next hops.

A thread keeps what is known of the next hops true: their MACs by the neighbour table, interfaces
and MTUs by the kernel's messages. While a hop is not known, its packets go the usual way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import struct
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import MapFullError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.pool.memory import map_shared
from ipc_bypass.xdp.bypass_flows import BypassFlow, Network, parse_flow
from ipc_bypass.xdp.next_hops import Hop, NextHops
import numpy as np

_HEADER = 'xdp_bypass.h'
_MAPPED = bytes(10) + b'\xff\xff'
_NUMBER = struct.Struct('=I')


@dataclass(frozen=True)
class BypassSettings:
    """
    What the slot may be told.

    flows         texts, see bypass_flows.parse_flow; the first one that a packet is of counts
    heartbeat_ms  how long next hops are good without a word from this process
    """

    flows: tuple[str, ...] = ()
    heartbeat_ms: int = 2000


@dataclass(frozen=True)
class FlowStatus:
    """
    One flow.

    `mac` is its next hop's, '' and `obstacle` why, where its packets go the usual way; packets
    and bytes are those that left by the slot, `passed` the packets that did not.
    """

    text: str
    mac: str
    obstacle: str
    packets: int
    bytes: int  # noqa: A003
    passed: int


class Bypass:
    """
    The tables of one interface's slot; every method may be called from any thread.

    Acts in the namespace of the thread that makes it.

    :param maps: LoadedSlot.maps; they stay the slot's
    :param index: ifindex of the array's interface
    """

    def __init__(self, maps: Mapping[str, LoadedMap], index: int) -> None:
        self._lock = threading.RLock()
        self._maps = dict(maps)
        enums = enumerations(bpf_source(_HEADER))
        self._flags, reasons = enums['bypass_flow_flag'], enums['bypass_pass_reason']
        self.reasons = tuple(
            name.removeprefix('BYPASS_PASS_').lower() for name, number in reasons.items()
            if 0 < number < reasons['BYPASS_PASS_REASONS'])
        self._settings = self._view('bypass_settings')
        self._asked = self._view('bypass_ports', '<u8')
        self._room = maps['bypass_flows'].max_entries
        self._flows: list[BypassFlow] = []
        self._hops: dict[int, Hop] = {}
        self._next_hops = NextHops(index, self._write_hops, self._beat)

    def apply(self, settings: BypassSettings) -> None:
        """
        Have these flows leave by the slot, and no others, from now on.

        Counters of a flow go on where it keeps its place in the list.

        :raises BypassError: a flow makes no sense; all is as it was
        :raises MapFullError: there are more of them than there is room for
        """
        flows = [parse_flow(text) for text in settings.flows]
        if len(flows) > self._room:
            raise MapFullError('enroll the flows of the bypass',
                               f'there are {len(flows)}, and room for {self._room}',
                               next_step='join some by wider prefixes or ranges')
        with self._lock:
            if flows != self._flows:
                self._exchange(flows)
            self._next_hops.keep([(flow.hop, flow.interface) for flow in flows],
                                 settings.heartbeat_ms)

    def set_active(self, active: bool) -> None:
        """Let packets leave by the slot, or none."""
        with self._lock:
            self._settings['active'] = int(active)

    def close(self) -> None:
        """Let no packet leave any more, and end the thread."""
        self.set_active(False)
        self._next_hops.close()

    def counters(self) -> dict[str, int]:
        """
        Return what became of the packets.

        `packets` (that left) and the sum of `passed_REASON` are all that the slot saw.
        """
        values = self._summed('bypass_totals', 0)
        return {'packets': values['packets'], 'bytes': values['bytes'],
                **{f'passed_{name}': values['passed'][number]
                   for number, name in enumerate(self.reasons, start=1)}}

    @property
    def problem(self) -> str:
        """Return what keeps the thread from looking after the next hops, '' for nothing."""
        return self._next_hops.problem

    def flows(self) -> list[FlowStatus]:
        """Return every flow, in the order in which they count."""
        with self._lock:
            found, problem = [], self.problem
            for number, flow in enumerate(self._flows):
                hop, counted = self._hops.get(number), self._summed('bypass_flow_totals', number)
                found.append(FlowStatus(
                    flow.text, hop.mac.hex(':') if hop and hop.mac and not problem else '',
                    f'the next hops are not looked after ({problem})' if problem
                    else hop.obstacle if hop else 'the next hop was not looked for yet',
                    counted['packets'], counted['bytes'], counted['passed']))
            return found

    # Inside -----------------------------------------------------------------------------------

    def _exchange(self, flows: list[BypassFlow]) -> None:
        """Put other flows in the places of those that are there."""
        changed = [number for number in range(self._room)
                   if (flows[number:number + 1] or [None]) != (self._flows[number:number + 1]
                                                               or [None])]
        keep = ~np.uint64(sum(1 << number for number in changed))
        self._asked[:] &= keep
        wait_for_programs()
        for number in changed:
            syscall.map_delete(self._maps['bypass_flows'].fd, _NUMBER.pack(number))
            self._hops.pop(number, None)
            size = self._maps['bypass_flow_totals'].value_size
            syscall.map_update(self._maps['bypass_flow_totals'].fd, _NUMBER.pack(number),
                               bytes(size * syscall.possible_cpus()))
        self._flows = flows
        for number in (number for number in changed if number < len(flows)):
            self._put(number)
            first, last = flows[number].destination_ports
            self._asked[first:last + 1] |= np.uint64(1 << number)

    def _write_hops(self, hops: Iterable[Hop]) -> None:
        """Write what the thread found of the next hops, one for each flow."""
        with self._lock:
            for number, hop in enumerate(hops):
                if number < len(self._flows) and self._hops.get(number) != hop and (
                        hop.wanted == (self._flows[number].hop, self._flows[number].interface)):
                    self._hops[number] = hop
                    self._put(number)

    def _beat(self, until_ns: int) -> None:
        self._settings['fresh_until_ns'] = until_ns

    def _put(self, number: int) -> None:
        flow, hop = self._flows[number], self._hops.get(number)
        values = {'protocol': flow.protocol, 'source_first': flow.source_ports[0],
                  'source_last': flow.source_ports[1],
                  'destination_first': flow.destination_ports[0],
                  'destination_last': flow.destination_ports[1],
                  'family': flow.family,
                  'flags': self._flags['BYPASS_ROUTED'] if flow.routed else 0}
        for name, network in (('source', flow.source), ('destination', flow.destination)):
            values[name], values[f'{name}_mask'] = _words(network)
        if hop and not hop.obstacle:
            values['flags'] |= self._flags['BYPASS_RESOLVED']
            values |= {'ifindex': hop.ifindex, 'mtu': hop.mtu, 'source_mac': hop.source_mac,
                       'next_mac': hop.mac, 'arrival_mac': hop.arrival_mac}
        entry = self._maps['bypass_flows']
        syscall.map_update(entry.fd, _NUMBER.pack(number), entry.value.pack(values))
        # The hash writes the next entry over the one that this replaced: not while it is read.
        wait_for_programs()

    def _summed(self, name: str, number: int) -> dict:
        entry = self._maps[name]
        raw = syscall.map_lookup(entry.fd, _NUMBER.pack(number),
                                 entry.value_size * syscall.possible_cpus())
        rows = np.frombuffer(raw, '<u8').reshape(-1, entry.value_size // 8)
        return entry.value.unpack(rows.sum(axis=0, dtype='<u8').tobytes())

    def _view(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Map an array; the kernel rounds values up to eight bytes (kernel/bpf/arraymap.c)."""
        entry = self._maps[name]
        made = np.dtype(dtype or entry.value.dtype_dict())
        size = (entry.value_size + 7) // 8 * 8 * entry.max_entries
        return np.frombuffer(map_shared(entry.fd, size), made, size // made.itemsize)


def _words(network: Network | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (address, mask) as words; None is any address."""
    if network is None:
        address = mask = bytes(16)
    elif network.version == 4:
        address = _MAPPED + network.network_address.packed
        mask = b'\xff' * 12 + network.netmask.packed
    else:
        address, mask = network.network_address.packed, network.netmask.packed
    return struct.unpack('=4I', address), struct.unpack('=4I', mask)
