"""
The second half of the filter's bench: processor time a dropped packet.

See ipc_bypass.bench.xdp_filter for what is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
import errno
import os
from pathlib import Path
import shutil
import signal
import struct
import subprocess
import time

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.xdp_filter_lab import entered, RuleSet, test_run_attributes
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import BpfCmd, ProgType
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.templates import Templates

_LIVE_FRAMES, _REDIRECT = 2, 23  # BPF_F_TEST_XDP_LIVE_FRAMES, bpf_redirect
_DROP_ANSWER = 1
_PATIENCE = 60.0


@dataclass(frozen=True)
class Lab:
    """Two namespaces, joined by near0 and far0, the filter on a socket, and our programs."""

    near: Namespace
    far: Namespace
    sink: Path
    templates: Templates

    @property
    def index(self) -> int:
        """Return the index of near0."""
        with entered(self.near):
            return find('near0').index


def compile_sink(folder: Path) -> Path:
    """Return the filter on a socket, compiled into a folder; raises BypassError."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        raise UnsupportedError('compile the filter on a socket', 'there is no C compiler',
                               next_step='apt-get install gcc')
    source = bpf_source('xdp_filter.h').parent.parent / 'bench' / 'xdp_filter_sink.c'
    made = folder / 'xdp_filter_sink'
    done = subprocess.run([compiler, '-O2', '-o', str(made), str(source)], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise BypassError('compile xdp_filter_sink.c', done.stderr.strip().splitlines()[0])
    return made


def flood_ours(lab: Lab, rules: RuleSet, frame: bytes, flood: int) -> int:
    """Return the ns spent where our filter drops all frames; raises BypassError."""
    far = lab.far
    with entered(far):
        array = RootArray(find('far0'), RootSettings(pin_directory=''), templates=lab.templates)
    try:
        filter_ = Filter(array.load(2, slot_program('filter')).maps)
        filter_.apply(FilterSettings(rules=tuple(rules.rules)))
        with entered(far):
            array.attach('native')
        spent = generate(lab.near, frame, flood, lab.index)
        dropped = filter_.status().outcomes['ip_drop_count']
    finally:
        with entered(far):
            array.close()
    if dropped != flood:
        raise BypassError('flood the filter', f'it dropped {dropped} of {flood} frames')
    return spent


def flood_socket(lab: Lab, rules: RuleSet, frame: bytes, flood: int) -> int:
    """Return the ns spent where the filter on a socket drops them; raises BypassError."""
    text = ''.join([*(f'port {port}\n' for port in rules.ports),
                    *(f'host {host}\n' for host in rules.hosts)])
    with subprocess.Popen(lab.far.command(str(lab.sink), 'far0'), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdin.write(text)
            process.stdin.close()
            if process.stdout.readline().strip() != 'ready':
                raise BypassError('start the filter on a socket', 'it did not begin')
            spent = generate(lab.near, frame, flood, lab.index)
            _wait_idle(process.pid)
            process.send_signal(signal.SIGTERM)
            denied, passed, lost, own = map(int, process.stdout.read().split())
        finally:
            process.kill()
    if denied < flood * 0.99:
        raise BypassError('flood the filter on a socket', f'it dropped {denied} of {flood} frames',
                          f'{passed} passed, the kernel lost {lost}')
    return spent + own


def generate(near: Namespace, frame: bytes, flood: int, index: int) -> int:
    """Send frames out of an interface, or drop them at once (0); return the ns spent."""
    # r1 = index, r2 = 0, call redirect; or answer drop.
    code = b''.join(struct.pack('=BBhi', *one) for one in (
        ((0xb7, 1, 0, index), (0xb7, 2, 0, 0), (0x85, 0, 0, _REDIRECT)) if index else
        ((0xb7, 0, 0, _DROP_ANSWER),))) + struct.pack('=BBhi', 0x95, 0, 0, 0)
    program = syscall.prog_load(ProgType.XDP, code, name='bench_sender')
    given = buffer_of(frame)
    try:
        with entered(near):
            before = time.thread_time_ns() + _softirq_time()
            bpf(BpfCmd.PROG_TEST_RUN, test_run_attributes(
                program, frame, address(given), flood, 0, 0, _LIVE_FRAMES))
            # What still is in the ring when the last frame is sent.
            time.sleep(0.05)
            return time.thread_time_ns() + _softirq_time() - before
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UnsupportedError('send frames out of the kernel', 'it cannot run a program on '
                                   'live frames', next_step='kernel 5.18 or later') from error
        raise
    finally:
        os.close(program)


def _softirq_time():
    """Return the processor time of all ksoftirqd threads, in ns."""
    total = 0
    for place in Path('/proc').glob('[0-9]*/comm'):
        try:
            if place.read_text().startswith('ksoftirqd/'):
                total += int(place.with_name('schedstat').read_text().split()[0])
        except OSError:
            continue
    return total


def _wait_idle(pid):
    """Wait until a process uses no more processor time."""
    deadline, before = time.monotonic() + _PATIENCE, -1
    while time.monotonic() < deadline:
        used = int(Path(f'/proc/{pid}/schedstat').read_text().split()[0])
        if used == before:
            return
        before = used
        time.sleep(0.1)
    raise BypassError('wait for the filter on a socket', 'it is still busy')
