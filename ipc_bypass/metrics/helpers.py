"""Metrics of the nodes xdp_helper and sockmap_helper, from their ~/status."""

from __future__ import annotations

from collections.abc import Iterator
import heapq
from types import SimpleNamespace

from ipc_bypass.metrics.bypass import STATES
from ipc_bypass.metrics.families import counter, gauge, states
from ipc_bypass.proxy.metrics import families as families_of_report
from ipc_bypass.proxy.status import PATHS

_ACTIONS = ('aborted', 'drop', 'pass', 'tx', 'redirect', 'invalid_action')
#: Most interfaces with series of their own; containers come and go.
MOST_INTERFACES = 64


def xdp_families(message) -> Iterator:
    """Yield the families of an XdpStatus message."""
    shown = heapq.nlargest(MOST_INTERFACES, message.interfaces,
                           key=lambda interface: interface.packets)
    yield states('xdp_node_state', 'Lifecycle state of the node xdp_helper.',
                 STATES.get(message.state, ''), STATES.values())
    yield gauge('xdp_interfaces_left_out', 'Interfaces without series of their own.',
                [(len(message.interfaces) - len(shown),)])
    yield gauge('xdp_attached', '1 where a root array is attached, by mode.', [
        (each.name, each.mode, float(each.attached)) for each in shown], ('interface', 'mode'))
    yield counter('xdp_packets', 'Packets that came to the root program.', [
        (each.name, each.packets) for each in shown], ('interface',))
    yield counter('xdp_slot_packets', 'Packets that came to a slot, by what it did with them.', [
        (each.name, slot.slot, slot.kind or slot.name, action,
         getattr(slot, f'xdp_{action}')) for each in shown for slot in each.slots
        if slot.program_id for action in _ACTIONS], ('interface', 'slot', 'kind', 'action'))
    yield counter('xdp_events', 'Counters of the slots, by name.', [
        (each.name, one.name, one.value) for each in shown for one in each.counters],
        ('interface', 'event'))
    yield gauge('xdp_fast_path_ports', 'Ports of bridges, by whether the container fast path '
                'uses them.', [
                    (use, sum(port.in_use == used for port in message.fast_path.ports))
                    for use, used in (('used', True), ('not used', False))], ('use',))
    yield counter('xdp_fast_path_events', 'What the container fast path did, by name.', [
        (one.name, one.value) for one in message.fast_path.counters], ('event',))
    yield gauge('xdp_problems', 'Things that are not as configured.', [(len(message.problems),)])


def proxy_families(message) -> Iterator:
    """Yield the families of a ProxyStatus message; they are those of the node's own port."""
    yield states('proxy_node_state', 'Lifecycle state of the node sockmap_helper.',
                 STATES.get(message.state, ''), STATES.values())
    yield from families_of_report(SimpleNamespace(
        forwards=[_forward(each) for each in message.forwards],
        counters={each.name: each.value for each in message.counters}))


def _forward(message) -> SimpleNamespace:
    """Return what proxy.metrics reads of a ForwardStatus, from a ProxyForward message."""
    counters = {each.name: each.value for each in message.counters}
    counters |= {name: getattr(message, name)
                 for name in ('accepted', 'bytes_onward', 'bytes_back')}
    return SimpleNamespace(
        id=message.id, forward=SimpleNamespace(listen=message.listen, backend=message.backend),
        health=message.health, counters=counters,
        open={path: getattr(message, path) for path in PATHS})
