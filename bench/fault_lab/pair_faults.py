"""Two nodes for one folder of pins: started at once, and one version after another."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import os
from pathlib import Path
import re
import shutil
import signal
import sys
import time

from fault_lab.lab import Lab
from fault_lab.node import Node
from fault_lab.trial import attempt, Trial
import ipc_bypass

_ROOT = Path(ipc_bypass.__file__).resolve().parents[1]
_PATIENCE = 120.0
_REFUSAL = 'another node runs with it'


def at_once(lab: Lab, count: int) -> Iterator[Trial]:
    """
    Have two nodes configure in the same moment, `count` times; yield the Trial of each.

    One of them has the pins, the other one is refused with one line. With tcp_path auto it is
    the same: it would be a node that does nothing. Every other time the winner is killed, or
    lets go in the moment in which the other one tries.
    """
    nodes = [lab.node(tcp_path=way) for way in ('sk_msg', 'auto')]
    streams = lab.streams()
    for node in nodes:
        node.ask('state')

    def race(trial: Trial, number: int) -> None:
        winner = _race(lab, nodes, trial)
        if winner is None:
            return
        loser = nodes[1 - nodes.index(winner)]
        if not winner.change('activate') or lab.attached() != 1:
            trial.problems.append(f'{lab.attached()} attached by the winner')
        lab.note(winner)
        trial.add(streams.wait(plain=None))
        trial.problems += streams.pairs[0].probe()['faults']
        begin = time.monotonic()
        if number % 2:
            winner.kill()
            nodes[nodes.index(winner)] = lab.node(tcp_path='sk_msg')
            trial.told = 'the winner is killed'
        else:
            # Whether the other one comes before or after the release, it is refused or has it.
            winner.change('deactivate')
            winner.tell('change', 'cleanup')
            if not loser.change('configure'):
                _refused(loser, trial)
            winner.answer()
            trial.told = 'the winner lets go'
        if loser.ask('state') == 'unconfigured' and not loser.change('configure'):
            trial.problems.append(f'the next try: {loser.errors()}')
        if not loser.change('activate'):
            trial.problems.append(f'the next try: {loser.errors()}')
        trial.add(streams.wait(plain=None))
        trial.new_plain_s = time.monotonic() - begin
        probe = streams.pairs[0].probe()
        if probe['plain_share']:
            trial.problems.append('the next one accelerates nothing')
        trial.problems += probe['faults']
        lab.note(loser)
        loser.change('deactivate', 'cleanup')
        for node in nodes:
            trial.problems += [f'it said {line}' for line in node.errors()]

    for number in range(count):
        yield attempt('two nodes at once', functools.partial(race, number=number))

    def end(trial: Trial) -> None:
        trial.add(streams.finish())
        # Connections that were open kept pins for the next start; that is this one.
        lab.bring_up(nodes[0])
        codes = [node.end() for node in nodes]
        if any(codes):
            trial.problems.append('a node ended with an error')
        trial.problems += [f'left: {line}' for line in lab.left()]
    yield attempt('two nodes at once: end', end)


def _race(lab: Lab, nodes: list[Node], trial: Trial) -> Node | None:
    """Have both configure; return the one that did, the other one was refused."""
    for node in nodes:
        node.tell('change', 'configure')
    went = [node.answer() for node in nodes]
    if sum(went) != 1:
        trial.problems.append(f'configured: {went}, {[node.errors() for node in nodes]}')
        for node in nodes:
            node.change('cleanup')
        return None
    _refused(nodes[went.index(False)], trial)
    if lab.attached():
        trial.problems.append('the one that was refused has attached something')
    return nodes[went.index(True)]


def _refused(node: Node, trial: Trial) -> None:
    said = node.errors()
    if len(said) != 1 or _REFUSAL not in said[0]:
        trial.problems.append(f'the refused one said {said}')
    if any(node.held().values()):
        trial.problems.append(f'the refused one holds {node.held()}')


def started_at_once(lab: Lab, trial: Trial) -> None:
    """Start two processes with autostart at once: one is active, the other one is not."""
    nodes = [lab.node(autostart=True, tcp_path=way) for way in ('auto', 'sk_msg')]
    states = sorted(node.ask('state') for node in nodes)
    if states != ['active', 'unconfigured'] or lab.attached() != 1:
        trial.problems.append(f'{states}, {lab.attached()} programs attached')
    for node in nodes:
        lab.note(node)
    codes = [node.end() for node in nodes]
    if any(codes):
        trial.problems.append('a node ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


# Upgrades -------------------------------------------------------------------------------------

def other_version(folder: Path, *, programs: bool) -> dict[str, str]:
    """
    Write another version of the package; return the environment that runs it.

    Its pins have another layout version; with `programs` also records of another size.
    """
    for part in ('ipc_bypass', 'bpf'):
        shutil.copytree(_ROOT / part, folder / part,
                        ignore=shutil.ignore_patterns('__pycache__'))
    _replace(folder / 'ipc_bypass/tcp/objects.py', r'^LAYOUT_VERSION = (\d+)',
             'LAYOUT_VERSION = 10')
    if programs:
        _replace(folder / 'bpf/ipc_bypass_common.h', r'^struct flow \{',
                 'struct flow {\n\t__u64 of_another_version;')
    paths = [str(folder), *sys.path]
    return {'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def _replace(path: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise AssertionError(f'{pattern!r} is {count} times in {path.name}')
    path.write_text(changed)


def upgraded(lab: Lab, trial: Trial, *, programs: bool = True, back: bool = False,
             end: int = signal.SIGKILL) -> None:
    """
    Start another version over the pins of one that was killed, or ended, with open connections.

    They go by TCP from then on, and new ones are accelerated.

    :param programs: see `other_version`
    :param back: the other version comes first, this one next; else the other way round
    """
    other = other_version(lab.folder / f'other_{programs}_{back}_{end}', programs=programs)
    first, second = ({}, other) if back else (other, {})
    node, streams = lab.active(environment=first), lab.streams()
    trial.add(streams.wait())
    begin = time.monotonic()
    node.signal(end)
    node.process.wait(_PATIENCE)
    node.kill()
    trial.add(streams.wait(plain=None))
    node = lab.active(environment=second)
    trial.new_plain_s = time.monotonic() - begin
    trial.add(streams.wait(plain=True))
    # They do not come back: nothing of the new version knows them.
    step = streams.wait(plain=True, least=8 << 20)
    trial.add(step)
    new = lab.streams()
    trial.add(new.wait())
    trial.add(new.finish())
    trial.add(streams.finish())
    if node.ask('package').startswith(str(lab.folder)) is not back:
        trial.problems.append('that was not the other version')
    if node.errors() or node.end():
        trial.problems.append('the new version ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


UPGRADES = {
    'upgrade, killed, other records': {},
    'upgrade, ended, other records': {'end': signal.SIGTERM},
    'upgrade, killed, other mark alone': {'programs': False},
    'downgrade, killed, other records': {'back': True}}
