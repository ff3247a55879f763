"""The programs that stand in the slots of a root array: ours, and how a user's own is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.sources import bpf_source

#: Slots of a root array, XDP_SLOTS of bpf/xdp_common.h.
SLOTS = 8
#: Maps that every program of an array shares.
SHARED_MAPS = ('slots', 'counters', 'switches', 'parsed')
#: Which kind stands where; '' is a free slot.
DEFAULT_ORDER = ('', 'sampler', 'filter', 'rate_limiter', 'af_xdp', 'devmap', '', 'bypass')


@dataclass(frozen=True)
class SlotProgram:
    """
    What to load into a slot.

    `kind` is one of KINDS, or 'own' for a user's; `definitions` as if by #define; `sizes` other
    numbers of entries for its maps, by name.
    """

    kind: str
    source: Path
    program: str
    definitions: Mapping[str, int | str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


# kind: (source, program)
_OURS = {
    'sampler': ('xdp_sampler.bpf.c', 'xdp_sampler'),
    'filter': ('xdp_filter.bpf.c', 'xdp_filter'),
    'rate_limiter': ('xdp_limiter.bpf.c', 'xdp_limiter'),
    'af_xdp': ('xdp_steering.bpf.c', 'xdp_steering'),
    'devmap': ('xdp_devmap.bpf.c', 'xdp_devmap'),
    'bypass': ('xdp_bypass.bpf.c', 'xdp_bypass'),
}
KINDS = tuple(_OURS)


def slot_program(kind, *, sizes=None, **definitions):
    """Return the SlotProgram of a kind of ours; raises BypassError where there is no such."""
    if kind not in _OURS:
        raise BypassError(f"load a slot with '{kind}'", 'there is no such kind',
                          next_step=f"use one of {', '.join(KINDS)}")
    source, program = _OURS[kind]
    return SlotProgram(kind, bpf_source(source), program, definitions, sizes or {})


def check_order(order):
    """Raise BypassError unless `order` names each kind once at most, in SLOTS places."""
    kinds = [kind for kind in order if kind]
    if len(order) != SLOTS:
        raise BypassError('read the order of slots', f'it has {len(order)} places, not {SLOTS}',
                          next_step="write '' for a free slot")
    for kind in kinds:
        if kind not in KINDS:
            raise BypassError('read the order of slots', f"there is no kind '{kind}'",
                              next_step=f"use {', '.join(KINDS)}, or '' for a free slot")
        if kinds.count(kind) > 1:
            raise BypassError('read the order of slots', f'{kind} stands in two places')
