"""`ipc-bypass tap`: captured datagrams as they come, a line each."""

from __future__ import annotations

import argparse
from datetime import datetime
import json
import sys
import time

from ipc_bypass.cli.observing import add_observing_arguments, Ending, Hints, open_observer
from ipc_bypass.pool.describe import Commands, Datagram, datagrams, endpoint_text, process_text
from ipc_bypass.pool.pcapng import WallClock
from ipc_bypass.rules.rtps_message import entity_name, parse_rtps, RtpsMessage, Submessage

#: Datagrams of one read: what is printed meanwhile may be overwritten.
_MOST = 512
_HEX_COLUMNS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_observing_arguments(parser)
    parser.add_argument('--json', action='store_true',
                        help='print an object a line, with every fact')
    parser.add_argument('--rtps', action='store_true',
                        help='print each submessage on a line of its own')
    parser.add_argument('--hex', action='store_true', help='print the payload in hexadecimal')


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C or a limit, then what was missed; return 0, or raise PoolError."""
    ending = Ending(args.count, args.duration)
    show = _json_line if args.json else Lines(rtps=args.rtps, payload=args.hex)
    with open_observer(args, 'tap') as consumer, ending.on_signals():
        seen, torn = tap(consumer, ending, show, sys.stdout, hints=Hints('tap', consumer))
        print(f'{seen} printed, {consumer.statistics.missed} missed, {torn} torn',
              file=sys.stderr)
    return 0


def tap(consumer, ending: Ending, show, out, *, hints: Hints | None = None,
        commands: Commands | None = None) -> tuple[int, int]:
    """
    Print what an observer reads until `ending` is reached.

    :param consumer: as pool.consumer.Consumer, observing
    :param show: called with (Datagram, payload), returns text
    :param out: a text stream
    :returns: how many datagrams were printed, and how many were overwritten while they were read
    """
    commands, clock = commands or Commands(), WallClock()
    seen = torn = 0
    while not ending.reached:
        with consumer.read(ending.wait, ending.most(_MOST)) as batch:
            # A copy first, and then the question whether it was of one piece.
            payloads = [bytes(payload) for payload in batch.payloads()]
            intact = batch.intact().tolist() if payloads else []
            if hints is not None:
                hints.saw(len(payloads))
            clock.update()
            for datagram, payload, whole in zip(
                    datagrams(batch.descriptors, commands, clock.offset_ns), payloads, intact,
                    strict=True):
                if whole:
                    print(show(datagram, payload), file=out)
            printed = sum(intact)
        seen, torn = seen + printed, torn + len(payloads) - printed
        ending.count(printed)
        if payloads:
            out.flush()
    return seen, torn


class Lines:
    """
    Makes the text of a datagram.

    :param rtps: whether to add a line for each submessage
    :param payload: whether to add the payload in hexadecimal
    """

    def __init__(self, *, rtps: bool = False, payload: bool = False) -> None:
        self._rtps, self._payload = rtps, payload

    def __call__(self, datagram: Datagram, payload: bytes) -> str:
        """Return one line, and those that were asked for below it."""
        facts = parse_rtps(payload, datagram.original_length)
        lines = [f'{datagram_line(datagram)}  {rtps_summary(facts)}']
        if self._rtps and facts is not None:
            lines += [f'    {submessage_text(found)}' for found in facts.submessages]
        if self._payload:
            lines += _hex_lines(payload)
        return '\n'.join(lines)


def datagram_line(datagram: Datagram) -> str:
    """Return time, ends, processes, length and action; the time is local, in microseconds."""
    seconds, nanoseconds = divmod(datagram.stamp_ns, 1_000_000_000)
    moment = time.strftime('%H:%M:%S', time.localtime(seconds))
    size = f'{datagram.length} B'
    if datagram.truncated:
        size = f'{datagram.length} of {datagram.original_length} B'
    return (f'{moment}.{nanoseconds // 1000:06d} IPv{datagram.family} '
            f'{endpoint_text(datagram.source, datagram.source_port)} -> '
            f'{endpoint_text(datagram.destination, datagram.destination_port)}  '
            f'{process_text(datagram.sender_pid, datagram.sender_command)} -> '
            f'{process_text(datagram.receiver_pid, datagram.receiver_command)}  '
            f"{size}  {datagram.action}{' tcp' if datagram.transport == 'tcp' else ''}")


def rtps_summary(facts: RtpsMessage | None) -> str:
    """Return vendor, beginning of the guid prefix, kinds, and the writer of what says most."""
    if facts is None:
        return 'not RTPS'
    text = f"{facts.vendor} {facts.guid_prefix.hex()[:16]} {' '.join(facts.kinds)}"
    carrier = facts.carrier
    if carrier is not None:
        text += f', writer {entity_name(carrier.writer)}'
        if carrier.sequence is not None:
            text += f' #{carrier.sequence}'
    if facts.error:
        text += f', malformed: {facts.error}'
    return text


def submessage_text(found: Submessage) -> str:
    """Return all that is known of a submessage."""
    parts = [f'{found.kind} {found.length} B']
    if found.writer is not None:
        parts.append(f'writer {entity_name(found.writer)} ({found.writer:08x})')
        parts.append(f'reader {entity_name(found.reader)} ({found.reader:08x})')
    if found.sequence is not None:
        parts.append(f'#{found.sequence}')
    if found.timestamp is not None:
        moment = datetime.fromtimestamp(found.timestamp // 10**9)
        parts.append(f'{moment:%Y-%m-%d %H:%M:%S}.{found.timestamp % 10**9:09d}')
    if found.prefix is not None:
        parts.append(found.prefix.hex())
    return ', '.join(parts)


def _json_line(datagram: Datagram, payload: bytes) -> str:
    return json.dumps({**datagram._asdict(), 'rtps': rtps_object(
        parse_rtps(payload, datagram.original_length))})


def rtps_object(facts: RtpsMessage | None) -> dict | None:
    """Return facts as JSON knows them; prefixes in hexadecimal."""
    if facts is None:
        return None
    return {**facts._asdict(), 'guid_prefix': facts.guid_prefix.hex(), 'submessages': [
        {**found._asdict(), 'prefix': None if found.prefix is None else found.prefix.hex()}
        for found in facts.submessages]}


def _hex_lines(payload: bytes) -> list[str]:
    """Return the payload as lines of offset, hexadecimal and text."""
    lines = []
    for start in range(0, len(payload), _HEX_COLUMNS):
        row = payload[start:start + _HEX_COLUMNS]
        text = ''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)
        lines.append(f'    {start:05x}  {row.hex(" "):<{3 * _HEX_COLUMNS - 1}}  {text}')
    return lines
