"""`ipc-bypass xdp capture`: what the samplers take, into a pcapng file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
import json
import os
import sys
import time

from ipc_bypass.cli.arguments import positive, seconds
from ipc_bypass.cli.observing import Ending
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool.pcapng import WallClock
from ipc_bypass.xdp.capturing import Source, Sources
from ipc_bypass.xdp.root import DEFAULT_PIN_DIRECTORY
from ipc_bypass.xdp.sample_file import InterfaceAccount, SampleWriter

#: Seconds between two looks for interfaces that came or went, with a flush.
LOOK_EVERY = 1.0
#: Seconds of one wait: a reader is woken for every 64th sample, else it comes by itself.
WAIT = 0.02
_MOST = 4096
# After a signal, what was taken before it is still read; a bound, since more may come.
_LAST_READS = 64


class CaptureFileError(BypassError):
    """The file cannot be written."""


def add_parser(subparsers) -> None:
    """Add `capture FILE.pcapng` to the sub-commands of `ipc-bypass xdp`."""
    summary = 'write what the samplers take to a pcapng file; needs no node'
    parser = subparsers.add_parser('capture', help=summary, description=summary)
    parser.add_argument('file', metavar='FILE', help="pcapng file to write, '-' for standard "
                        'output (then `| wireshark -k -i -` shows it live)')
    parser.add_argument('-i', '--interface', action='append', default=[], metavar='NAMES',
                        help="names, globs or 'bridge:NAME', separated by commas; may be given "
                        'again. Without it: every interface that has a sampler')
    parser.add_argument('--count', type=positive, metavar='N', help='end after N packets')
    parser.add_argument('--seconds', type=seconds, metavar='S', help='end after S seconds')
    parser.add_argument('--pin-directory', default=DEFAULT_PIN_DIRECTORY, metavar='FOLDER',
                        help='folder in which the node pins (default %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the accounts at the end as an '
                        'object: file, interfaces: {name: seen, selected, lost, written}; on '
                        "standard error where FILE is '-'")
    parser.set_defaults(run_xdp=run)


def run(args: argparse.Namespace) -> int:
    """Capture until Ctrl-C or a limit; return 0, or raise BypassError."""
    patterns = [name for words in args.interface for name in words.split(',') if name]
    ending = Ending(args.count, args.seconds)
    with _opened(args.file) as stream, ending.on_signals():
        try:
            accounts = recorded(Recorder(stream, args.pin_directory, patterns), ending)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CaptureFileError(f'write {args.file}', errno=error.errno or 0, next_step='what '
                                   'was written until then can be read') from error
    if args.json:
        print(json.dumps({'file': args.file, 'interfaces': {
            name: dataclasses.asdict(account) for name, account in accounts}}),
            file=sys.stderr if args.file == '-' else sys.stdout)
        return 0
    for name, account in accounts:
        print(f'{name}: {account.text()}', file=sys.stderr)
    return 0


def capture(stream, ending: Ending, pin_directory: str, patterns=(), *,
            clock=time.monotonic) -> list[tuple[str, str]]:
    """
    Write what the samplers take to a stream until `ending` is reached.

    :param stream: an unbuffered binary stream
    :param pin_directory: folder that the node pins in
    :param patterns: interfaces, as for capturing.Sources
    :param clock: seconds that never go back
    :returns: [(interface's name, its account as text)]
    :raises ReaderError: when another process captures there
    :raises CaptureError: when no sampler is loaded there
    :raises OSError: the stream cannot be written to
    """
    return [(name, account.text()) for name, account in recorded(
        Recorder(stream, pin_directory, patterns), ending, clock)]


def recorded(recorder: Recorder, ending: Ending,
             clock=time.monotonic) -> list[tuple[str, InterfaceAccount]]:
    """Have a recorder write until `ending` is reached, as `capture`; return its accounts."""
    try:
        recorder.look()
        recorder.sources.require()
        look_at = clock() + LOOK_EVERY
        while not ending.reached:
            ending.count(recorder.take(min(WAIT, ending.wait), ending.most(_MOST)))
            if clock() >= look_at:
                recorder.look()
                look_at = clock() + LOOK_EVERY
        for _ in range(_LAST_READS):
            taken = recorder.take(0, ending.most(_MOST))
            ending.count(taken)
            if not taken:
                break
    finally:
        recorder.close()
    return recorder.ended


class Recorder:
    """Puts samples into a file and keeps the accounts."""

    def __init__(self, stream, pin_directory: str, patterns=()) -> None:
        """Begin the file; raises OSError."""
        self.writer, self._clock = SampleWriter(stream), WallClock()
        self.sources = Sources(pin_directory, patterns, opened=self._begin)
        self._numbers: dict[int, int] = {}
        self.ended: list[tuple[str, InterfaceAccount]] = []
        self._warned: set[str] = set()

    def look(self) -> None:
        """Follow interfaces that came or went, and flush; raises BypassError or OSError."""
        for source in self.sources.update():
            try:
                self._write(source, source.sampler.read())
                self._end(source)
            finally:
                source.close()
        for source in self.sources.all:
            self._update(source)
        self.writer.flush()

    def take(self, seconds: float, most: int) -> int:
        """Write what came, at most so many packets; return how many that were."""
        taken = 0
        for source, samples in self.sources.read(seconds, most):
            self._write(source, samples)
            taken += len(samples)
        return taken

    def accounts(self) -> list[tuple[str, str]]:
        """Return [(interface's name, its account as text)], after close()."""
        return [(name, account.text()) for name, account in self.ended]

    def close(self) -> None:
        """End the file, and give the samples up; raises OSError."""
        try:
            for source in self.sources.all:
                self._end(source)
            self.writer.write_statistics()
            self.writer.flush()
        finally:
            self.sources.close()

    def _begin(self, source: Source) -> None:
        status = source.sampler.status()
        self._numbers[source.identity] = self.writer.add_interface(
            source.name, status, f'sampled by XDP in slot {source.slot}')
        settings = status.settings
        if not settings.every and not any(rule.every for rule in settings.rules) \
                and source.name not in self._warned:
            self._warned.add(source.name)
            print(f'ipc-bypass xdp capture: the sampler of {source.name} takes nothing: set '
                  'sampler_every or sampler_rules of the node', file=sys.stderr, flush=True)

    def _write(self, source: Source, samples) -> None:
        if samples:
            self._clock.update()
            self._update(source)
            self.writer.write(self._numbers[source.identity], samples, self._clock.offset_ns)

    def _update(self, source: Source):
        return self.writer.update(self._numbers[source.identity], source.sampler.status())

    def _end(self, source: Source) -> None:
        self.ended.append((source.name, self._update(source)))


@contextmanager
def _opened(path: str) -> Iterator:
    """Yield an unbuffered binary stream to a file, or to standard output for '-'."""
    if path == '-':
        yield getattr(sys.stdout.buffer, 'raw', sys.stdout.buffer)
        return
    try:
        stream = open(path, 'wb', buffering=0)
    except OSError as error:
        raise CaptureFileError(f'write {os.path.abspath(path)}', errno=error.errno or 0,
                               next_step='give a path that this user can write to') from error
    with stream:
        yield stream
