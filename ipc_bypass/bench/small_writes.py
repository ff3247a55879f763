"""
Measure one-way streams of small writes with iperf3, on loopback: where redirect stops to gain.

The path `tcp` is a port that is not enrolled, `redirect` one whose flows are always redirected,
`tcp+bypass` one with the guard as the node has it by default. The figures behind the defaults of
guard_rate and guard_size_bytes come from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import json
import subprocess
import time

from ipc_bypass.bench import report, rows, session
from ipc_bypass.bench.ports import wait_for_listener
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.rules.table import Rule
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings

SUMMARY = 'streams of small writes: plain, redirected, and with the guard'
PATHS = ('tcp', 'redirect', 'tcp+bypass')
SIZES = (64, 256, 1024, 2048, 4096, 8192, 16384, 65536)
QUICK_SIZES = (64, 1024, 16384)
PORT = 27480
DROPPED_SECONDS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    session.add_common_arguments(parser)
    parser.add_argument('--sizes', type=session.payload, nargs='+', metavar='SIZE',
                        help='sizes of a write, such as 64 1k 64k')


def run(args: argparse.Namespace) -> int:
    """Run the bench and return the exit status."""
    session.need('iperf3', program=True, package='iperf3')
    console = session.console()
    sizes = args.sizes or (QUICK_SIZES if args.quick else SIZES)
    repeats = args.repeat or (1 if args.quick else 3)
    seconds = 2 if args.quick else 3
    cells = [rows.Cell('loopback', 'iperf3', path, 'stream', size)
             for size in sizes for path in PATHS]
    runs = {cell: [] for cell in cells}
    reporter = session.Reporter(console, len(cells) * repeats)
    with reporter.shown():
        for _ in range(repeats):
            for cell in cells:
                reporter.step(f'{cell.path}, {cell.size} B')
                with _steered(cell.path):
                    runs[cell].append([{'samples_per_s': _stream(cell.size, seconds)}])
    figures = rows.rows_of(runs)
    console.print(report.table('Writes a second of one sender to one reader', figures, PATHS))
    if args.json:
        rows.write_json(args.json, figures)
    return 0


@contextmanager
def _steered(path: str) -> Iterator[None]:
    """Have the port enrolled, or not, while the context lasts."""
    if path == 'tcp':
        yield
        return
    guard = {'guard_rate': 0} if path == 'redirect' else {}
    tcp = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory='', **guard))
    tcp.configure()
    try:
        tcp.set_rules([Rule('tcp', PORT, PORT, 'accelerate', 1)])
        tcp.activate()
        yield
    finally:
        tcp.cleanup()


def _stream(size: int, seconds: int) -> float:
    """Return how many writes of `size` bytes a second a reader takes from one sender."""
    server = subprocess.Popen(['iperf3', '--server', '--one-off', '--port', str(PORT)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_listener(PORT)
        done = subprocess.run(
            ['iperf3', '--client', '127.0.0.1', '--port', str(PORT), '--length', str(size),
             '--time', str(seconds), '--omit', str(DROPPED_SECONDS), '--json'],
            capture_output=True, text=True, check=False, timeout=seconds + 30)
        answer = json.loads(done.stdout)
        if 'error' in answer:
            raise BypassError('measure with iperf3', answer['error'])
        return answer['end']['sum_received']['bits_per_second'] / 8 / size
    finally:
        server.kill()
        server.wait()
        time.sleep(0.1)
