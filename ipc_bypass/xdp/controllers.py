"""
What turns settings into the maps of a slot, and the maps into counters: one class a kind.

A controller lives as long as its slot's program; its maps are the slot's. Counters are packets
where their name says nothing else, and begin with the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.xdp.bypass import Bypass
from ipc_bypass.xdp.devmap import Devmap, DevmapForwarding
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.status import FilterStatus
from ipc_bypass.xdp.interfaces import Interface
from ipc_bypass.xdp.kinds import slot_program, SlotProgram
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.own_slots import OwnProgram
from ipc_bypass.xdp.sampler import Sampler
from ipc_bypass.xdp.steering import Steering

if TYPE_CHECKING:
    from ipc_bypass.xdp.settings import XdpSettings


@dataclass(frozen=True)
class Shared:
    """What the controllers of all interfaces have in common."""

    rules: FilterTable
    forwarding: DevmapForwarding


class Controller:
    """One slot of ours under the node's settings."""

    kind = ''

    def __init__(self, maps: Mapping[str, LoadedMap], shared: Shared, interface: Interface
                 ) -> None:
        self._shared, self._interface = shared, interface
        self.take_over(maps)

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""

    def apply(self, settings: XdpSettings) -> None:
        """Have these settings hold from now on; raises BypassError."""

    def counters(self) -> dict[str, int]:
        """Return what the slot counted."""
        return {}

    def problems(self) -> list[str]:
        """Return what is not as the settings ask for, a line each."""
        return []

    def close(self) -> None:
        """Close what was opened here; the maps stay the slot's."""


class SamplerController(Controller):
    """The sampler; its samples for the node are read by `read`."""

    kind = 'sampler'

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        self._sampler = Sampler(maps, reader='node', name='xdp_helper')

    def apply(self, settings: XdpSettings) -> None:
        """Have these settings hold from now on; raises BypassError."""
        self._sampler.apply(settings.sampler)

    def counters(self) -> dict[str, int]:
        """Return what was seen, selected, and lost, by reader."""
        status = self._sampler.status()
        found = {'sampler_seen': status.seen, 'sampler_selected': status.selected,
                 'sampler_not_copied': status.not_copied}
        for name, reader in status.readers.items():
            found |= {f'sampler_{name}_written': reader.written,
                      f'sampler_{name}_full': reader.full,
                      f'sampler_{name}_unread': reader.unread}
        return found

    def read(self, most: int) -> list:
        """Return the samples that wait, at most so many; raises BypassError."""
        return self._sampler.read(0.0, most)

    def close(self) -> None:
        """Give the right to read up."""
        self._sampler.close()


class FilterController(Controller):
    """The filter; its rules are those of all interfaces."""

    kind = 'filter'
    _filter: Filter | None = None

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        if self._filter is None:
            self._filter = Filter(maps, self._shared.rules)
        else:
            self._filter.take_over(maps)

    def apply(self, settings: XdpSettings) -> None:
        """Put the rules of all and these settings in force; raises BypassError."""
        self._filter.sync(settings.filter)

    def status(self) -> FilterStatus:
        """Return settings, rules with their counters, and packets by outcome."""
        return self._filter.status()

    def counters(self) -> dict[str, int]:
        """Return packets by outcome."""
        return {f'filter_{name}': count for name, count in self.status().outcomes.items()}


class LimiterController(Controller):
    """The rate limiter."""

    kind = 'rate_limiter'

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        self._limiter = RateLimiter(maps)

    def apply(self, settings: XdpSettings) -> None:
        """Have these settings hold from now on; raises BypassError."""
        self._limiter.apply(settings.limits, dry_run=settings.limiter_dry_run)

    def counters(self) -> dict[str, int]:
        """Return packets and bytes by what became of them."""
        status = self._limiter.status()
        return {'limiter_seen': status.seen,
                **{f'limiter_{name}': count for name, count in status.totals.items()},
                'limiter_sources': status.buckets}


class SteeringController(Controller):
    """Steering to AF_XDP sockets."""

    kind = 'af_xdp'

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        self._steering, self._applied = Steering(maps), None

    def apply(self, settings: XdpSettings) -> None:
        """
        Have these settings hold from now on, where they are new; raises BypassError.

        A pipeline in another process may steer more by the same maps meanwhile.
        """
        if settings.steering != self._applied:
            self._steering.apply(settings.steering)
            self._applied = settings.steering

    def counters(self) -> dict[str, int]:
        """Return packets by outcome."""
        return {f'steering_{name}': count for name, count in self._steering.counters().items()}


class DevmapController(Controller):
    """Forwarding by devmap; one keeper writes the tables of all interfaces."""

    kind = 'devmap'

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        self._devmap = Devmap(maps)
        self.enter()

    def enter(self) -> None:
        """Have the keeper write this interface's tables, too."""
        self._shared.forwarding.add(self._interface.index, self._devmap)

    def apply(self, settings: XdpSettings) -> None:
        """Have these settings hold from now on; raises BypassError."""
        self._devmap.enroll(settings.devmap_ports)
        self._devmap.set_active(bool(settings.devmap_bridges))

    def counters(self) -> dict[str, int]:
        """Return frames by what became of them."""
        return {f'devmap_{name}': count for name, count in self._devmap.counters().items()}

    def close(self) -> None:
        """Forward nothing, until the next take_over."""
        self._shared.forwarding.drop(self._interface.index)


class BypassController(Controller):
    """Enrolled flows that leave for their next hops."""

    kind = 'bypass'

    def take_over(self, maps: Mapping[str, LoadedMap]) -> None:
        """Go on with the maps of a program that replaced the slot's."""
        self._bypass = Bypass(maps, self._interface.index)

    def apply(self, settings: XdpSettings) -> None:
        """Have these settings hold from now on; raises BypassError."""
        self._bypass.apply(settings.bypass)
        self._bypass.set_active(bool(settings.bypass.flows))

    def counters(self) -> dict[str, int]:
        """Return packets by what became of them."""
        return {f'bypass_{name}': count for name, count in self._bypass.counters().items()}

    def problems(self) -> list[str]:
        """Return the flows that go the usual way, with the reason."""
        return [f"flow '{flow.text}' goes the usual way: {flow.obstacle}"
                for flow in self._bypass.flows() if flow.obstacle]

    def close(self) -> None:
        """Let nothing leave by the slot, until the next take_over."""
        self._bypass.close()


_CONTROLLERS = {each.kind: each for each in (
    SamplerController, FilterController, LimiterController, SteeringController,
    DevmapController, BypassController)}


def program_of(wanted: str | OwnProgram, settings: XdpSettings) -> SlotProgram:
    """Return what a root array loads for a kind or for a source of the user's."""
    return wanted.slot_program() if isinstance(wanted, OwnProgram) else slot_program(wanted)


def make_controller(kind: str, maps: Mapping[str, LoadedMap], settings: XdpSettings,
                    shared: Shared, interface: Interface) -> Controller | None:
    """Return what controls a slot, with the settings applied; None for one that is not ours."""
    made = _CONTROLLERS.get(kind)
    if made is None:
        return None
    controller = made(maps, shared, interface)
    try:
        controller.apply(settings)
    except BaseException:
        controller.close()
        raise
    return controller
