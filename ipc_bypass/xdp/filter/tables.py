"""
Write compiled rules into the maps of the filter while packets flow.

Everything that rules decide is in the maps twice. What is not in force is written, then one store
of 8 bytes puts it in force; before anything of the other is written, all programs that may have
been looking at it have ended. So a packet is judged by the rules of before or by those of after.
"""

from __future__ import annotations

from collections.abc import Mapping
import errno
import mmap
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError, MapFullError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp.filter.compiled import Compiled
from ipc_bypass.xdp.filter.model import OUTCOMES
from ipc_bypass.xdp.filter.settings import FilterSettings
import numpy as np

_GENERATION = 0x80000000
_FIRST = bytes(4)
_ADDRESS = struct.Struct('=HH')
_RULE = struct.Struct('=QQ')


class FilterTables:
    """
    The maps of one filter; does not own their descriptors.

    Whatever they hold already, of an earlier process as well, is taken for what is there.
    """

    def __init__(self, maps: Mapping[str, LoadedMap]) -> None:
        """Map them; raises BypassError."""
        self._maps = maps
        self._sizes = enumerations(bpf_source('xdp_filter.h'))['filter_size']
        self._cpus = syscall.possible_cpus()
        # BPF arrays are mapped by whole pages.
        self._settings = self._view('filter_settings', '<u8').reshape(-1)
        self._multipliers = self._settings[3:4].view('<u4')
        ports = self._view('filter_ports', '<u2').reshape(-1, 4)
        self._ports = ports[:2 * self._sizes['FILTER_PORTS']].reshape(2, -1, 4)
        self._protocols = ports[2 * self._sizes['FILTER_PORTS']:].reshape(2, -1, 4)
        self._classes = self._view('filter_classes', '<u4').reshape(2, -1, 4)
        self._groups = self._view('filter_groups', '<u8').reshape(2, -1, 8)
        self._combined = self._view('filter_combined', '<u4').reshape(2, -1, 2)
        self._buckets = self._view('filter_hosts4', '<u4').reshape(2, -1, 2, 8)
        self._written = self._read_addresses()

    @property
    def generation(self) -> int:
        """Return which of the two is in force, 0 or 1."""
        return int(self._settings[0]) >> 31 & 1

    def write(self, compiled: Compiled, settings: FilterSettings) -> None:
        """
        Put rules and settings in force, all at once.

        :raises MapFullError: the hosts or the prefixes do not fit; what was in force still is
        :raises BypassError: a map cannot be written; what was in force still is
        """
        other = 1 - self.generation
        try:
            self._write_addresses(other, compiled)
        except OSError as error:
            what = 'write the rules of the filter'
            if error.errno in (errno.ENOSPC, errno.E2BIG):
                raise MapFullError(what, f'{len(compiled.hosts)} hosts and '
                                   f'{len(compiled.prefixes)} prefixes do not fit',
                                   errno=error.errno,
                                   next_step='use prefixes instead of hosts') from error
            raise BypassError(what, errno=error.errno or 0) from error
        self._ports[other] = compiled.ports
        self._protocols[other] = compiled.protocols
        self._classes[other, :len(compiled.classes)] = compiled.classes
        self._groups[other, :len(compiled.groups)] = compiled.groups
        self._combined[other, :len(compiled.combined)] = compiled.combined
        self._settings[1:3] = settings.ptb_interval_ns, settings.ptb_tolerance_ns
        self._buckets[other] = compiled.buckets
        self._multipliers[other] = compiled.multiplier
        # All of it is there for every processor before the turn, and nobody looks at the
        # generation of before once the second wait is over.
        wait_for_programs()
        self._settings[0] = compiled.flags | _GENERATION * other | settings.ptb_mtu << 32
        wait_for_programs()

    def outcomes(self) -> dict[str, int]:
        """Return packets by outcome, all processors together."""
        rows = self._per_cpu('filter_counters', _FIRST).sum(axis=0, dtype='<u8')
        return dict(zip(OUTCOMES, rows.tolist(), strict=True))

    def rule_counters(self, index: int) -> tuple[int, int]:
        """Return (packets, bytes) of the rule with these counters."""
        rows = self._per_cpu('filter_rules', struct.pack('=I', index)).sum(axis=0, dtype='<u8')
        return int(rows[0]), int(rows[1])

    def clear_rule(self, index: int) -> None:
        """Set the counters of a rule that is not in force to 0."""
        syscall.map_update(self._maps['filter_rules'].fd, struct.pack('=I', index),
                           bytes(_RULE.size * self._cpus))

    def _per_cpu(self, name, key):
        size = (self._maps[name].value_size + 7) // 8
        raw = syscall.map_lookup(self._maps[name].fd, key, size * 8 * self._cpus)
        return np.frombuffer(raw, '<u8').reshape(self._cpus, size)

    def _view(self, name, kind):
        entry = self._maps[name]
        size = entry.max_entries * ((entry.value_size + 7) // 8 * 8)
        try:
            memory = mmap.mmap(entry.fd, size, mmap.MAP_SHARED,
                               mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as error:
            raise BypassError(f'map {name} of the filter', getattr(error, 'strerror', '')
                              or str(error), errno=getattr(error, 'errno', 0) or 0) from error
        return np.frombuffer(memory, kind)

    def _keys(self, generation, compiled):
        """Return {map: {key: value}} of the addresses of a generation."""
        found = {name: {} for name in self._written[generation]}
        start = struct.pack('=I', generation)
        for address, classes in compiled.hosts.items():
            found['filter_hosts6'][start + address] = _ADDRESS.pack(*classes)
        for (bits, address), classes in compiled.prefixes.items():
            name = 'filter_prefixes4' if len(address) == 4 else 'filter_prefixes6'
            found[name][struct.pack('=I', 32 + bits) + start + address] = _ADDRESS.pack(*classes)
        return found

    def _write_addresses(self, generation, compiled):
        for name, wanted in self._keys(generation, compiled).items():
            there, fd = self._written[generation][name], self._maps[name].fd
            for key in there.keys() - wanted.keys():
                syscall.map_delete(fd, key)
                del there[key]
            added = {key: value for key, value in wanted.items() if there.get(key) != value}
            # Noted first: what is noted and not there is no harm, the other way round is.
            there.update(added)
            try:
                syscall.map_update_batch(fd, b''.join(added), b''.join(added.values()),
                                         len(added))
            except OSError:
                self._written = self._read_addresses()
                raise

    def _read_addresses(self):
        """Return [{map: {key: value}}] by generation, as the maps have it."""
        found = [{}, {}]
        for name, place in (('filter_hosts6', 0), ('filter_prefixes4', 4),
                            ('filter_prefixes6', 4)):
            entry = self._maps[name]
            for part in found:
                part[name] = {}
            for key, value in syscall.map_items(entry.fd, entry.key_size, entry.value_size):
                generation, = struct.unpack_from('=I', key, place)
                found[generation & 1][name][key] = value
        return found
