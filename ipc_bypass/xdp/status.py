"""
What is shown of an interface: the same facts in tables, JSON, messages and diagnostics.

Field names are those of the messages XdpInterface and XdpSlot; times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import time

from ipc_bypass.xdp.array_view import SlotStatus as ArraySlot
from ipc_bypass.xdp.fast_path.path import PortStatus

#: Verdicts as the kernel program names them, and the fields that show them.
VERDICT_FIELDS = {
    'aborted': 'xdp_aborted', 'drop': 'xdp_drop', 'pass': 'xdp_pass', 'tx': 'xdp_tx',
    'redirect': 'xdp_redirect', 'invalid': 'xdp_invalid_action'}


@dataclass(frozen=True)
class SlotStatus:
    """
    One slot; counts are packets. `program_id` 0: it is empty.

    `entered` are the packets that came to it; of a foreign program it is what the slot before
    it let pass since that was loaded, and no more is known.
    """

    slot: int
    program_id: int = 0
    name: str = ''
    kind: str = ''
    foreign: bool = False
    load_time: float = 0.0
    configured: str = ''
    reason: str = ''
    entered: int = 0
    xdp_aborted: int = 0
    xdp_drop: int = 0
    xdp_pass: int = 0
    xdp_tx: int = 0
    xdp_redirect: int = 0
    xdp_invalid_action: int = 0


@dataclass(frozen=True)
class InterfaceStatus:
    """
    One interface; `slots` is () where it has no root array, `index` 0 where it is not there.

    `packets` came to the root; `counters` are those of the slots, by name.
    """

    name: str
    index: int = 0
    kind: str = ''
    driver: str = ''
    mtu: int = 0
    configured: bool = False
    attached: bool = False
    mode: str = ''
    reason: str = ''
    frags: bool = False
    trace: bool = False
    program_id: int = 0
    load_time: float = 0.0
    packets: int = 0
    slots: tuple[SlotStatus, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FastPathStatus:
    """The container fast path; `way` is '' where it is attached nowhere."""

    enabled: bool = False
    way: str = ''
    problem: str = ''
    ports: tuple[PortStatus, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All interfaces at one moment, and what is not as it was asked for, a line each."""

    interfaces: tuple[InterfaceStatus, ...] = ()
    fast_path: FastPathStatus = field(default_factory=FastPathStatus)
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Return it as what JSON knows."""
        return asdict(self)


def slot_status(row: ArraySlot, *, kind: str = '', configured: str = '',
                reason: str = '') -> SlotStatus:
    """Return a row of an ArrayView with what else is known of it."""
    return SlotStatus(
        slot=row.slot, program_id=row.program_id, name=row.name, kind=kind, foreign=row.foreign,
        load_time=row.load_time, configured=configured, reason=reason, entered=row.entered,
        **{field: row.counts[verdict] for verdict, field in VERDICT_FIELDS.items()})


def boot_time() -> float:
    """Return when this machine started, in seconds since the epoch; the kernel counts from it."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def unit_of(counter: str) -> str:
    """Return the unit of a slot's counter, by its name."""
    for word, unit in (('bytes', 'bytes'), ('sources', 'sources'), ('rules', 'rules'),
                       ('flows', 'flows'), ('samples', 'samples')):
        if word in counter.split('_'):
            return unit
    return 'packets'
