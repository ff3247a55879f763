"""What a root array shows of itself: who stands in its slots, and what they answered."""

from dataclasses import asdict, dataclass
import os
from pathlib import Path
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.maps import possible_cpus
from ipc_bypass.xdp.kinds import SLOTS

#: Verdicts in the order of struct xdp_slot_counters, bpf/xdp_common.h.
VERDICTS = ('aborted', 'drop', 'pass', 'tx', 'redirect', 'invalid')
ROOT = 'root'
_ROW = struct.Struct(f'={len(VERDICTS)}Q')


@dataclass(frozen=True)
class SlotStatus:
    """
    One slot.

    `program_id` is 0 and `name` '' where it is empty; `load_time` is seconds since the epoch;
    `counts` packets by verdict, where pass means that the next slot saw them, or that this one let
    them go to the kernel by an XDP_PASS of its own. A foreign program (it is none of ours: it does
    not count its verdicts, and ends the chain) has `entered` alone: what the slot before it let
    pass since that was loaded.
    """

    slot: int
    program_id: int
    name: str
    load_time: float
    foreign: bool
    entered: int
    counts: dict[str, int]

    def as_dict(self):
        """Return it for JSON."""
        return asdict(self)


class ArrayView:
    """Reads the maps of an array; does not own their descriptors."""

    def __init__(self, slots_fd, counters_fd):
        """Look at these maps, `slots` and `counters`."""
        self._slots, self._counters = slots_fd, counters_fd
        self._cpus = possible_cpus()

    def counters(self):
        """Return {slot: {verdict: packets}}, with ROOT for the root itself, since the start."""
        return {ROOT if index == SLOTS else index: self._row(index)
                for index in range(SLOTS + 1)}

    def clear(self, index):
        """Set the counters of a slot to 0."""
        syscall.map_update(self._counters, struct.pack('=I', index),
                           bytes(_ROW.size * self._cpus))

    def slots(self):
        """Return a SlotStatus for each slot, in their order."""
        counters = self.counters()
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        found, entered = [], sum(counters[ROOT].values())
        for index in range(SLOTS):
            info = self._program(index)
            if info is None:
                found.append(SlotStatus(index, 0, '', 0.0, False, 0, counters[index]))
                continue
            foreign = not self._shares_counters(info)
            came = entered if foreign else sum(counters[index].values())
            found.append(SlotStatus(index, info.id, info.name, boot + info.load_time_ns / 1e9,
                                    foreign, came, counters[index]))
            entered = 0 if foreign else counters[index]['pass']
        return found

    def _row(self, index):
        raw = syscall.map_lookup(self._counters, struct.pack('=I', index), _ROW.size * self._cpus)
        rows = [_ROW.unpack_from(raw, cpu * _ROW.size) for cpu in range(self._cpus)]
        return dict(zip(VERDICTS, map(sum, zip(*rows, strict=True)), strict=True))

    def _program(self, index):
        """Return the ProgInfo of a slot, None where it is empty or just being changed."""
        raw = syscall.map_lookup(self._slots, struct.pack('=I', index), 4)
        if raw is None:
            return None
        try:
            fd = syscall.prog_get_fd_by_id(*struct.unpack('=I', raw))
        except OSError:
            return None
        try:
            return syscall.prog_info(fd)
        finally:
            os.close(fd)

    def _shares_counters(self, info):
        return syscall.map_info(self._counters).id in info.map_ids


def pinned_arrays(pin_directory):
    """Return {(inode of the network namespace, interface's index): folder of its pins}."""
    found = {}
    for place in Path(pin_directory).glob('xdp_*'):
        parts = place.name.split('_')
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            found[int(parts[1]), int(parts[2])] = place
    return found
