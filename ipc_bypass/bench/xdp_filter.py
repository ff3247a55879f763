"""
The filter part of the XDP bench: time a packet, and processor time a dropped packet.

Time a packet: PROG_TEST_RUN of root and filter, and of xdp-tools' xdp-filter as `xdp-filter load`
put it on an interface, with the same 1,000 rules on the same packets, in turns.

Processor time a dropped packet: a known number of frames, made in the kernel (PROG_TEST_RUN with
live frames), goes through a veth pair in two namespaces. What is counted is the time of the
thread that sends, in which the far end's soft interrupts run as well, of ksoftirqd, and of the
process that filters; what it takes to make the frames alone is measured the same way and taken
off. The filter on a socket is a C program on a packet socket (bench/xdp_filter_sink.c) with the
same rules; the frames are to a MAC address that is not the interface's, so that the kernel does
no more with them than give them to that socket: it is the least that user space can cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
import ctypes
import os
from pathlib import Path
import shutil
import struct
import subprocess
import tempfile

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.rows import Cell, Outcome, outcomes, Row, rows_of, Target
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.bench.xdp_filter_flood import compile_sink, flood_ours, flood_socket, generate, Lab
from ipc_bypass.bench.xdp_filter_lab import entered, frame_of, RuleSet, test_run_attributes
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.uapi import BpfCmd
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import SHARED_MAPS, slot_program
from ipc_bypass.xdp.templates import Templates

SCENARIO = 'filter'
OURS, TOOL, TOOL_LEAST, SOCKET = 'root+filter', 'xdp-filter', 'xdp-filter -f', 'socket'
PATHS = (OURS, TOOL, TOOL_LEAST, SOCKET)
TIME, PROCESSOR = 'ns_a_packet', 'cpu_ns_a_drop'
RULES = 1000
#: Packets of the mixed rules, and of those by port alone: name -> (port, host, IPv6).
PACKETS = {'passed': (4000, '10.8.0.1', False), 'dropped by port': (5001, '10.8.0.1', False),
           'dropped by host': (4000, '10.9.0.1', False), 'passed, IPv6': (4000, 'fd00::1', True)}
_FIRST_PORT = 5001


def rule_sets(count: int = RULES) -> tuple[RuleSet, ...]:
    """Return the sets of rules: half ports and half hosts, and ports alone."""
    def ports(many):
        return tuple(_FIRST_PORT + 2 * number for number in range(many))
    hosts = tuple(f'10.9.{number // 250}.{number % 250 + 1}' for number in range(count // 2))
    # A host of the set is one of PACKETS.
    return (RuleSet('mixed', ports(count - len(hosts)), hosts, 'udp,ipv4,ipv6'),
            RuleSet('ports', ports(count), (), 'udp'))


def targets(count: int = RULES) -> tuple[Target, ...]:
    """Return what is to be reached."""
    return (*(Target(SCENARIO, _workload(rules, packet), _size(packet), TIME, TOOL, at_most=1.0)
              for rules in rule_sets(count) for packet in PACKETS),
            Target(SCENARIO, 'flood', _size('dropped by port'), PROCESSOR, SOCKET, at_most=0.2))


def reached(figures: list[Row], count: int = RULES) -> list[Outcome]:
    """Return the targets whose figures were measured."""
    return outcomes(figures, targets(count), OURS)


def measure(*, repeats: int = 5, packets: int = 1_000_000, flood: int = 100_000,
            count: int = RULES, begin: Callable[[Cell], None] = lambda cell: None) -> Measured:
    """
    Measure everything, the paths in turns; a run that fails is noted, and the rest goes on.

    :param packets: runs of a program that are timed together
    :param flood: frames of one flood
    :param count: rules
    :param begin: is told what begins
    :raises BypassError: xdp-filter, a capability or a tool is missing
    """
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_') as folder, \
            Namespace('near') as near, Namespace('far') as far:
        _join(near, far)
        lab = Lab(near, far, compile_sink(Path(folder)), Templates())
        for rules in rule_sets(count):
            _time(measured, rules, lab, repeats, packets, begin)
        _flood(measured, rule_sets(count)[0], lab, repeats, flood, begin)
    return measured


def rows(measured: Measured) -> list[Row]:
    """Return the medians."""
    return rows_of(measured.runs)


def run_time(program: int, frame: bytes, packets: int) -> tuple[int, float]:
    """Return (answer, ns a packet) of a program that the kernel runs so many times."""
    given, answer = buffer_of(frame), ctypes.create_string_buffer(len(frame) + 1024)
    attr = test_run_attributes(program, frame, address(given), packets, address(answer),
                               len(answer))
    bpf(BpfCmd.PROG_TEST_RUN, attr)
    value, = struct.unpack_from('=I', attr, 4)
    return value, float(struct.unpack_from('=I', attr, 36)[0])


def _workload(rules, packet):
    return f'{rules.name}: {packet}'


def _size(packet):
    return len(frame_of(*PACKETS[packet]))


def _time(measured, rules, lab, repeats, packets, begin):
    with ExitStack() as stack:
        ours = stack.enter_context(_our_program(rules, lab.templates))
        programs = {OURS: ours}
        for path, interface, features in ((TOOL, 'tool0', 'all'),
                                          (TOOL_LEAST, 'tool1', rules.features)):
            programs[path] = stack.enter_context(
                _tool_program(rules, lab.near, interface, features))
        for _ in range(repeats):
            for packet, values in PACKETS.items():
                frame, answers = frame_of(*values), {}
                for path, program in programs.items():
                    cell = Cell(SCENARIO, 'PROG_TEST_RUN', path, _workload(rules, packet),
                                len(frame))
                    begin(cell)
                    answers[path], spent = run_time(program, frame, packets)
                    measured.runs.setdefault(cell, []).append([{TIME: spent}])
                if len(set(answers.values())) > 1:
                    measured.failures.append(f'{_workload(rules, packet)}: they do not agree: '
                                             f'{answers}')


@contextmanager
def _our_program(rules, templates) -> Iterator[int]:
    """Yield the root's program, with the filter in its usual slot."""
    with templates.root(False).instantiate() as root:
        shared = {name: root.maps[name].fd for name in SHARED_MAPS}
        with templates.slot(slot_program('filter'), 2, False).instantiate(reuse=shared) as slot:
            Filter(slot.maps).apply(FilterSettings(rules=tuple(rules.rules)))
            syscall.map_update(shared['slots'], struct.pack('=I', 2),
                               struct.pack('=I', slot.programs['xdp_filter']))
            yield root.programs['xdp_root']


@contextmanager
def _tool_program(rules, near, interface, features) -> Iterator[int]:
    """Yield the program that xdp-filter put on an interface, with these rules."""
    if shutil.which('xdp-filter') is None:
        raise UnsupportedError('measure xdp-filter', 'it is not installed',
                               next_step='apt-get install xdp-tools')
    commands = ['mount -t bpf bpf /sys/fs/bpf',
                f'xdp-filter load {interface} -p allow -f {features}',
                *(f'xdp-filter port {port} -m dst -p udp' for port in rules.ports),
                *(f'xdp-filter ip {host} -m dst' for host in rules.hosts)]
    # Its pins go with the mount namespace of these commands; the attachment holds the maps.
    done = subprocess.run(near.command('unshare', '-m', 'sh', '-ec', '\n'.join(commands)),
                          capture_output=True, text=True, check=False)
    try:
        if done.returncode:
            raise BypassError('load xdp-filter', (done.stderr or done.stdout).strip())
        with entered(near):
            found = find(interface)
        program = syscall.prog_get_fd_by_id(found.xdp_program_id)
        try:
            yield program
        finally:
            os.close(program)
    finally:
        for mode in ('xdp', 'xdpgeneric'):
            subprocess.run(near.command('ip', 'link', 'set', interface, mode, 'off'),
                           capture_output=True, check=False)


def _join(near, far):
    """Make the veth pair near0 and far0, and two for xdp-filter."""
    lines = [f'link add near0 type veth peer name far0 netns {far.name}',
             'link set near0 up', 'link add tool0 type veth peer name tool1',
             'link set tool0 up', 'link set tool1 up']
    for line in lines:
        subprocess.run(['ip', '-n', near.name, *line.split()], check=True)
    subprocess.run(['ip', '-n', far.name, 'link', 'set', 'far0', 'up'], check=True)
    # A veth takes redirected frames only where its other end polls: GRO makes it.
    subprocess.run(far.command('ethtool', '-K', 'far0', 'gro', 'on'), check=True,
                   capture_output=True)


def _flood(measured, rules, lab, repeats, flood, begin):
    frame = frame_of(*PACKETS['dropped by port'])
    for _ in range(repeats):
        making = generate(lab.near, frame, flood, 0) / flood
        for path, run in ((OURS, flood_ours), (SOCKET, flood_socket)):
            cell = Cell(SCENARIO, 'veth', path, 'flood', len(frame))
            begin(cell)
            try:
                spent = run(lab, rules, frame, flood) / flood
            except BypassError as error:
                measured.runs.setdefault(cell, [])
                measured.failures.append(f'flood, {path}: {error}')
                continue
            measured.runs.setdefault(cell, []).append(
                [{PROCESSOR: spent - making, 'cpu_ns_making': making}])
