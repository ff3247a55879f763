"""What of the trace path needs no probes: layouts, and how it says what it cannot have."""

from pathlib import Path
import struct

from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import ProgType
from ipc_bypass.trace import offsets
from ipc_bypass.trace.objects import BITS, MAPS, PROGRAMS, SOURCE
from ipc_bypass.trace.path import TracePath
from ipc_bypass.trace.probes import Probes
from ipc_bypass.trace.records import RECORD, TOTALS, unpack
from ipc_bypass.trace.settings import TraceSettings
import pytest

#: A program that uses the structs, so that the compiler tells their layout; it needs no probes.
USES_STRUCTS = """
#include <uapi/linux/bpf.h>
#include "trace_path.h"
BPF_TABLE("array", __u32, struct trace_record, trace_records, 1);
BPF_TABLE("array", __u32, struct trace_totals, trace_sums, 1);
int use(struct bpf_sock_ops *ops) { return 1; }
"""


@pytest.fixture
def no_probes(monkeypatch, tmp_path):
    """Have the kernel show no probes."""
    nothing = Probes(tmp_path / 'kprobe', [tmp_path / 'tracing'])
    monkeypatch.setattr('ipc_bypass.trace.path.Probes', lambda: nothing)


def test_layouts(tmp_path):
    """The mirrors of the shared structs are what the compiler makes of them."""
    source = tmp_path / 'structs.bpf.c'
    header = bpf_source('trace_path.h')
    source.write_text(USES_STRUCTS.replace('"trace_path.h"', f'"{header}"'))
    with load_object(source, {}, [ProgramSpec('use', ProgType.SOCK_OPS)],
                     ['trace_records', 'trace_sums']) as loaded:
        record, totals = (loaded.layouts[name] for name in ('trace_record', 'trace_totals'))
    assert (record.size, totals.size) == (RECORD.size, TOTALS.size)
    values = {'capture_ns': 1, 'cookie': 2, 'source_address': [3, 4, 5, 6],
              'destination_address': [7, 8, 9, 10], 'source_port': 11, 'destination_port': 12,
              'family': 13, 'transport': 14, 'copied': 15, 'length': 16, 'sender_pid': 17}
    assert list(record.fields) == list(values)
    assert RECORD.unpack(record.pack(values)) == (
        1, 2, struct.pack('=4I', 3, 4, 5, 6), struct.pack('=4I', 7, 8, 9, 10), *range(11, 18))
    names = ('sends', 'bytes', 'failed', 'untracked')
    assert list(totals.fields) == list(names)
    assert TOTALS.unpack(totals.pack({name: [2 * number, 2 * number + 1]
                                      for number, name in enumerate(names)})) == tuple(range(8))


def test_constants():
    """The bits of the rules are those of the header."""
    rules = enumerations(bpf_source('trace_path.h'))['trace_rule']
    assert BITS == {'udp': rules['TRACE_RULE_UDP'], 'tcp': rules['TRACE_RULE_TCP']}


def test_program_with_headers():
    """The program compiles against a kernel's own headers, too, and the verifier takes it."""
    definitions = {'TRACE_BYTES': 256, 'KERNEL_TREE': 1, 'SPLIT_READ': 0}
    with load_object(bpf_source(SOURCE), definitions, PROGRAMS, MAPS, timeout=240) as loaded:
        assert set(loaded.programs) == {program.name for program in PROGRAMS}


def test_unpack():
    """A sample is cut at the bytes that were copied."""
    sample = RECORD.pack(1, 2, bytes(16), bytes(15) + b'\1', 7000, 7400, 6, 2, 3, 900, 42)
    send = unpack(sample + b'abcdef')
    assert (send.transport, send.data, send.length, send.sender_pid) == ('tcp', b'abc', 900, 42)
    assert (send.source_port, send.destination_port, send.family) == (7000, 7400, 6)


def test_definitions_of_older_kernels():
    """Members by their older names, and a kind that holds the direction, are understood."""
    class Older:

        def offset(self, struct_name, member):
            if member in ('__iov', 'iter_type'):
                raise UnsupportedError('look up', 'there is no such member')
            return len(member)

        def enumerator(self, name):
            if name == 'ITER_UBUF':
                raise UnsupportedError('look up', 'there is no such entry')
            return 4
    found = offsets.definitions(Older())
    assert (found['OFFSET_SEGMENTS'], found['OFFSET_KIND']) == (len('iov'), len('type'))
    assert (found['KIND_MASK'], found['KIND_SEGMENTS'], found['KIND_BYTES']) == (0xfe, 4, 0xff)


def test_refused_without_probes(no_probes):
    """Where the kernel has no probes, traffic stays as it is, and the reason is kept."""
    path = TracePath(TraceSettings())
    path.configure()
    assert path.selected == 'loopback'
    assert 'the kernel has no kprobes' in path.reasons['trace']
    path.activate()
    assert not any(path.counters().values())
    path.cleanup()
    assert path.selected is None


def test_forced_without_probes(no_probes):
    """Where it is forced, configure fails with that reason and leaves nothing."""
    path = TracePath(TraceSettings(path='trace'))
    with pytest.raises(UnsupportedError, match='no kprobes'):
        path.configure()
    assert path.selected is None


def test_forbidden():
    """Where it is forbidden, nothing is tried."""
    path = TracePath(TraceSettings(path='loopback'))
    path.configure()
    assert (path.selected, path.reasons) == ('loopback', {'trace': 'forbidden by parameter'})


def test_leftovers(tmp_path):
    """Of the lines in tracefs, those of processes that are gone are removed, no others."""
    lines = tmp_path / 'kprobe_events'
    lines.write_text('p:ipc_bypass/p999999999_enter_udp_sendmsg udp_sendmsg\n'
                     'p:ipc_bypass/p1_enter_udp_sendmsg udp_sendmsg\n'
                     'p:others/p999999999_enter_udp_sendmsg udp_sendmsg\n')
    assert Probes(Path('/nonexistent'), [tmp_path]).remove_leftovers() == 1
    assert lines.read_text().endswith('-:ipc_bypass/p999999999_enter_udp_sendmsg')
