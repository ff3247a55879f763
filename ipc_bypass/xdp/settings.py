"""What the XDP helper may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.bypass import BypassSettings
from ipc_bypass.xdp.bypass_flows import parse_flow
from ipc_bypass.xdp.fast_path.path import FastPathSettings
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.interfaces import check_patterns
from ipc_bypass.xdp.kinds import check_order, DEFAULT_ORDER
from ipc_bypass.xdp.limits import Limit
from ipc_bypass.xdp.own_slots import OwnProgram, parse_own_slot
from ipc_bypass.xdp.root import DEFAULT_PIN_DIRECTORY, FRAGS, RootSettings
from ipc_bypass.xdp.sampler_settings import SamplerSettings
from ipc_bypass.xdp.steering import SteeringSettings

MODES = ('auto', 'native', 'generic', 'offload')


@dataclass(frozen=True)
class XdpSettings:
    """
    Settings of the XDP helper.

    interfaces           names, globs, or 'bridge:NAME' for the veths of a bridge
    mode                 'auto' (native, then generic), 'native', 'generic' or 'offload'
    frags                'auto' (by the MTU), 'on' or 'off': packets of several buffers
    slots                eight kinds in the order in which packets meet them, '' for a free slot
    own_slots            '2:/folder/program.bpf.c:function' or '6:/sys/fs/bpf/folder/pin'
    trace                write every decision to the kernel's trace
    pin_directory        folder in a bpffs; '' pins nothing
    slot_directory       folder of the sources that services may load; '': none
    slot_pin_directory   folder of the pins that services may load; '': none
    sampler, filter, steering, bypass   of the slots of these kinds
    filter_user_space    run the filter in user space where XDP cannot be attached
    limits               of the rate limiter, each of another prefix or kind
    limiter_dry_run      drop nothing, and count what would be dropped
    devmap_bridges       bridges between whose veths the slot of devmap forwards; (): none
    devmap_ports         {'udp': ((first, last), ...), 'tcp': ...} that it forwards
    fast_path            of the container fast path, which is none of the slots
    """

    interfaces: tuple[str, ...] = ()
    mode: str = 'auto'
    frags: str = 'auto'
    slots: tuple[str, ...] = DEFAULT_ORDER
    own_slots: tuple[str, ...] = ()
    trace: bool = False
    pin_directory: str = DEFAULT_PIN_DIRECTORY
    slot_directory: str = ''
    slot_pin_directory: str = ''
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)  # noqa: A003
    filter_user_space: bool = True
    limits: tuple[Limit, ...] = ()
    limiter_dry_run: bool = False
    devmap_bridges: tuple[str, ...] = ()
    devmap_ports: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    fast_path: FastPathSettings = field(default_factory=FastPathSettings)
    bypass: BypassSettings = field(default_factory=BypassSettings)
    steering: SteeringSettings = field(default_factory=SteeringSettings)

    def __post_init__(self) -> None:
        """Raise BypassError where a value makes no sense."""
        if self.interfaces:
            check_patterns(self.interfaces)
        for name, value, choices in (('mode', self.mode, MODES), ('frags', self.frags, FRAGS)):
            if value not in choices:
                raise BypassError(f"read {name} '{value}'", 'there is no such choice',
                                  next_step=f"use one of {', '.join(choices)}")
        for name in ('slot_directory', 'slot_pin_directory'):
            folder = getattr(self, name)
            if folder and not folder.startswith('/'):
                raise BypassError(f"read {name} '{folder}'", 'it is no absolute path')
        self.sampler.packed()
        for flow in self.bypass.flows:
            parse_flow(flow)
        self.plan()

    def plan(self) -> dict[int, str | OwnProgram]:
        """Return {slot: kind or own program}; raises BypassError where two want one slot."""
        order = tuple(self.slots)
        check_order(order)
        found: dict[int, str | OwnProgram] = {
            index: kind for index, kind in enumerate(order) if kind}
        for text in self.own_slots:
            index, program = parse_own_slot(text)
            if index in found:
                raise BypassError(f"read the own slot '{text}'", f'slot {index} has '
                                  f'{found[index]} already', next_step="free it: write '' in its "
                                  'place in slots')
            found[index] = program
        return dict(sorted(found.items()))

    def root(self) -> RootSettings:
        """Return what a root array is made with."""
        return RootSettings(frags=self.frags, pin_directory=self.pin_directory, trace=self.trace)
