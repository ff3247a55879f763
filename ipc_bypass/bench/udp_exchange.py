"""What the UDP bench measures with senders and readers: one function a workload."""

from __future__ import annotations

from contextlib import ExitStack
import os
import time

from ipc_bypass.bench.rows import Cell
from ipc_bypass.bench.udp_capture import (
    Capture,
    captured,
    DIVERT,
    MIRROR,
    must_be_captured,
    passed,
    PORTS,
    RULES,
    UDP,
)
from ipc_bypass.bench.udp_peers import PeerError, Peers

#: Nanoseconds between two datagrams, by language: none is to wait for the one before.
GAP_NS = {'c': 20_000, 'python': 100_000}
#: The same for datagrams of more than LARGE bytes.
LARGE, GAP_LARGE_NS = 16384, 100_000
#: For a reader that sleeps: long enough that it is asleep, and its processor idle.
GAP_SLEEPING_NS = 200_000
#: Seconds for what is under way when the sender has ended, and for a reader to come to the end.
_LAST, _PATIENCE = 0.05, 2.0
#: Descriptors of one round of the drain; less than 90 % of the small slots.
DRAIN_COUNT, DRAIN_ROUNDS, DRAIN_SIZE = 6000, 10, 64


def one_way(capture: Capture, peers: Peers, cell: Cell, count: int) -> dict[str, float]:
    """Return the time from before sendto() to a reader that never sleeps, `p50_us`."""
    reader, _ = _exchange(capture, peers, cell, count, gap=_gap(peers, cell), drain=1)
    return {'p50_us': reader['latency_us']['p50'], 'p10_us': reader['latency_us']['p10']}


def wake(capture: Capture, peers: Peers, cell: Cell, count: int) -> dict[str, float]:
    """Return the time from before sendto() to a reader that sleeps, `p50_us`."""
    reader, _ = _exchange(capture, peers, cell, count, gap=GAP_SLEEPING_NS, block=1, drain=1)
    return {'p50_us': reader['latency_us']['p50']}


def send(capture: Capture, peers: Peers, cell: Cell, count: int) -> dict[str, float]:
    """Return how long sendto() takes, `p50_us`; the socket is read in the same way."""
    _, sender = _exchange(capture, peers, cell, count, gap=_gap(peers, cell), drain=2)
    return {'p50_us': sender['send_us']['p50']}


def _gap(peers: Peers, cell: Cell) -> int:
    return GAP_LARGE_NS if cell.size > LARGE else GAP_NS[peers.language]


def _exchange(capture: Capture, peers: Peers, cell: Cell, count: int, *, gap: int,
              block: int = 0, drain: int) -> tuple[dict, dict]:
    """Return what the reader and the sender found."""
    here, there = _processors()
    port = PORTS[cell.path]
    reading = {'port': port, 'count': count, 'block': block, 'drain': drain, 'cpu': there,
               'source': int(cell.path != UDP)}
    with ExitStack() as stack:
        stack.enter_context(capture.on(cell.path != UDP))
        descriptors: tuple[int, ...] = ()
        if cell.path != UDP and peers.language == 'python':
            reading |= {'control': capture.control, 'rules': RULES[cell.path]}
        elif cell.path != UDP:
            lease = stack.enter_context(capture.lease([RULES[cell.path]]))
            reading |= lease.options
            descriptors = lease.descriptors
        reader = stack.enter_context(peers.start('reader', reading, descriptors=descriptors))
        reader.wait_ready()
        with capture.counted() as grown:
            sender = stack.enter_context(peers.start('sender', {
                'port': port, 'count': count, 'size': cell.size, 'gap': gap, 'cpu': here}))
            sent = sender.result(30 + count * gap * 4e-9)
            found = reader.stop(_PATIENCE)
    must_be_captured(cell, grown)
    if found['received'] < count / 2:
        raise PeerError(f'measure {cell.path}, {cell.workload}',
                        f"{found['received']} of {count} datagrams reached the reader")
    return found, sent


def drain(capture: Capture, peers: Peers, cell: Cell, count: int) -> dict[str, float]:
    """Return how many descriptors a second the numpy consumer takes and releases."""
    with capture.on(), capture.counted() as grown, peers.start('drain', {
            'port': PORTS[cell.path], 'rules': RULES[cell.path], 'control': capture.control,
            'count': count, 'size': cell.size, 'rounds': DRAIN_ROUNDS,
            'cpu': _processors()[1]}) as process:
        process.wait_ready()
        found = process.result(60)
    must_be_captured(cell, grown)
    return {'descriptors_per_s': found['descriptors_per_s']}


def exact(capture: Capture, peers: Peers, cell: Cell, count: int) -> dict[str, float]:
    """
    Send `count` datagrams from two senders as fast as they can, and check each that was captured.

    One sends to the mirrored port, the other to the diverted one; one reader takes both. Sizes
    vary, and every byte is checked. Returns numbers of datagrams: `unaccounted` of what was sent
    but is neither captured nor passed under a reason, `untaken` of what was captured and is gone,
    `torn` of what was not as it was sent, or out of order. All have to be 0.
    """
    here, there = _processors()
    half = count // 2
    with ExitStack() as stack:
        stack.enter_context(capture.on())
        lease = stack.enter_context(capture.lease([RULES[MIRROR], RULES[DIVERT]]))
        reader = stack.enter_context(peers.start('reader', {
            'port': PORTS[MIRROR], 'source': 1, 'check': 1, 'count': 0, **lease.options},
            descriptors=lease.descriptors)).wait_ready()
        with capture.counted() as grown:
            senders = [stack.enter_context(peers.start('sender', {
                'port': PORTS[path], 'count': half, 'size': 0, 'sender': number, 'cpu': cpu}))
                for number, (path, cpu) in enumerate(((MIRROR, here), (DIVERT, there)))]
            sent = [sender.result(60 + count * 5e-5) for sender in senders]
            time.sleep(_LAST)
            found = reader.stop()
    took, left = captured(grown), sum(passed(grown).values())
    if not took:
        must_be_captured(cell, grown, share=1)
    return {'datagrams': sum(each['sent'] for each in sent), 'captured': took, 'passed': left,
            'unaccounted': abs(sum(each['sent'] for each in sent) - took - left),
            'untaken': abs(took - found['received'] - found['stale'] - grown['sent_on']
                           - grown['stranded']),
            'torn': found['wrong'] + found['disordered'],
            'datagrams_per_s': count / max(each['seconds'] for each in sent)}


def _processors() -> tuple[int, int]:
    """Return a processor for the sender and one for the reader; -1 where there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)
