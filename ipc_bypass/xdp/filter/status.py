"""What the filter shows of itself, and `ipc-bypass xdp filter status` of every interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ipc_bypass.xdp.filter.model import DROP, PASS, TX, verdict_of
from ipc_bypass.xdp.filter.settings import FilterSettings


@dataclass(frozen=True)
class RuleStatus:
    """One rule; packets and bytes (of whole frames) are those that it decided."""

    id: int  # noqa: A003
    rule: str
    origin: str
    packets: int = 0
    bytes: int = 0  # noqa: A003


@dataclass(frozen=True)
class FilterStatus:
    """
    The filter of one interface.

    engine    'xdp', or 'user space' where XDP cannot be had
    reason    why it is in user space, '' for 'xdp'
    settings  by name
    rules     by id
    outcomes  packets by outcome: every packet that came is in exactly one of them
    missed    frames that user space had no room for; the kernel program misses none
    """

    engine: str
    reason: str
    settings: dict[str, str | int | bool]
    rules: tuple[RuleStatus, ...]
    outcomes: dict[str, int]
    missed: int = 0
    verdicts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Sum the outcomes up by what became of the packet."""
        settings = FilterSettings(**self.settings)
        sums = dict.fromkeys((PASS, DROP, TX), 0)
        for outcome, packets in self.outcomes.items():
            sums[verdict_of(outcome, settings)] += packets
        object.__setattr__(self, 'verdicts', sums)

    @property
    def packets(self) -> int:
        """Return how many packets came."""
        return sum(self.outcomes.values())

    def as_dict(self) -> dict:
        """Return it as what JSON knows."""
        return {**asdict(self), 'rules': [asdict(rule) for rule in self.rules],
                'packets': self.packets}


def status_text(interfaces: Mapping[str, FilterStatus | str]) -> str:
    """
    Return what `ipc-bypass xdp filter status` prints.

    :param interfaces: by name: the status, or a line that says why there is none
    """
    return '\n\n'.join(_one(name, status) for name, status in interfaces.items())


def status_json(interfaces: Mapping[str, FilterStatus | str]) -> dict:
    """Return the same for JSON: {name: status as a dict, or {'reason': why there is none}}."""
    return {name: {'reason': status} if isinstance(status, str) else status.as_dict()
            for name, status in interfaces.items()}


def _one(name, status):
    title = f" Status for interface '{name}' "
    lines = [f'{title:=^66}']
    if isinstance(status, str):
        return '\n'.join([*lines, status])
    if status.reason:
        lines += [f'Filter in {status.engine}: {status.reason}', '']
    lines += ['Current configuration:', '']
    lines += [f'{setting}: {_value(value)}' for setting, value in status.settings.items()]
    lines += ['', f"Rules for interface '{name}':", '']
    if status.rules:
        width = max(len(rule.rule) for rule in status.rules)
        lines.append(f"{'id':>5}  {'rule':<{width}}  {'packets':>14}  {'bytes':>16}  origin")
        lines += [f'{rule.id:>5}  {rule.rule:<{width}}  {rule.packets:>14}  {rule.bytes:>16}  '
                  f'{rule.origin}' for rule in status.rules]
    else:
        lines.append('none')
    lines += ['', f"Stats for interface '{name}':", '',
              f'packets: {status.packets} (passed {status.verdicts[PASS]}, dropped '
              f'{status.verdicts[DROP]}, answered {status.verdicts[TX]})', '']
    if status.engine != 'xdp':
        lines.append(f'missed: {status.missed}')
    lines += [f'{outcome}: {packets}' for outcome, packets in status.outcomes.items()]
    return '\n'.join(lines)


def _value(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
