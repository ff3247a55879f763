"""What the filter may be told, beside its rules."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.xdp.filter.rules import ACTIONS, FilterRule

#: Every IPv6 link carries that much (RFC 8200, 5), and no answer quotes more of a packet.
SMALLEST_MTU, LARGEST_MTU = 1280, 65535
LARGEST_RATE = 1_000_000


@dataclass(frozen=True)
class FilterSettings:
    """
    Settings of the filter; the node's parameters of the same names, with filter_ before them.

    default_action  'allow' or 'deny': what becomes of IP packets that no rule matches
    rules           texts as rules.parse takes them, or FilterRules
    frags_drop      drop every fragment, the first one included, before the rules are asked
    malformed_drop  drop frames whose headers are cut or contradict themselves
    other_drop      drop frames that are not IP; ARP is one of them
    ptb_send        answer packets that are too big and may not be fragmented
    ptb_mtu         bytes of an IP packet; longer ones are too big
    ptb_max_pps     answers a second in the long run; a tenth of a second's may go out at once
    """

    default_action: str = 'allow'
    rules: tuple[str | FilterRule, ...] = ()
    frags_drop: bool = False
    malformed_drop: bool = True
    other_drop: bool = False
    ptb_send: bool = False
    ptb_mtu: int = 1500
    ptb_max_pps: int = 20

    def __post_init__(self) -> None:
        """Raise RuleError INVALID_SETTING where a value makes no sense."""
        if self.default_action not in ACTIONS:
            raise _refusal('default_action', self.default_action, "'allow' or 'deny'")
        if not SMALLEST_MTU <= self.ptb_mtu <= LARGEST_MTU:
            raise _refusal('ptb_mtu', self.ptb_mtu, f'{SMALLEST_MTU} to {LARGEST_MTU} bytes')
        if not 0 <= self.ptb_max_pps <= LARGEST_RATE:
            raise _refusal('ptb_max_pps', self.ptb_max_pps, f'0 to {LARGEST_RATE} a second')
        object.__setattr__(self, 'rules', tuple(self.rules))

    @property
    def ptb_interval_ns(self) -> int:
        """Return the time between answers in the long run, 0 for no answers at all."""
        return 1_000_000_000 // self.ptb_max_pps if self.ptb_max_pps else 0

    @property
    def ptb_tolerance_ns(self) -> int:
        """Return how far answers may run ahead: a burst of a tenth of a second, 1 at least."""
        return (max(1, self.ptb_max_pps // 10) - 1) * self.ptb_interval_ns

    def shown(self) -> dict[str, str | int | bool]:
        """Return every setting but the rules by name, as status shows them."""
        return {field.name: getattr(self, field.name) for field in fields(self)
                if field.name != 'rules'}


def _refusal(name, value, allowed):
    return RuleError(f'set {name} of the filter to {value!r}', f'it is {allowed}',
                     code='INVALID_SETTING')
