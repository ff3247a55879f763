"""What a node that died left in its pool."""

import contextlib
import os

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool import layout
from ipc_bypass.pool.memory import PoolMemory
import numpy as np


def count_stranded(pins):
    """
    Return how many diverted datagrams nobody will take, of the pool in a PinDirectory.

    None where there is no pool. What an owner that still lives has yet to take is not stranded:
    its mapping holds the pool, and it reads on.
    """
    names = pins.list()
    if not set(layout.PARTS) <= set(names):
        return None
    descriptors = {}
    try:
        for name in layout.PARTS:
            descriptors[name] = pins.open(name)
        memory = PoolMemory.from_descriptors(descriptors)
    except BypassError:
        return None  # of another version: it goes when it is replaced
    finally:
        for fd in descriptors.values():
            os.close(fd)
    return sum(_stranded(memory, ring) for ring in range(len(memory.rings)))


def _stranded(memory, ring):
    record = memory.rings[ring]
    if not record['generation']:
        return 0
    # Between two leases all is settled, unless the node died in the middle of it.
    owner = int(record['owner_pid'])
    if owner != int(record['node_pid']) and _maps(owner):
        return 0
    head, entries = int(record['head']), memory.ring_entries
    first = max(min(int(record['cursor']), head), head - entries)
    places = np.arange(first, head, dtype=np.uint64)
    found = memory.descriptors[ring, (places & np.uint64(entries - 1)).astype(np.int64)]
    return int(np.count_nonzero((found['number'] == places + np.uint64(1))
                                & (found['action'] == layout.DIVERT)))


def _maps(pid):
    """Return whether a process has BPF maps mapped: it may be another one with that number."""
    # Not as text: names of files are any bytes.
    with contextlib.suppress(OSError), open(f'/proc/{pid}/maps', 'rb') as stream:
        return b'anon_inode:bpf-map' in stream.read()
    return False
