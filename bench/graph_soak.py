#!/usr/bin/env python3
"""
Run nodes with a profile in two containers for long, and end them at random.

Steady: every message of some minutes must arrive, in order. Restarts: a talker or a listener is
killed or ended, and started again; data must flow again, without a fault in what flows. Fast DDS
by the demo nodes (rclpy), Cyclone DDS by ddsperf. The node `/ipc_bypass` accelerates them.

Exit code: 0 where all of it held, 1 where not, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
import json
from pathlib import Path
import random
import re
import signal
import statistics
import subprocess
import sys
import time

from graph_peers import demo_command, Graph, KINDS, PATIENCE, Peer, PeerError
from ipc_bypass.bench import ddsperf
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.nodes.demo_streams import STREAMS

#: How a process ends.
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_DDSPERF = ('30Hz', 'size', '1M')
#: What a talker may take to end, once its time is over.
_END_SECONDS = 20.0
#: What a reliable writer keeps for its readers: a busy machine may stop one for more than 1 s.
_HISTORY_SECONDS = 10
_FAULTS = ('lost', 'out_of_order', 'doubled', 'damaged', 'foreign')


def steady(graph: Graph, seconds: float, streams: tuple[str, ...] = ('camera', 'state')) -> dict:
    """
    Run streams from one container to the other; return {stream: what came of it}.

    `faults` of each says what did not hold, '' for nothing. Cyclone's stream is one of 1 MB at
    30 Hz, whatever `streams` says.
    """
    if graph.kind == 'cyclonedds':
        return {'ddsperf': _steady_ddsperf(graph, seconds)}
    with ExitStack() as stack:
        peers = {}
        for name in streams:
            depth = round(STREAMS[name].rate_hz * _HISTORY_SECONDS)
            listener = stack.enter_context(Peer(graph, 1, *demo_command(
                'listener', name, until_complete=True, json=True, depth=depth,
                duration_s=seconds + 2 * PATIENCE)))
            talker = stack.enter_context(Peer(graph, 0, *demo_command(
                'talker', name, wait_for=1, depth=depth, duration_s=float(seconds))))
            peers[name] = talker, listener
        deadline = time.monotonic() + seconds + 3 * PATIENCE
        return {name: _came_of(*peer, deadline) for name, peer in peers.items()}


def _came_of(talker: Peer, listener: Peer, deadline: float) -> dict:
    """Return the listener's summary when both have ended, with `sent` and `faults`."""
    codes = [peer.wait(max(1.0, deadline - time.monotonic())) for peer in (talker, listener)]
    told = listener.told('summary')
    if not told:
        raise PeerError('read the listener', f'no summary; it said {listener.said()}')
    sent = re.search(r': sent (\d+)', talker.said())
    count = int(sent[1]) if sent else 0
    faults = [f'{name} {told[0][name]}' for name in _FAULTS if told[0][name]]
    if not count or told[0]['received'] != count:
        faults.append(f"{told[0]['received']} of {count} arrived")
    if any(codes):
        faults.append(f'exit codes {codes}: {talker.said()}')
    return {**told[0], 'sent': count, 'faults': ', '.join(faults)}


def _steady_ddsperf(graph: Graph, seconds: float) -> dict:
    with Peer(graph, 1, 'stdbuf', '-oL', 'ddsperf', '-1', 'sub') as listener, \
            Peer(graph, 0, 'stdbuf', '-oL', 'ddsperf', '-D', f'{seconds:.0f}', 'pub',
                 *_DDSPERF) as talker:
        try:
            code = talker.wait(seconds + _END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None  # what arrived until then is told beside this fault
        time.sleep(1.5)  # the listener's last second
        listener.end(signal.SIGTERM)
        told = _seconds(listener)
        received = int(sum(second.values.get('count', 0) for second in told))
        lost = sum(second.lost for second in told)
        # It does not say how many it sent: of 30 a second, what discovery and its end take.
        expected = 30 * (seconds - 3)
        faults = [f'lost {lost}'] if lost else []
        if received < expected:
            faults.append(f'{received} arrived, {expected:.0f} expected at least')
        if code is None:
            faults.append(f'the talker did not end within {_END_SECONDS:.0f} s of its time')
        elif code:
            faults.append(f'exit code {code}: {talker.said()}')
    return {'received': received, 'lost': lost, 'faults': ', '.join(faults)}


def restarts(graph: Graph, count: int, *, seed: int = 0, stream: str = 'camera',
             ends: tuple[int, ...] = ENDS) -> Iterator[dict]:
    """
    End a talker or a listener at random and start it again, `count` times; yield each.

    What is yielded: number, who, signal, pause_s before the start, found_s until data flows
    again (None where it does not within a minute), and faults in what flowed until then.
    """
    chance = random.Random(seed)
    if graph.kind == 'fastdds':
        argv = {'talker': demo_command('talker', stream),
                'listener': demo_command('listener', stream, json=True, report_period_s=0.2)}
    else:
        argv = {'talker': ('stdbuf', '-oL', 'ddsperf', 'pub', *_DDSPERF),
                'listener': ('stdbuf', '-oL', 'ddsperf', '-1', 'sub')}
    with Peer(graph, 1, *argv['listener']) as listener, \
            Peer(graph, 0, *argv['talker']) as talker:
        peers = {'talker': talker, 'listener': listener}
        if _flows(graph.kind, listener, 0, time.monotonic()) is None:
            raise PeerError('start the graph', f'no data; the listener said {listener.said()}')
        for number in range(count):
            who, end = chance.choice(sorted(peers)), chance.choice(ends)
            pause = chance.uniform(0, 1)
            time.sleep(chance.uniform(0, 0.5))
            sessions = _sessions(graph.kind, listener) if who == 'talker' else 0
            peers[who].end(end)
            heard = _heard_faults(graph.kind, listener)
            time.sleep(pause)
            begin = time.monotonic()
            peers[who].start()
            found = _flows(graph.kind, listener, sessions, begin)
            for peer in peers.values():
                peer.check()
            yield {'number': number, 'who': who, 'signal': signal.Signals(end).name,
                   'pause_s': pause, 'found_s': found,
                   'faults': heard or _heard_faults(graph.kind, listener)}
            if found is None:  # what hangs would spoil the rest
                for peer in (talker, listener):
                    peer.end(signal.SIGKILL)
                    peer.start()
                _flows(graph.kind, listener, 0, time.monotonic())


def _flows(kind: str, listener: Peer, sessions: int, begin: float) -> float | None:
    """Return after how many seconds data of a new talker, or to a new listener, flows."""
    while time.monotonic() < begin + PATIENCE:
        if kind == 'fastdds':
            # A session is a run of a talker that this listener has heard of.
            if any(told['sessions'] > sessions for told in listener.told('second')):
                return time.monotonic() - begin
        else:
            # A line is about the second before it, in which the old one may still have talked.
            late = [ddsperf.parse(line) for when, line in [*listener.lines] if when > begin + 1.0]
            if any(second and second.values.get('count') for second in late):
                return time.monotonic() - begin
        time.sleep(0.05)
    return None


def _sessions(kind: str, listener: Peer) -> int:
    told = listener.told('second') if kind == 'fastdds' else []
    return told[-1]['sessions'] if told else 0


def _heard_faults(kind: str, listener: Peer) -> str:
    """Return what a listener has found wrong so far, '' for nothing."""
    if kind == 'fastdds':
        last = (listener.told('second') or [{}])[-1]
        found = {name: last.get(name, 0) for name in _FAULTS}
    else:
        found = {'lost': sum(second.lost for second in _seconds(listener))}
    return ', '.join(f'{name} {number}' for name, number in found.items() if number)


def _seconds(listener: Peer) -> list[ddsperf.Second]:
    found = (ddsperf.parse(line) for _, line in [*listener.lines])
    return [second for second in found if second is not None and 'count' in second.values]


def main(words: list[str] | None = None) -> int:
    """Run the soak that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--kind', choices=(*KINDS, 'all'), default='all')
    parser.add_argument('--minutes', type=float, default=10.0, help='steady; 0: leave it out')
    parser.add_argument('--restarts', type=int, default=100, help='0: leave them out')
    parser.add_argument('--streams', nargs='+', choices=tuple(STREAMS),
                        default=['camera', 'state'], help='of Fast DDS (default: camera state)')
    parser.add_argument('--seed', type=int, default=0, help='of what is ended, how and when')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write all of it there')
    args = parser.parse_args(words)
    report: dict = {}
    with unwinding():
        for kind in KINDS if args.kind == 'all' else (args.kind,):
            with Graph(kind) as graph:
                report[kind] = _soak(graph, args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    return 1 if any(_faults(told) for told in report.values()) else 0


def _soak(graph: Graph, args: argparse.Namespace) -> dict:
    """Run what is asked for, and print each result as it comes."""
    kind, found = graph.kind, {'steady': {}, 'restarts': [], 'error': ''}
    try:
        if args.minutes:
            print(f'{kind}: {args.minutes:g} minutes', flush=True)
            found['steady'] = steady(graph, args.minutes * 60, tuple(args.streams))
            for name, told in found['steady'].items():
                print(f'{kind}: {name}: {_steady_text(told)}', flush=True)
        for each in restarts(graph, args.restarts, seed=args.seed) if args.restarts else ():
            found['restarts'].append(each)
            took = 'NOT FOUND' if each['found_s'] is None else f"{each['found_s']:.2f} s"
            print(f"{kind}: restart {each['number'] + 1} of the {each['who']} after "
                  f"{each['signal']}: {took} {each['faults']}", flush=True)
    except (PeerError, subprocess.TimeoutExpired) as error:
        found['error'] = ' '.join(str(error).split())
        print(f"{kind}: {found['error']}")
    times = [each['found_s'] for each in found['restarts'] if each['found_s'] is not None]
    if times:
        print(f"{kind}: {len(times)} of {len(found['restarts'])} restarts found each other, "
              f'median {statistics.median(times):.2f} s, longest {max(times):.2f} s')
    found['redirected_messages'] = graph.redirected()
    print(f"{kind}: {found['redirected_messages']:,} messages redirected", flush=True)
    return found


def _steady_text(told: dict) -> str:
    text = f"{told['received']} arrived, {told['faults'] or 'no fault'}"
    if 'p50_us' in told:
        text += f", p50 {told['p50_us'] / 1e3:.2f} ms, p99 {told['p99_us'] / 1e3:.2f} ms"
    return text


def _faults(report: dict) -> bool:
    """Return whether anything of one kind did not hold."""
    return (bool(report['error']) or any(told['faults'] for told in report['steady'].values())
            or any(each['faults'] or each['found_s'] is None for each in report['restarts']))


if __name__ == '__main__':
    sys.exit(main())
