"""
What is compiled with the package: each program file with the definitions that a start may ask for.

A definition that is open (`prebuilt_files.is_open`) stands here with any number; UNKNOWN is what
the kernels say that have no such member. Where a path changes its definitions, the test that
starts the node without a compiler fails until they are changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import itertools

from ipc_bypass.kernel.loader import ProgramSpec
from ipc_bypass.kernel.prebuilt_files import UNKNOWN
from ipc_bypass.kernel.uapi import ProgType
from ipc_bypass.pool import layout
from ipc_bypass.proxy import sk_skb
from ipc_bypass.tcp import objects as tcp
from ipc_bypass.tcp import offsets as tcp_offsets
from ipc_bypass.tcp import watch, watch_offsets
from ipc_bypass.trace import objects as trace
from ipc_bypass.trace import offsets as trace_offsets
from ipc_bypass.trace.settings import TraceSettings
from ipc_bypass.udp import error_queue
from ipc_bypass.udp import objects as udp
from ipc_bypass.udp.settings import UdpSettings
from ipc_bypass.xdp.fast_path import path as fast_path
from ipc_bypass.xdp.kinds import DEFAULT_ORDER, slot_program

#: Pools that are served: bytes of all slots together, and consumers (parameters of the node).
POOLS = ((UdpSettings.pool_size, UdpSettings.max_consumers),)
_OPEN = 0


@dataclass(frozen=True)
class Entry:
    """A program file (its name in bpf/) with one set of definitions, and the programs in it."""

    source: str
    definitions: Mapping[str, int | str]
    programs: Sequence[ProgramSpec]


class AnyKernel:
    """Type information of a kernel that has everything; reading it tells the names there are."""

    def offset(self, _type_name, _path):
        """Return where a member is."""
        return _OPEN

    def bit_field(self, _type_name, _path):
        """Return where a bit-field is, and its mask."""
        return _OPEN, 1

    def size(self, _type_name):
        """Return the size of a type."""
        return _OPEN

    def enumerator(self, _name):
        """Return the number of an entry of an enumeration."""
        return _OPEN


def entries(machine: str, pools: Sequence[tuple[int, int]] = POOLS) -> Iterator[Entry]:
    """Yield all entries for a kind of machine, as uname(2) names it."""
    yield from _tcp()
    yield from _watch()
    yield from _udp(machine, pools)
    yield from _trace()
    yield Entry(sk_skb.SOURCE, {'MAX_SOCKETS': _OPEN, 'OFFSET_COOKIE': _OPEN,
                                'OFFSET_WRITE_SEQ': _OPEN},
                [ProgramSpec(sk_skb.VERDICT, ProgType.SK_SKB)])
    yield Entry(fast_path.SOURCE, {'PORTS': fast_path.FastPathSettings.max_ports + 1},
                [ProgramSpec(fast_path.PROGRAM, ProgType.SCHED_CLS)])
    yield from _xdp()


def _tcp() -> Iterator[Entry]:
    """Yield the TCP path, by what the kernel shows of its queues; without copies to the pool."""
    common = {'MAX_FLOWS': _OPEN, 'CAPTURE': 0}
    members = tcp_offsets._read(AnyKernel())
    members.pop(tcp_offsets.WATCH)
    seen = ({}, {'OFFSET_PSOCK_QUEUED': UNKNOWN})
    for gateway, missing in itertools.product((0, 1), seen):
        for by_program in (1, 0):
            yield Entry(tcp.SOURCE, {**common, **members, **missing, 'GATEWAY': gateway,
                                     'KERNEL_VIEW': 1, 'PROGRAM_RENEWAL': by_program,
                                     'WAKE': 1 - by_program}, tcp.PROGRAMS)
    yield Entry(tcp.SOURCE, {**common, 'GATEWAY': 0, 'KERNEL_VIEW': 0, 'PROGRAM_RENEWAL': 0,
                             'WAKE': 1}, tcp.PROGRAMS)


def _watch() -> Iterator[Entry]:
    """Yield what watches for calls that redirected sockets answer otherwise."""
    for definitions in watch_offsets.watch_definitions(AnyKernel())[:1]:
        yield Entry(watch.SOURCE, definitions, watch._PROGRAMS)


def _udp(machine: str, pools: Sequence[tuple[int, int]]) -> Iterator[Entry]:
    """Yield the UDP path, by who may ask for the sender and where IP_RECVERR is seen."""
    members = error_queue.find(AnyKernel())
    queues = (*({'ERROR_QUEUE': 1, **members, 'OFFSET_PINET6': pointer}
                for pointer in (_OPEN, UNKNOWN)), {'ERROR_QUEUE': 0})
    for (pool_size, consumers), queue, ask in itertools.product(pools, queues, (1, 0)):
        slots = layout.slot_counts(pool_size)
        yield Entry(udp.SOURCE, {
            'SMALL_SLOTS': slots[0], 'LARGE_SLOTS': slots[1], 'RINGS': consumers,
            'RING_ENTRIES': layout.entries_for(slots), 'ENDPOINTS': udp.ENDPOINTS,
            'ORDERED_STORES': int(machine == 'x86_64'), **queue, 'CURRENT_PID': ask},
            [udp._CAPTURE, *(() if ask else udp.NOTES)])


def _trace() -> Iterator[Entry]:
    """Yield the trace path, by the kernel's ways to read memory and to name directions."""
    members = trace_offsets.definitions(AnyKernel())
    for mask, split in itertools.product((0xff, 0xfe), (1, 0)):
        yield Entry(trace.SOURCE, {'TRACE_BYTES': TraceSettings.capture_bytes, 'KERNEL_TREE': 0,
                                   **members, 'KIND_MASK': mask, 'SPLIT_READ': split},
                    trace.PROGRAMS)


def _xdp() -> Iterator[Entry]:
    """Yield the root and each kind of slot in its usual place, for one and many buffers."""
    slots = [slot_program(kind) for kind in DEFAULT_ORDER if kind]
    for frags in ({}, {'XDP_FRAGS': 1}):
        yield Entry('xdp_root.bpf.c', frags, [ProgramSpec('xdp_root', ProgType.XDP)])
        for program in slots:
            yield Entry(program.source.name,
                        {**program.definitions, 'SLOT': DEFAULT_ORDER.index(program.kind),
                         **frags}, [ProgramSpec(program.program, ProgType.XDP)])
