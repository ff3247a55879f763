"""
The maps of the container fast path.

A port's entries are written while it is out of use, and come into use by one word that is stored
last, and only if nothing has spoken against them meanwhile; one store takes them out of use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.pool.memory import map_shared
from ipc_bypass.xdp.fast_path.containers import BridgePort
import numpy as np

HEADER = 'tc_fast_path.h'
TRANSPORTS = ('udp', 'tcp')
_NUMBER = struct.Struct('=I')


@dataclass
class _Entry:
    """What stands in the maps of a port, and its number and generation."""

    port: BridgePort
    number: int
    generation: int
    key: bytes | None


class Tables:
    """
    Keeper of the maps; for one thread, but for `enroll`, `counters` and `set_active`.

    :param maps: the program's; they stay the caller's
    """

    def __init__(self, maps: Mapping[str, LoadedMap]) -> None:
        self._maps = maps
        enums = enumerations(bpf_source(HEADER))
        self._transports = {name: enums['fast_transport'][f'FAST_{name.upper()}']
                            for name in TRANSPORTS}
        self._container = enums['fast_port_flag']['FAST_PORT_CONTAINER']
        self.reasons = tuple(
            name.removeprefix('FAST_PASS_').lower()
            for name, number in enums['fast_pass_reason'].items()
            if 0 < number < enums['fast_pass_reason']['FAST_PASS_REASONS'])
        self._settings = self._view('fast_settings')
        self._states = self._view('fast_states')
        self._enrolled = self._view('fast_ports', '<u8')  # an array's values have 8 bytes each
        self._entries: dict[int, _Entry] = {}
        self._free = list(range(maps['fast_states'].max_entries - 1, 0, -1))
        self._generation = 0
        self._gone = self._zero()

    # Settings ---------------------------------------------------------------------------------

    def enroll(self, ranges: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """Make these the enrolled ports: {'udp': [(first, last)], 'tcp': [...]}."""
        words = np.zeros(65536, dtype='<u8')
        for transport, of_transport in ranges.items():
            for first, last in of_transport:
                words[first:last + 1] |= self._transports[transport]
        self._enrolled[:] = words

    def set_active(self, active: bool) -> None:
        """Let frames be handed over, or none."""
        self._settings['active'] = int(active)

    def beat(self, until_ns: int) -> None:
        """Say that the tables are good until then (CLOCK_MONOTONIC), if nobody says otherwise."""
        self._settings['fresh_until_ns'] = until_ns

    # Ports ------------------------------------------------------------------------------------

    def disable(self, indices: Iterable[int] | None = None) -> None:
        """Take ports out of use at once, by ifindex; all of them for None."""
        for index in self._entries if indices is None else indices:
            if index in self._entries:
                self._states['activated'][self._entries[index].number] = 0

    def write(self, ports: Mapping[int, BridgePort]) -> list[int]:
        """
        Make the entries what these ports are; return those that are to be activated.

        What is in use and as it was stays in use, all else is out of use.

        :raises OSError: a map cannot be written; what was to be changed is out of use
        """
        gone = [index for index in self._entries if index not in ports]
        changed = [index for index, port in ports.items() if not self._stands(index, port)]
        self.disable([*gone, *changed])
        for index in (*gone, *changed):
            # First of all, so that a MAC that went from one to another is not deleted after it.
            self._remove_station(index)
        for index in gone:
            syscall.map_delete(self._maps['bridge_ports'].fd, _NUMBER.pack(index))
        if gone:
            wait_for_programs()
        for index in gone:
            self._release(index)
        return [index for index in changed if self._enter(ports[index])]

    def activate(self, indices: Iterable[int]) -> None:
        """Bring written entries into use."""
        for index in indices:
            entry = self._entries[index]
            self._states['activated'][entry.number] = entry.generation

    def in_use(self, index: int) -> bool:
        """Return whether frames are handed over from and to a port."""
        entry = self._entries.get(index)
        return entry is not None and self._activated(entry) and not self._moved(entry)

    def moved(self) -> list[int]:
        """Return the ports whose MAC the program saw elsewhere, since they were activated."""
        return [index for index, entry in self._entries.items()
                if self._activated(entry) and self._moved(entry)]

    def has(self, index: int) -> bool:
        """Return whether there was room for a port."""
        return index in self._entries

    # Counters ---------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """
        Return what became of all frames since the start.

        `packets` handed over and the sum of `passed_REASON` are all that were seen.
        """
        total = self._gone + sum((self._row(number) for number in self._numbers()), self._zero())
        return self._named(total)

    def port_counters(self, index: int) -> dict[str, int]:
        """Return the same of the frames that came in at one port."""
        entry = self._entries.get(index)
        return self._named(self._row(entry.number) if entry else self._zero())

    # Inside -----------------------------------------------------------------------------------

    def _stands(self, index: int, port: BridgePort) -> bool:
        entry = self._entries.get(index)
        if entry is None or entry.port != port:
            return False
        return port.container is None or (self._activated(entry) and not self._moved(entry))

    def _enter(self, port: BridgePort) -> bool:
        """Write a port's entries; return whether there is something to activate."""
        entry = self._entries.get(port.index)
        if entry is None:
            if not self._free:
                return False
            entry = self._entries[port.index] = _Entry(port, self._free.pop(), 0, None)
        self._generation = self._generation % 0xffffffff + 1
        entry.port, entry.generation = port, self._generation
        container = port.container
        values = {'bridge': port.bridge, 'number': entry.number, 'generation': entry.generation}
        if container:
            values |= {'flags': self._container, 'mac': container.mac}
        self._put('bridge_ports', _NUMBER.pack(port.index), values)
        if container is None:
            return False
        entry.key = self._maps['stations'].key.pack({'bridge': port.bridge,
                                                     'mac': container.mac})
        words = struct.unpack(f'={len(container.addresses) * 4}I', b''.join(container.addresses))
        # As many words as the value has room for; those beyond `addresses` are not looked at.
        room = self._maps['stations'].value.fields['address'].size // 4
        self._put('stations', entry.key, {
            'ifindex': port.index, 'number': entry.number, 'generation': entry.generation,
            'mtu': container.mtu, 'addresses': len(container.addresses),
            'address': (*words, *(0,) * (room - len(words)))})
        return True

    def _put(self, name: str, key: bytes, values: dict) -> None:
        syscall.map_update(self._maps[name].fd, key, self._maps[name].value.pack(values))

    def _remove_station(self, index: int) -> None:
        entry = self._entries.get(index)
        if entry and entry.key:
            syscall.map_delete(self._maps['stations'].fd, entry.key)
            entry.key = None

    def _release(self, index: int) -> None:
        """Give a port's number back; what it counted stays in the sum."""
        entry = self._entries.pop(index)
        counted = self._row(entry.number)
        size = counted.size * 8
        syscall.map_update(self._maps['fast_totals'].fd, _NUMBER.pack(entry.number),
                           bytes(size * syscall.possible_cpus()))
        self._gone = self._gone + counted
        self._free.append(entry.number)

    def _activated(self, entry: _Entry) -> bool:
        return int(self._states['activated'][entry.number]) == entry.generation

    def _moved(self, entry: _Entry) -> bool:
        return int(self._states['moved'][entry.number]) == entry.generation

    def _numbers(self) -> list[int]:
        return [0, *(entry.number for entry in list(self._entries.values()))]

    def _row(self, number: int) -> np.ndarray:
        size = self._maps['fast_totals'].value_size
        raw = syscall.map_lookup(self._maps['fast_totals'].fd, _NUMBER.pack(number),
                                 size * syscall.possible_cpus())
        return np.frombuffer(raw, '<u8').reshape(-1, size // 8).sum(axis=0, dtype='<u8')

    def _zero(self) -> np.ndarray:
        return np.zeros(self._maps['fast_totals'].value_size // 8, dtype='<u8')

    def _named(self, row: np.ndarray) -> dict[str, int]:
        values = self._maps['fast_totals'].value.unpack(row.tobytes())
        return {'packets': values['packets'], 'bytes': values['bytes'], 'moves': values['moves'],
                **{f'passed_{name}': values['passed'][number]
                   for number, name in enumerate(self.reasons, start=1)}}

    def _view(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Map an array; the kernel rounds values up to eight bytes (kernel/bpf/arraymap.c)."""
        entry = self._maps[name]
        made = np.dtype(dtype or entry.value.dtype_dict())
        size = (entry.value_size + 7) // 8 * 8 * entry.max_entries
        return np.frombuffer(map_shared(entry.fd, size), made, size // made.itemsize)
