"""
Filters as their pins show them, where no node answers: settings and counters.

The texts of rules are the node's: the maps hold what they come to, not what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp.filter.model import OUTCOMES
from ipc_bypass.xdp.filter.settings import FilterSettings, SMALLEST_MTU
from ipc_bypass.xdp.filter.status import FilterStatus
from ipc_bypass.xdp.interfaces import interfaces, matching
from ipc_bypass.xdp.pinned import arrays_here, open_slot_maps

NOT_ATTACHED = 'root array not attached'
NO_FILTER = 'no filter is loaded'
RULES_UNKNOWN = 'the rules are known to the node alone, and it does not answer'
# struct filter_settings of bpf/xdp_filter.h.
_SETTINGS = struct.Struct('=IIQQ')


def pinned_filters(pin_directory: str, patterns: Sequence[str] = ()
                   ) -> dict[str, FilterStatus | str]:
    """
    Return the filters of this namespace by interface, or a line that says why there is none.

    :param patterns: as for pinned.pinned_report
    """
    present, arrays = interfaces(), arrays_here(pin_directory)
    chosen = matching(patterns, present) if patterns else [
        each for each in present if each.index in arrays]
    found: dict[str, FilterStatus | str] = {
        each.name: _filter(arrays[each.index]) if each.index in arrays else NOT_ATTACHED
        for each in chosen}
    found |= {pattern: 'there is no such interface' for pattern in patterns
              if not matching([pattern], present)}
    return found


def _filter(folder: Path) -> FilterStatus | str:
    slots = open_slot_maps(folder)
    try:
        for maps in slots.values():
            if {'filter_settings', 'filter_counters'} <= maps.keys():
                return _status(maps)
        return NO_FILTER
    finally:
        for maps in slots.values():
            for fd in maps.values():
                os.close(fd)


def _status(maps: dict[str, int]) -> FilterStatus:
    flag = enumerations(bpf_source('xdp_filter.h'))['filter_flag']
    raw = syscall.map_lookup(maps['filter_settings'], bytes(4), _SETTINGS.size)
    flags, mtu, interval, _ = _SETTINGS.unpack(raw)
    settings = FilterSettings(
        default_action='deny' if flags & flag['FILTER_DEFAULT_DENY'] else 'allow',
        frags_drop=bool(flags & flag['FILTER_DROP_FRAGMENTS']),
        malformed_drop=bool(flags & flag['FILTER_DROP_MALFORMED']),
        other_drop=bool(flags & flag['FILTER_DROP_OTHER']),
        ptb_send=bool(flags & flag['FILTER_ANSWER_TOO_BIG']),
        ptb_mtu=max(mtu, SMALLEST_MTU),
        ptb_max_pps=round(1e9 / interval) if interval else 0)
    row, cpus = struct.Struct(f'={len(OUTCOMES)}Q'), syscall.possible_cpus()
    raw = syscall.map_lookup(maps['filter_counters'], bytes(4), row.size * cpus)
    sums = map(sum, zip(*(row.unpack_from(raw, cpu * row.size) for cpu in range(cpus)),
                        strict=True))
    return FilterStatus('xdp', RULES_UNKNOWN, settings.shown(), (),
                        dict(zip(OUTCOMES, sums, strict=True)))
