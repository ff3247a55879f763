"""
The sink and the echo of the AF_XDP bench, in Python: ipc_bypass.xdp.af_xdp as anybody uses it.

Options and output are those of bench/xdp_socket.h.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import signal
import socket
import struct
import sys
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.af_xdp.echo import Echo
from ipc_bypass.xdp.af_xdp.opening import open_sockets
from ipc_bypass.xdp.af_xdp.pipeline import Pipeline
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings

PORT = 4242
ROLES = {'sink': lambda: lambda batch: None, 'echo': lambda: Echo([PORT])}


def main(arguments: Sequence[str]) -> int:
    """Run a role until SIGTERM."""
    role, *words = arguments
    options = {name: int(value) for name, _, value in (word.partition('=') for word in words)}
    entries = options.get('entries', 4096)
    settings = AfXdpSettings(
        frames=2 * entries, ring_entries=entries, batch=options.get('batch', 256),
        cpu=options.get('cpu', -1), spin=bool(options.get('spin', 0)),
        rest_us=0 if options.get('spin') else options.get('rest', 250))
    name, queue = socket.if_indextoname(options['interface']), options.get('queue', 0)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    sockets = open_sockets([(name, queue)], settings)
    with Pipeline(sockets, ROLES[role]()) as pipeline:
        syscall.map_update(options['map'], struct.pack('=I', queue),
                           struct.pack('=I', sockets[0].fileno()))
        print('ready', flush=True)
        began, used = time.monotonic(), time.process_time()
        pipeline.run(lambda: bool(stopped))
        counters, lost = pipeline.counters[sockets[0]], sockets[0].statistics()
        print(json.dumps({
            'received': counters.rx_packets, 'bytes': counters.rx_bytes,
            'dropped': lost['rx_dropped'], 'ring_full': lost['rx_ring_full'],
            'seconds': time.monotonic() - began, 'cpu_seconds': time.process_time() - used}))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
