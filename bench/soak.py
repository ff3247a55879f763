#!/usr/bin/env python3
"""
Put the node under every fault of docs/reliability.md, again and again, while traffic flows.

Streams whose every byte is numbered go over enrolled ports, datagrams over diverted ones, and
messages of Fast DDS and Cyclone DDS; after each fault everything has to work as before, and at the
end nothing may be lost, left or leaked. Ctrl-C ends it with the report of what was done.

Exit code: 0 where all of it held, 1 where not, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
import functools
import json
from pathlib import Path
import sys
import time

from fault_lab import (
    bpf_calls,
    datagram_faults,
    disk_faults,
    graph_faults,
    interface_faults,
    pair_faults,
    place_faults,
    process_faults,
)
from fault_lab.lab import Lab
from fault_lab.report import markdown, summary
from fault_lab.shim import Shim
from fault_lab.trial import attempt, Rig, Trial
from graph_peers import KINDS
from ipc_bypass.bench.signals import unwinding

_HOUR = 3600
#: Of each round: kills, races of two nodes, blocks of so many cycles, calls of a step that fail.
_KILLS, _RACES, _BLOCKS, _CYCLES, _CALLS = 3, 4, 5, 100, 12


class Soak:
    """
    The faults, each a part of its own; a context manager that ends what lives through all.

    `trials` and `walks` are what came of them, `sizes` those of the node that is never killed.

    :param stop_s: seconds for which processes are stopped, now and then
    :param only: parts to run; all where it is empty
    :param every_call: have every call of bpf(2) fail with every error, which takes 15 minutes
    """

    def __init__(self, *, stop_s: float = 30.0, only: list[str] | None = None,
                 every_call: bool = False) -> None:
        self.trials: list[Trial] = []
        self.walks: dict[str, bpf_calls.Walk] = {}
        self.sizes: dict[str, list[int]] = {'rss_bytes': [], 'fds': [], 'threads': []}
        self._stop_s, self._every_call = stop_s, every_call
        self._round, self._stack = 0, ExitStack()
        self._rigs: dict[str, Rig] = {}
        self.parts: dict[str, Callable[[], Iterator[Trial]]] = {
            'process': self._process, 'stop': self._stop, 'cycles': self._cycles,
            'clock': self._clock, 'calls': self._calls, 'disk': self._table(disk_faults.FAULTS),
            'places': self._table({**place_faults.FAULTS, **interface_faults.FAULTS}),
            'two': self._two,
            'upgrades': self._table({name: functools.partial(pair_faults.upgraded, **how)
                                     for name, how in pair_faults.UPGRADES.items()}),
            'datagrams': self._table({name: functools.partial(datagram_faults.stopped, **how)
                                      for name, how in datagram_faults.FAULTS.items()}),
            'graphs': self._graphs}
        if only:
            self.parts = {name: part for name, part in self.parts.items() if name in only}

    def __enter__(self) -> Soak:
        return self

    def __exit__(self, *_exception) -> None:
        self._stack.close()

    def run(self, minutes: float) -> None:
        """Go through all parts again and again until the time is over, at least once."""
        end = time.monotonic() + 60 * minutes
        while True:
            for name, part in self.parts.items():
                if self._round and time.monotonic() > end:
                    return
                for trial in self._attempted(name, part):
                    self._note(trial)
            self._round += 1

    def finish(self) -> None:
        """End what lived through all of it: only now it shows what was lost or is left."""
        for name, rig in self._rigs.items():
            trial = rig.finish()
            trial.fault = f'end of {name}'
            self._note(trial)
        self._rigs = {}

    def _attempted(self, name: str, part: Callable[[], Iterator[Trial]]) -> Iterator[Trial]:
        """Run a part; what it raises is a Trial with a problem."""
        def work(_trial: Trial) -> None:
            for each in part():
                self._note(each)
        trial = attempt(name, work)
        if trial.problems:
            yield trial

    def _note(self, trial: Trial) -> None:
        self.trials.append(trial)
        told = f', {trial.told}' if trial.told else ''
        wrong = f"; PROBLEM {' / '.join(trial.problems)}" if trial.problems else ''
        print(f'{trial.fault}: {trial.took_s:.1f} s, by TCP {trial.plain_s:.2f} s '
              f'(new {trial.new_plain_s:.2f} s){told}{wrong}', flush=True)

    def _rig(self, name: str, **how: object) -> Rig:
        """Return a node with streams that live through the soak, the first time a new one."""
        if name not in self._rigs:
            self._rigs[name] = Rig(self._stack.enter_context(Lab()), **how)
        return self._rigs[name]

    def _shimmed(self) -> tuple[Rig, Shim]:
        """Return the node that is never killed, with the shim that it was started with."""
        if 'the node that lives' not in self._rigs:
            folder = self._stack.enter_context(Lab()).folder
            self._shim = Shim(folder)
            self._rig('the node that lives', rate=5e6, max_connections=16,
                      environment=self._shim.environment)
        return self._rigs['the node that lives'], self._shim

    # Parts ------------------------------------------------------------------------------------

    def _process(self) -> Iterator[Trial]:
        rig = self._rig('the nodes that are killed', pairs=2)
        for _ in range(_KILLS):
            yield rig.run('SIGKILL', process_faults.killed)
        yield rig.run('SIGTERM', process_faults.ended)
        yield rig.run('out of address space', process_faults.out_of_address_space, errors=True)
        yield rig.run('out of memory', process_faults.out_of_memory, errors=True)

    def _stop(self) -> Iterator[Trial]:
        seconds = 5.0 if self._round % 3 else self._stop_s
        for name, how in (('the program renews', {}), ('user space renews',
                                                       {'renewal': 'userspace'})):
            rig = self._rig(f'the nodes that are stopped ({name})', rate=5e6,
                            budget_bytes=4 << 20, **how)
            yield rig.run(f'SIGSTOP, {name}',
                          functools.partial(process_faults.stopped, seconds=seconds))

    def _cycles(self) -> Iterator[Trial]:
        rig, _ = self._shimmed()
        for _ in range(_BLOCKS):
            yield rig.run(f'deactivate and activate, {_CYCLES} times',
                          functools.partial(process_faults.cycled, count=_CYCLES))
            for name, value in rig.node.size().items():
                self.sizes[name].append(value)

    def _clock(self) -> Iterator[Trial]:
        rig, shim = self._shimmed()
        for name, seconds in (('+1 h', _HOUR), ('-1 h', -_HOUR), ('back', 0)):
            yield rig.run(f'wall clock {name}', functools.partial(
                process_faults.clock_jumped, shim=shim, seconds=seconds))

    def _calls(self) -> Iterator[Trial]:
        rig, shim = self._shimmed()
        calls = bpf_calls.BpfCalls(rig, shim, rig.lab.ports[-1])
        errors = bpf_calls.ERRORS[self._round % 4:] + bpf_calls.ERRORS[:self._round % 4]

        def walk(_rig: Rig, trial: Trial) -> None:
            for step in bpf_calls.STEPS:
                found = calls.walk(step) if self._every_call else calls.walk(
                    step, most=_CALLS, errors=errors, rotate=True)
                before = self.walks.setdefault(step, bpf_calls.Walk(step))
                before.add(found)
                trial.problems += found.problems
            trial.told = f'{sum(found.tried for found in self.walks.values())} calls so far'
        yield rig.run('calls of bpf(2) that fail', walk, errors=True)

    def _two(self) -> Iterator[Trial]:
        with Lab() as lab:
            yield attempt('two nodes started at once',
                          functools.partial(pair_faults.started_at_once, lab))
        with Lab() as lab:
            yield from pair_faults.at_once(lab, _RACES)

    def _graphs(self) -> Iterator[Trial]:
        for kind in KINDS:
            yield attempt(f'node in harm, {kind}', functools.partial(
                graph_faults.node_in_harm, kind=kind, seconds=30.0, pause=3.0))

    @staticmethod
    def _table(faults: dict) -> Callable[[], Iterator[Trial]]:
        """Return a part of faults that need a lab each."""
        def part() -> Iterator[Trial]:
            for name, fault in faults.items():
                with Lab() as lab:
                    yield attempt(name, functools.partial(fault, lab))
        return part


def main(words: list[str] | None = None) -> int:
    """Run the soak that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--minutes', type=float, default=20.0,
                        help='all faults once, and again until so much time is over (default 20)')
    parser.add_argument('--only', nargs='+', choices=tuple(Soak().parts), metavar='PART',
                        default=[], help=f"of {', '.join(Soak().parts)} (default: all)")
    parser.add_argument('--every-call', action='store_true',
                        help='have every call of bpf(2) fail with every error: 15 minutes more')
    parser.add_argument('--stop-seconds', type=float, default=30.0, metavar='S',
                        help='for which processes are stopped (default 30)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every figure there')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the tables there')
    args = parser.parse_args(words)
    begin, soak = time.monotonic(), Soak(
        stop_s=args.stop_seconds, only=args.only, every_call=args.every_call)
    try:
        with unwinding(), soak:
            soak.run(args.minutes)
            soak.finish()
    finally:
        report = summary(soak.trials, [*soak.walks.values()], time.monotonic() - begin,
                         soak.sizes)
        print('\n' + markdown(report), flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2) + '\n')
        if args.markdown:
            args.markdown.write_text(markdown(report))
    return 1 if report['problems'] else 0


if __name__ == '__main__':
    sys.exit(main())
