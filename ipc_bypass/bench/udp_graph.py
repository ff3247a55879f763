"""What the UDP bench measures with a DDS graph, and of a node that has nothing to do."""

from __future__ import annotations

from contextlib import ExitStack
import os
from pathlib import Path
import time

from ipc_bypass.bench import ddsperf
from ipc_bypass.bench.bypass import Bypass
from ipc_bypass.bench.containers import Namespace
from ipc_bypass.bench.profiles import loopback_udp
from ipc_bypass.bench.rows import Cell
from ipc_bypass.bench.udp_capture import Capture, captured, DDS_PORT_BASE, MIRROR, RULES
from ipc_bypass.bench.udp_peers import PeerError, Peers

#: The ports of a participant are those of RTPS 2.5, 9.6.1.1, from a base of our own: a graph on
#: this host is left alone.
_DISCOVERY = ('<Discovery><ParticipantIndex>auto</ParticipantIndex>'
              f'<Ports><Base>{DDS_PORT_BASE}</Base></Ports></Discovery>')
#: Datagrams to them that a run of a second has at the least, where the rule takes effect.
_FEWEST = 1000


def uri() -> str:
    """Return the CYCLONEDDS_URI of both peers: loopback_udp, with ports that rules can name."""
    return loopback_udp().replace('</Domain>', f'{_DISCOVERY}</Domain>')


def throughput(capture: Capture, peers: Peers, place: Namespace, cell: Cell, *, seconds: int,
               drop: int) -> list[dict[str, float]]:
    """
    Return `samples_per_s` of ddsperf for each second; mirrored, with a consumer that sleeps.

    :raises DdsperfError: a peer failed
    :raises PeerError: nothing of it was mirrored, or the consumer failed
    """
    peer, mirrored = ddsperf.Peer(place, uri()), cell.path == MIRROR
    with ExitStack() as stack:
        stack.enter_context(capture.on(mirrored))
        if not mirrored:
            return ddsperf.run(ddsperf.THROUGHPUT, cell.size, peer, peer, seconds=seconds,
                               drop=drop)
        consumer = stack.enter_context(peers.start(
            'consume', {'rules': RULES['dds'], 'control': capture.control})).wait_ready()
        with capture.counted() as grown:
            figures = ddsperf.run(ddsperf.THROUGHPUT, cell.size, peer, peer, seconds=seconds,
                                  drop=drop)
            found = consumer.stop()
    if captured(grown) < _FEWEST or not found['received']:
        raise PeerError('measure ddsperf, mirrored', f'{captured(grown)} datagrams were '
                        f"captured, {found['received']} consumed")
    return figures


def idle(seconds: float) -> dict[str, float]:
    """Return the share of one processor that a node with a UDP rule takes, `cpu_percent`."""
    with Bypass(range(0), rules=[RULES['dds']]) as node:
        time.sleep(1)
        before, begin = _processor_seconds(node.pid), time.monotonic()
        time.sleep(seconds)
        used = _processor_seconds(node.pid) - before
        return {'cpu_percent': 100 * used / (time.monotonic() - begin)}


def _processor_seconds(pid: int) -> float:
    """Return the time that a process has run, of proc(5): utime and stime, in seconds."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
