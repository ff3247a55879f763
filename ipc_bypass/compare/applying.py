"""What follows from a recommendation: profiles and rules on disk, and how to use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import shlex

from ipc_bypass.compare import ways
from ipc_bypass.compare.recommend import Recommendation
from ipc_bypass.profiles import folder, settings


def apply(recommendations: Sequence[Recommendation], *, domain: int,
          output: Path | None = None, budget_bytes: int = 0) -> list[str]:
    """
    Write what the recommendations need, and return lines that say how to use it.

    Nothing is written where nothing gains.

    :param recommendations: of one kind, one a placement
    :param domain: ROS_DOMAIN_ID of the graph
    :param output: folder, that of `ipc-bypass profile` when left out
    :param budget_bytes: what the comparison gave its node, 0 for the node's default
    :raises ProfileError: where it cannot be written
    :raises RuleError: for a domain that DDS does not have
    """
    wanted: dict[str, list[str]] = {}
    for each in recommendations:
        if each.changes:
            wanted.setdefault(each.way, []).append(each.placement)
    if not wanted:
        return ['Nothing gains: things are left as they are, and nothing was written.']
    kind = recommendations[0].kind
    lines = []
    for way, placements in wanted.items():
        target = output or folder.default_folder(kind, domain)
        if len(wanted) > 1:
            # Each placement has a way of its own, and so a folder.
            target = target.with_name(f'{target.name}-{"-".join(placements)}')
        lines += [f'For {" and ".join(placements)}, {way}:',
                  *(f'  {line}' for line in _write(kind, way, domain, target, budget_bytes))]
    for each in recommendations:
        if not each.changes:
            lines.append(f'For {each.placement}: leave things as they are.')
    return lines


def _write(kind: str, way: str, domain: int, target: Path, budget_bytes: int) -> list[str]:
    """Write one way's files; return how to use them."""
    if way == ways.UDP:
        return ['there is nothing to write; start each process of the graph with: env ' + ' '.join(
            f'{name}={shlex.quote(value)}' for name, value in ways.udp(kind).items()) + ' COMMAND']
    wanted = settings.settings(domain, shared_memory=way == ways.SHARED_MEMORY)
    rules = folder.rules(wanted)
    if budget_bytes:
        rules += f'    budget_bytes: {budget_bytes}\n'
    written = folder.write(kind, wanted, target, extra={folder.RULES: rules})
    prefix = ' '.join(map(shlex.quote, written.command_prefix))
    lines = [f'wrote {", ".join(written.files)} to {written.folder}',
             f'start each process of the graph with: {prefix} COMMAND']
    if way == ways.REDIRECTED:
        rules = shlex.quote(str(written.folder / folder.RULES))
        lines.append(f'and once on this host, as root: ipc-bypass up --params-file {rules}')
    return lines
