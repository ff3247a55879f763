"""
The container part of the XDP bench: UDP between containers, by the bridge and past it.

Two namespaces on a bridge in a third one, as ipc_bypass.bench.containers makes them; the paths
are taken in turn, so that a change of the machine's mood meets all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
import ipaddress
import itertools
import os
from pathlib import Path
import shutil
import subprocess
import tempfile
import time

from ipc_bypass.bench import ddsperf
from ipc_bypass.bench.containers import Containers, Namespace
from ipc_bypass.bench.rows import Cell, Outcome, outcomes, Row, rows_of, Target
from ipc_bypass.bench.udp_peers import Peer, PeerError
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.namespaces import network_namespaces
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp.devmap import Devmap, DevmapForwarding
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.peer import inside
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.templates import Templates

SCENARIO = 'containers'
BRIDGE, REDIRECT_PEER, DEVMAP = PATHS = ('bridge', 'redirect_peer', 'devmap')
ONE_WAY, RATE, THROUGHPUT, SMALL_MESSAGES = WORKLOADS = (
    'oneway', 'rate', 'throughput', 'throughput_1400')
#: Bytes of payload; a megabyte as ddsperf has it.
SIZE, MEGABYTE = 64, 1 << 20
PORT = 7400
TARGETS = (Target(SCENARIO, ONE_WAY, SIZE, 'p50_us', BRIDGE, at_most=0.8),
           Target(SCENARIO, RATE, SIZE, 'packets_per_s', BRIDGE, at_least=1.25))
_GAP_NS = 20_000
_SETTLE = 20.0
_EVERYTHING = (1, 65535)
# Cyclone packs several fragments into a message, which IP cuts again; these fit into a frame.
_SMALL_URI = ('<CycloneDDS><Domain><General><MaxMessageSize>1400B</MaxMessageSize>'
              '<FragmentSize>1300B</FragmentSize></General></Domain></CycloneDDS>')


def measure(*, repeats: int = 3, count: int = 20_000, flood: int = 400_000, seconds: int = 2,
            workloads: tuple[str, ...] = WORKLOADS, paths: tuple[str, ...] = PATHS,
            begin: Callable[[Cell], None] = lambda cell: None) -> Measured:
    """
    Measure every workload on every path; a run that fails is noted, and the rest goes on.

    :param repeats: how often all is gone through
    :param count: datagrams of ONE_WAY, one each 20 microseconds
    :param flood: datagrams of RATE, as fast as one sender can
    :param seconds: of ddsperf that count
    :param begin: called before each run
    :raises BypassError: when the containers or their programs cannot be made
    """
    cells = [Cell(SCENARIO, 'c' if workload in (ONE_WAY, RATE) else 'cyclonedds', path, workload,
                  SIZE if workload in (ONE_WAY, RATE) else MEGABYTE)
             for workload in workloads for path in paths]
    measured = Measured({cell: [] for cell in cells})
    with ExitStack() as stack:
        program = stack.enter_context(_compiled())
        pair = stack.enter_context(Containers())
        for _, path in itertools.product(range(repeats), paths):
            with _place(path, pair) as place:
                for cell in (cell for cell in cells if cell.path == path):
                    begin(cell)
                    try:
                        measured.runs[cell].append(
                            place.run(program, cell, count, flood, seconds))
                    except BypassError as error:
                        measured.failures.append(f'{cell.workload}, {path}: {error}')
    return measured


def reached(measured: Measured) -> dict[str, list[Outcome]]:
    """Return, by path, what was reached of each target."""
    rows: list[Row] = rows_of({cell: runs for cell, runs in measured.runs.items() if runs})
    return {path: outcomes(rows, TARGETS, path) for path in PATHS[1:]}


class _Place:
    """Two containers whose traffic takes one of the paths."""

    def __init__(self, path: str, pair: tuple[Namespace, Namespace],
                 handed_over: Callable[[], int]) -> None:
        self._path, self._pair, self._handed_over = path, pair, handed_over

    def run(self, program: Path, cell: Cell, count: int, flood: int,
            seconds: int) -> list[dict[str, float]]:
        before = self._handed_over()
        if cell.workload in (ONE_WAY, RATE):
            found = [self._exchange(program, cell, count if cell.workload == ONE_WAY else flood)]
        else:
            uri = _SMALL_URI if cell.workload == SMALL_MESSAGES else ''
            here, there = (ddsperf.Peer(place, uri) for place in self._pair)
            found = ddsperf.run(ddsperf.THROUGHPUT, cell.size, here, there, seconds=seconds)
        if self._path != BRIDGE and self._handed_over() == before:
            raise PeerError(f'measure {cell.workload}', f'nothing went by {self._path}')
        return found

    def _exchange(self, program: Path, cell: Cell, count: int) -> dict[str, float]:
        sender, receiver = self._pair
        allowed = sorted(os.sched_getaffinity(0))
        here, there = (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)
        options = {'port': PORT, 'count': count, 'size': cell.size}
        gap = _GAP_NS if cell.workload == ONE_WAY else 0
        with _peer('reader', receiver, program, read=1, cpu=there, **options) as reader:
            reader.wait_ready()
            address = int(ipaddress.ip_address(receiver.address))
            with _peer('sender', sender, program, address=address, cpu=here, gap=gap,
                       **options) as sending:
                sending.result(60)
            found = reader.stop(0.2)
        if found['received'] < count / 2:
            raise PeerError(f'measure {cell.workload}',
                            f"{found['received']} of {count} datagrams arrived")
        if cell.workload == ONE_WAY:
            return {'p50_us': found['latency_us']['p50'], 'p99_us': found['latency_us']['p99']}
        return {'packets_per_s': found['received'] / found['seconds'],
                'lost_percent': 100 * (count - found['received']) / count}


def _peer(role: str, place: Namespace, program: Path, **options: int) -> Peer:
    return Peer(f'c {role}', place.command(
        str(program), *(f'{name}={value}' for name, value in options.items())))


@contextmanager
def _place(path: str, pair: tuple[Namespace, Namespace]) -> Iterator[_Place]:
    """Yield the containers, with what a path needs for as long as that."""
    bridge = pair[0].name.rpartition('-')[0] + '-bridge'
    namespace = next(each for each in network_namespaces().values()
                     if each.path == f'/run/netns/{bridge}')
    with ExitStack() as stack:
        make = {REDIRECT_PEER: _redirect_peer, DEVMAP: _devmap}.get(path)
        if path == DEVMAP:
            for place in pair:
                _offloads(place, 'gro', 'on', 'tx', 'off')
                stack.callback(_offloads, place, 'gro', 'off', 'tx', 'on')
        count = inside(namespace, lambda: make(stack)) if make else lambda: 0
        yield _Place(path, pair, count)


def _redirect_peer(stack: ExitStack) -> Callable[[], int]:
    """Attach the fast path in this thread's namespace; return what tells the frames."""
    everything = ('-'.join(map(str, _EVERYTHING)),)
    path = stack.enter_context(FastPath(FastPathSettings(('br0',), everything)))
    path.attach()
    _wait(lambda: sum(port.in_use for port in path.ports()) == 2, REDIRECT_PEER)
    return lambda: path.counters()['packets']


def _devmap(stack: ExitStack) -> Callable[[], int]:
    """Attach arrays with the devmap slot in this thread's namespace; return the same."""
    templates, forwarding, devmaps = Templates(), DevmapForwarding(('br0',)), []
    for name in ('port1', 'port2'):
        array = stack.enter_context(RootArray(find(name), RootSettings(pin_directory=''),
                                              templates=templates))
        devmap = Devmap(array.load(5, slot_program('devmap')).maps)
        devmap.enroll({'udp': [_EVERYTHING]})
        devmap.set_active(True)
        array.attach('native')
        forwarding.add(array.interface.index, devmap)
        devmaps.append(devmap)
    stack.callback(forwarding.close)
    forwarding.start()
    _wait(lambda: set(forwarding.ports().values()) == {''}, DEVMAP)
    return lambda: sum(devmap.counters()['packets'] for devmap in devmaps)


def _offloads(place: Namespace, *words: str) -> None:
    """Switch offloads in a container, as redirected frames need them."""
    done = subprocess.run(place.command('ethtool', '-K', 'eth0', *words), capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise BypassError('set offloads in a container', done.stderr,
                          next_step='apt-get install ethtool')


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SETTLE
    while not condition():
        if time.monotonic() > deadline:
            raise BypassError(f'bring {what} into use', f'not within {_SETTLE:.0f} s')
        time.sleep(0.02)


@contextmanager
def _compiled() -> Iterator[Path]:
    """Yield the peers' program, compiled for this run."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        raise UnsupportedError('compile the sender and the reader', 'there is no C compiler',
                               next_step='apt-get install gcc')
    # Beside the folder bpf/, in the source tree as in an installation.
    source = bpf_source('tc_fast_path.h').parent.parent / 'bench' / 'xdp_flow.c'
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_') as folder:
        program = Path(folder, 'xdp_flow')
        done = subprocess.run([compiler, '-O2', '-o', str(program), str(source)],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise BypassError('compile xdp_flow.c', done.stderr.splitlines()[0],
                              next_step='apt-get install gcc libc6-dev')
        yield program
