"""Every call of bpf(2) that a transition makes, failing in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import errno
import itertools

from fault_lab.lab import LabError
from fault_lab.shim import command_name, Shim
from fault_lab.trial import Rig

ERRORS = (errno.ENOMEM, errno.EBUSY, errno.EPERM, errno.ENOSPC)
#: Steps that are walked, each with the state that it begins in and leads to.
STEPS = {
    'configure': ('unconfigured', 'inactive'), 'activate': ('inactive', 'active'),
    'enroll': ('active', 'active'), 'withdraw': ('active', 'active'),
    'counters': ('active', 'active'),
    'deactivate': ('active', 'inactive'), 'cleanup': ('inactive', 'unconfigured')}
#: The transitions that lead to a state from the first one.
_REACH = {'unconfigured': (), 'inactive': ('configure',), 'active': ('configure', 'activate')}


@dataclass
class Walk:
    """
    What came of one step: how many of its `calls` were made to fail, and what that led to.

    `refused` steps failed in one line, `went` are those that went on without the part;
    `problems` are what was not as it has to be.
    """

    step: str
    calls: int = 0
    tried: int = 0
    refused: int = 0
    went: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Walk) -> None:
        """Take what another walk of the same step found."""
        self.calls = max(self.calls, other.calls)
        self.tried, self.refused, self.went = (
            self.tried + other.tried, self.refused + other.refused, self.went + other.went)
        for line, count in other.lines.items():
            self.lines[line] = self.lines.get(line, 0) + count
        self.problems += other.problems


def choose(commands: Sequence[int], most: int | None = None) -> list[int]:
    """
    Return the numbers (from 1) of calls to fail: every one, or `most` spread over all kinds.

    Of a run of the same command, that fills a map for instance, the first, the middle and the
    last one stand for all where `most` is given.
    """
    if most is None:
        return [*range(1, len(commands) + 1)]
    found, first = [], 1
    for _command, run in itertools.groupby(commands):
        last = first + len([*run]) - 1
        found += dict.fromkeys((first, (first + last) // 2, last))
        first = last + 1
    if len(found) <= most:
        return found
    return [found[number * (len(found) - 1) // max(1, most - 1)] for number in range(most)]


class BpfCalls:
    """
    Walks the steps of a Rig's node, which was started with the shim.

    :param port: one that no rule names, to enroll and withdraw
    """

    def __init__(self, rig: Rig, shim: Shim, port: int) -> None:
        self._rig, self._shim, self._port = rig, shim, port

    def walk(self, step: str, *, most: int | None = None,
             errors: Sequence[int] = ERRORS, rotate: bool = False) -> Walk:
        """
        Fail the calls of one step in turn; return what came of it.

        :param rotate: each call with one of the errors, in turn; else with each of them
        """
        begin, _ = STEPS[step]
        walk = Walk(step)
        self._reach(begin, step)
        with self._shim.counting() as commands:
            if not self._take(step):
                walk.problems.append('it fails without a fault')
                return walk
        walk.calls = len(commands)
        chosen = choose(commands, most)
        pairs = zip(chosen, itertools.cycle(errors), strict=False) if rotate \
            else itertools.product(chosen, errors)
        for number, error in pairs:
            self._reach(begin, step)
            what = f'call {number} ({command_name(commands[number - 1])}) ' \
                   f'{errno.errorcode[error]}'
            self._fail(walk, step, number, error, what)
        self._reach('active', '')
        # A fault may have had other programs loaded, which do not take the connections over.
        walk.problems += self._rig.replace_streams().faults
        return walk

    def _fail(self, walk: Walk, step: str, number: int, error: int, what: str) -> None:
        node, begin = self._rig.node, STEPS[step][0]
        with self._shim.failing(number, error):
            went = self._take(step)
        if not self._shim.failed:
            return  # it did not come to that call this time
        said, state = node.errors(), node.ask('state')
        walk.tried += 1
        walk.went += went
        walk.refused += not went
        for line in said:
            text = line.split(': ', 2)[-1]
            walk.lines[text] = walk.lines.get(text, 0) + 1
        if len(said) > 1 or (step in ('configure', 'activate') and len(said) != (not went)):
            walk.problems.append(f'{what}: {len(said)} lines of error: {said}')
        if any('a fault in ipc_bypass' in line for line in said):
            walk.problems.append(f'{what}: {said[0]}')
        if not went and state not in (begin, 'unconfigured'):
            walk.problems.append(f'{what}: it is {state} then')
        if state != 'active' and self._rig.lab.attached():
            walk.problems.append(f'{what}: {self._rig.lab.attached()} programs are attached')
        if state == 'unconfigured':
            held = {kind: len(ids) for kind, ids in node.held().items() if ids}
            if held:
                walk.problems.append(f'{what}: it holds {held}')
        if self._rig.streams.pairs:
            walk.problems += [f'{what}: {fault}' for fault in
                              self._rig.streams.wait(plain=None, least=1 << 16).faults]

    def _take(self, step: str) -> bool:
        """Take one step; return whether it succeeded."""
        if step in ('enroll', 'withdraw'):
            return not self._rig.node.ask(step, self._port)[0]
        if step == 'counters':
            return bool(self._rig.node.ask('counters'))
        return self._rig.node.change(step)

    def _reach(self, state: str, step: str) -> None:
        """Bring the node to a state, without faults; raises LabError where that fails."""
        node = self._rig.node
        now = node.ask('state')
        if now != state:
            if now == 'active':
                node.change('deactivate')
                now = node.ask('state')
            if now == 'inactive' and state == 'unconfigured':
                node.change('cleanup')
                now = node.ask('state')
            for label in _REACH[state][len(_REACH[now]):]:
                if not node.change(label):
                    raise LabError(f'{label} after a fault', ' / '.join(node.errors()))
        if step in ('enroll', 'withdraw'):
            there = any(rule[0] <= self._port <= rule[1] for rule in node.ask('rules'))
            if there != (step == 'withdraw'):
                node.ask('withdraw' if there else 'enroll', self._port)
