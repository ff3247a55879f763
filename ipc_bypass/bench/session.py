"""
One bench from its options to its report: what every bench of the command line has in common.

A bench is a module with SUMMARY, add_arguments(parser) and run(args), listed in
ipc_bypass/cli/bench.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import importlib.util
from pathlib import Path
import shutil
import sys
import time

from ipc_bypass.kernel.errors import UnsupportedError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every bench has."""
    parser.add_argument('--quick', action='store_true',
                        help='under 45 s: fewer figures, each from one short run')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='write the figures to FILE, as {"rows": [...]}')
    parser.add_argument('--repeat', type=count, metavar='N',
                        help='measure everything N times and take medians (default 3, quick 1)')


def count(text: str) -> int:
    """Return a whole number above 0; raises ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 1000')
    return number


def payload(text: str) -> int:
    """
    Return a payload size in bytes; '16k' and '1M' are 16384 and 1048576.

    Raises ArgumentTypeError; 12 bytes are ddsperf's smallest samples.
    """
    factor = {'k': 1 << 10, 'm': 1 << 20}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    size = int(digits) * factor if digits.isascii() and digits.isdigit() else 0
    if not 12 <= size <= 64 << 20:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a size from 12 to 64M, such as 64, 16k or 1M')
    return size


def need(name: str, *, package: str, program: bool = False) -> None:
    """
    Raise UnsupportedError where a module, or a program, is not there.

    :param package: Debian package that brings it
    """
    there = shutil.which(name) if program else importlib.util.find_spec(name)
    if there is None:
        raise UnsupportedError(f'use {name}', 'it is not installed',
                               next_step=f'apt-get install {package}')


def console(width: int = 106) -> Console:
    """Return the standard output; a file gets lines that are wide enough for a table."""
    # The terminal's width is rich's to find out.
    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


class Reporter:
    """Shows how far a bench is: a bar on a terminal, a line a step anywhere else."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._progress = Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn('{task.description}'), console=console, transient=True,
            disable=not console.is_terminal)
        self._task = self._progress.add_task('', total=total)

    def step(self, description: str) -> None:
        """Say what begins now; what was begun before is done."""
        self._progress.update(self._task, description=description, completed=self._done)
        self._done += 1
        if not self._console.is_terminal:
            elapsed = time.monotonic() - self._started
            self._console.print(f'  {elapsed:4.0f} s  {self._done}/{self._total}  {description}')

    @contextmanager
    def shown(self) -> Iterator[Reporter]:
        """Show the bar while the context lasts."""
        with self._progress:
            yield self
