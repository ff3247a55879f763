"""
The AF_XDP part of the XDP bench: what Python receives and echoes against programs in C.

Two namespaces joined by a veth pair; one sender on one processor, the receiver on another one.
Both languages use the same program, the same sender, rings of the same size, and sleep and rest
by the same rule; they are taken in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, ExitStack
import os
from pathlib import Path
import shutil
from statistics import median
import subprocess
import sys
import tempfile

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.rows import Cell, Outcome, outcomes, Row, rows_of, Target, value_of
from ipc_bypass.bench.udp_peers import Peer, PeerError
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.udp.raw import inside
from ipc_bypass.xdp.interfaces import find, Interface
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings

SCENARIO = 'af_xdp'
C, PYTHON = PATHS = ('c', 'python')
HIGHEST, SLOW, FAST, SUSTAINED, ECHO, ECHO_SPIN = WORKLOADS = (
    'highest', 'receive_10k', 'receive_100k', 'sustained', 'echo', 'echo_spin')
#: Bytes of a frame.
SIZE = 64
PORT = 4242
#: Packets a second of the workloads with a rate.
RATES = {SLOW: 10_000, FAST: 100_000}
#: Share of the highest rate of C at which nothing may be lost.
SUSTAINED_SHARE = 0.8
TARGETS = (Target(SCENARIO, HIGHEST, SIZE, 'received_per_s', C, at_least=0.9),
           Target(SCENARIO, ECHO, SIZE, 'p50_us', C, at_most=1.5))
_ENTRIES = 16384
# HIGHEST is as fast as the sender, whose speed is the machine's mood: many short turns.
_PIECES = 3
_ECHO_ENTRIES = 256
_SOURCES = ('xdp_sink', 'xdp_echo', 'xdp_sender')
_PYTHON = 'ipc_bypass.bench.xdp_python'


def measure(*, repeats: int = 3, seconds: float = 3, sustained_seconds: float = 60,
            round_trips: int = 5_000, workloads: Sequence[str] = WORKLOADS,
            begin: Callable[[Cell], None] = lambda cell: None) -> Measured:
    """
    Measure every workload in both languages; a run that fails is noted, and the rest goes on.

    :param repeats: how often all is gone through, SUSTAINED once
    :param seconds: of one run with a rate, and of HIGHEST
    :param sustained_seconds: of SUSTAINED, which takes HIGHEST's figure of C
    :param round_trips: of one run of ECHO and ECHO_SPIN
    :param workloads: some of WORKLOADS
    :param begin: called before each run
    """
    cells = [Cell(SCENARIO, 'packets', path, workload, SIZE) for workload in workloads
             for path in PATHS]
    measured = Measured({cell: [] for cell in cells})
    with _lab() as lab:
        for cell in _turns(cells, repeats):
            begin(cell)
            share = seconds / _PIECES if cell.workload == HIGHEST else seconds
            _note(measured, cell, lambda cell=cell, share=share: lab.run(
                cell, share, round_trips))
        highest = highest_of(measured)
        for cell in cells:
            if cell.workload == SUSTAINED and highest:
                begin(cell)
                _note(measured, cell, lambda cell=cell: lab.receive(
                    cell, int(SUSTAINED_SHARE * highest), sustained_seconds))
    return measured


def _turns(cells, repeats) -> list[Cell]:
    """Return the cells of all runs but SUSTAINED, in order."""
    found = []
    for workload in dict.fromkeys(cell.workload for cell in cells if cell.workload != SUSTAINED):
        both = [cell for cell in cells if cell.workload == workload]
        found += both * (_PIECES if workload == HIGHEST else 1)
    return found * repeats


def highest_of(measured: Measured) -> float:
    """Return the packets a second that C received at most, the median of runs; 0 for none."""
    found = [second['received_per_s'] for cell, runs in measured.runs.items()
             if (cell.path, cell.workload) == (C, HIGHEST) for run in runs for second in run]
    return median(found) if found else 0.0


def reached(measured: Measured) -> list[Outcome]:
    """Return what Python reached of each target; see also `lost`."""
    return outcomes(_rows(measured), TARGETS, PYTHON)


def lost(measured: Measured) -> float | None:
    """Return the packets that Python lost in SUSTAINED, None where it was not measured."""
    return value_of(_rows(measured), PYTHON, SCENARIO, SUSTAINED, SIZE, 'lost')


def _rows(measured) -> list[Row]:
    return rows_of({cell: runs for cell, runs in measured.runs.items() if runs})


def _note(measured, cell, run):
    try:
        measured.runs[cell].append([run()])
    except BypassError as error:
        measured.failures.append(f'{cell.workload}, {cell.path}: {error}')


class _Lab:
    """A sender's and a receiver's namespace, with the steering in the latter."""

    def __init__(self, folder: Path, near: Namespace, far: Namespace, ends, xsks: int) -> None:
        self._folder, self._near, self._far, self._xsks = folder, near, far, xsks
        self._sending: Interface
        self._receiving: Interface
        self._sending, self._receiving = ends
        allowed = sorted(os.sched_getaffinity(0))
        self._cpus = (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)

    def run(self, cell: Cell, seconds: float, round_trips: int) -> dict[str, float]:
        """Return the figures of one run."""
        if cell.workload in (ECHO, ECHO_SPIN):
            return self._echo(cell, round_trips)
        return self.receive(cell, RATES.get(cell.workload, 0), seconds)

    def receive(self, cell: Cell, rate: int, seconds: float) -> dict[str, float]:
        """Return what is received of a rate, 0 for as fast as it can."""
        with self._receiver(cell, 'sink', entries=_ENTRIES) as receiver:
            with self._sender(rate=rate, milliseconds=int(seconds * 1000)) as sender:
                sent = sender.result(seconds + 30)
            found = receiver.stop(0.2)
        return {'received_per_s': found['received'] / sent['seconds'],
                'sent_per_s': sent['sent'] / sent['seconds'],
                'lost': sent['sent'] - found['received'],
                # The rest of what was lost never came out of the veth pair.
                'lost_at_socket': found['dropped'] + found['ring_full'],
                'cpu_percent': 100 * found['cpu_seconds'] / sent['seconds']}

    def _echo(self, cell, count):
        spin = int(cell.workload == ECHO_SPIN)
        with self._receiver(cell, 'echo', entries=_ECHO_ENTRIES, spin=spin) as receiver:
            with self._sender(count=count, spin=spin) as sender:
                found = sender.result(60)
            receiver.stop()
        if found['back'] < count * 0.9:
            raise PeerError(f'measure {cell.workload}', f"{found['back']} of {count} came back")
        return {f'{name}_us': found['roundtrip_us'][name] for name in ('p10', 'p50', 'p99')}

    @contextmanager
    def _receiver(self, cell, role, **options) -> Iterator[Peer]:
        program = ([str(self._folder / f'xdp_{role}')] if cell.path == C
                   else ['env', 'OPENBLAS_NUM_THREADS=1', sys.executable, '-m', _PYTHON, role])
        options |= {'interface': self._receiving.index, 'map': self._xsks, 'cpu': self._cpus[1]}
        with Peer(f'{cell.path} {role}', self._far.command(*program, *_words(options)),
                  (self._xsks,)) as peer:
            yield peer.wait_ready()

    @contextmanager
    def _sender(self, **options) -> Iterator[Peer]:
        options |= {'interface': self._sending.index, 'port': PORT, 'size': SIZE,
                    'to': int.from_bytes(self._receiving.mac, 'big'), 'cpu': self._cpus[0]}
        with Peer('sender', self._near.command(str(self._folder / 'xdp_sender'),
                                               *_words(options))) as peer:
            yield peer.wait_ready()


@contextmanager
def _lab() -> Iterator[_Lab]:
    """Yield the lab; raises BypassError where something is missing."""
    with ExitStack() as stack:
        folder = stack.enter_context(_compiled())
        near, far = (stack.enter_context(Namespace(role)) for role in ('near', 'far'))
        for arguments in (
                ('-n', near.name, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0',
                 'netns', far.name),
                ('-n', near.name, 'link', 'set', 'eth0', 'up'),
                ('-n', far.name, 'link', 'set', 'eth0', 'up')):
            done = subprocess.run(['ip', *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BypassError(f"ip {' '.join(arguments)}", done.stderr,
                                  next_step='run as root, or with CAP_NET_ADMIN')
        paths = [f'/run/netns/{space.name}' for space in (near, far)]

        def prepare():
            array = stack.enter_context(RootArray(find('eth0'), RootSettings(pin_directory='')))
            maps = array.load(4, slot_program('af_xdp')).maps
            Steering(maps).apply(SteeringSettings((PORT,)))
            array.attach('native')
            return array.interface, maps['xsks'].fd
        receiving, xsks = inside(paths[1], prepare)
        sending = inside(paths[0], lambda: find('eth0'))
        yield _Lab(folder, near, far, (sending, receiving), xsks)


@contextmanager
def _compiled() -> Iterator[Path]:
    """Yield a folder with the programs in C, compiled for this run."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        raise UnsupportedError('compile the sender and the sink', 'there is no C compiler',
                               next_step='apt-get install gcc')
    # Beside the folder bpf/, in the source tree as in an installation.
    sources = bpf_source('xdp_steering.h').parent.parent / 'bench'
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_') as folder:
        for name in _SOURCES:
            done = subprocess.run(
                [compiler, '-O2', '-o', str(Path(folder, name)), str(sources / f'{name}.c')],
                capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.splitlines() or ['no reason given']
                raise BypassError(f'compile {name}.c', next(
                    (line for line in lines if 'error' in line), lines[0]),
                    next_step='apt-get install gcc libc6-dev')
        yield Path(folder)


def _words(options) -> list[str]:
    return [f'{name}={value}' for name, value in options.items()]
