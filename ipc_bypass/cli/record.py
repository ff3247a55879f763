"""`ipc-bypass record`: captured datagrams into a pcapng file that Wireshark dissects as RTPS."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
import dataclasses
import json
import os
import sys
import time

from ipc_bypass.cli.observing import (
    add_observing_arguments,
    Ending,
    Hints,
    open_observer,
    PassedCounts,
)
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool import layout
from ipc_bypass.pool.describe import Commands, datagrams, process_text
from ipc_bypass.pool.pcapng import Account, PcapngWriter, WallClock
from ipc_bypass.pool.soundness import sound
import numpy as np

#: Seconds between two flushes while datagrams come, and between two statistics blocks.
FLUSH_EVERY, STATISTICS_EVERY = 1.0, 10.0
# After a signal, what was captured before it is still read; a bound, since more may come.
_LAST_READS = 64
#: Messages of TCP connections: tshark knows none of the ways in which DDS frames them.
LEFT_OUT_TCP = 'tcp'


class RecordError(BypassError):
    """The file cannot be written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('file', metavar='FILE', help="pcapng file to write, '-' for standard "
                        'output (then `| wireshark -k -i -` shows it live)')
    add_observing_arguments(parser)
    parser.add_argument('--snaplen', type=int, default=0, metavar='BYTES',
                        help='keep at most so many bytes of each packet, headers included '
                        '(default: all)')
    parser.add_argument('--comments', action='store_true',
                        help='add a comment to each packet: action, rule, processes')
    parser.add_argument('--json', action='store_true', help='print the account at the end as an '
                        'object: file, written, missed, torn, left_out, passed; on standard '
                        "error where FILE is '-'")


def run(args: argparse.Namespace) -> int:
    """Record until Ctrl-C or a limit; return 0, or raise PoolError or RecordError."""
    ending = Ending(args.count, args.duration)
    with open_observer(args, 'record') as consumer, _opened(args.file) as stream, \
            ending.on_signals():
        try:
            account = record(consumer, stream, ending, snaplen=max(0, args.snaplen),
                             comments=args.comments, hints=Hints('record', consumer))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RecordError(f'write {args.file}', errno=error.errno or 0,
                              next_step='what was written until then can be read') from error
    if args.json:
        print(json.dumps({'file': args.file, **dataclasses.asdict(account)}),
              file=sys.stderr if args.file == '-' else sys.stdout)
    else:
        print(f'{args.file}: {account.text()}', file=sys.stderr)
    return 0


def record(consumer, stream, ending: Ending, *, snaplen: int = 0, comments: bool = False,
           hints: Hints | None = None, clock=time.monotonic) -> Account:
    """
    Write what an observer reads to a stream until `ending` is reached; return the account.

    :param consumer: as pool.consumer.Consumer, observing
    :param stream: an unbuffered binary stream
    :param snaplen: most bytes of a packet, 0 for all
    :param comments: whether packets get comments
    :param clock: seconds that never go back
    :raises OSError: the stream cannot be written to
    """
    recorder = Recorder(consumer, stream, snaplen=snaplen, comments=comments)
    flush_at = clock() + FLUSH_EVERY
    statistics_at = clock() + STATISTICS_EVERY
    try:
        while not ending.reached:
            with consumer.read(ending.wait, ending.most(4096)) as batch:
                ending.count(recorder.take(batch))
                if hints is not None:
                    hints.saw(len(batch))
                idle = not len(batch)
            now = clock()
            if now >= statistics_at:
                recorder.write_statistics()
                statistics_at = now + STATISTICS_EVERY
            if idle or now >= flush_at:
                recorder.writer.flush()
                flush_at = now + FLUSH_EVERY
        for _ in range(_LAST_READS):
            with consumer.read(0, max(1, ending.most(4096))) as batch:
                if not len(batch) or not ending.most(1):
                    break
                ending.count(recorder.take(batch))
    finally:
        recorder.write_statistics()
        recorder.writer.flush()
    return recorder.account


class Recorder:
    """Puts batches into a file and keeps the account."""

    def __init__(self, consumer, stream, *, snaplen: int = 0, comments: bool = False) -> None:
        """Begin the file."""
        self._consumer, self._clock = consumer, WallClock()
        self._passed = PassedCounts(consumer)
        self._commands = Commands() if comments else None
        self._drops = 0  # since the last packet
        self.account = Account()
        self.writer = PcapngWriter(
            stream, snaplen=snaplen, description='datagrams captured at the send by ipc_bypass')

    def take(self, batch) -> int:
        """Add what is intact of a batch; return how many that were."""
        self._count_missed()
        if not len(batch):
            return 0
        # A copy first, and then the question whether it was of one piece.
        payloads = [bytes(payload) for payload in batch.payloads()]
        descriptors = batch.descriptors
        intact = batch.intact() & sound(descriptors)  # or scribbled over
        torn = len(intact) - int(np.count_nonzero(intact))
        of_tcp = intact & (descriptors['flags'] & layout.TCP != 0)
        left_out = int(np.count_nonzero(of_tcp))
        self.account.torn += torn
        self._drops += torn
        if left_out:
            known = self.account.left_out.get(LEFT_OUT_TCP, 0)
            self.account.left_out[LEFT_OUT_TCP] = known + left_out
        if torn or left_out:
            wanted = intact & ~of_tcp
            descriptors = descriptors[wanted]
            payloads = [payload for payload, keep in zip(payloads, wanted.tolist(), strict=True)
                        if keep]
        if not payloads:
            return 0
        self._clock.update()
        offset = self._clock.offset_ns
        self.writer.write_datagrams(
            descriptors, payloads, offset, drops=self._drops,
            comments=None if self._commands is None else [
                _comment(datagram) for datagram in
                datagrams(descriptors, self._commands, offset)])
        self._drops = 0
        self.account.written += len(payloads)
        return len(payloads)

    def write_statistics(self) -> None:
        """Add the account as it is now."""
        self._count_missed()
        self.account.passed = self._passed.update()
        self.writer.write_statistics(self.account)

    def _count_missed(self) -> None:
        missed = self._consumer.statistics.missed
        self._drops += max(0, missed - self.account.missed)
        self.account.missed = missed


def _comment(datagram) -> str:
    """Return the comment of a packet: what an IP packet cannot say."""
    return (f'{datagram.action}, rule {datagram.rule_id}, '
            f'{process_text(datagram.sender_pid, datagram.sender_command)} -> '
            f'{process_text(datagram.receiver_pid, datagram.receiver_command)}'
            + (', truncated at the capture' if datagram.truncated else ''))


@contextmanager
def _opened(path: str):
    """Yield an unbuffered binary stream to a file, or to standard output for '-'."""
    if path == '-':
        yield sys.stdout.buffer.raw if hasattr(sys.stdout.buffer, 'raw') else sys.stdout.buffer
        return
    try:
        stream = open(path, 'wb', buffering=0)
    except OSError as error:
        raise RecordError(f'write {os.path.abspath(path)}', errno=error.errno or 0,
                          next_step='give a path that this user can write to') from error
    with stream:
        yield stream
