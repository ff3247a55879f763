"""
The order of loads and stores in rings, on machines that keep none, such as AArch64.

No such machine is here: what it may do is done by hand where a barrier stands. The rings are
memory of ours in the kernel's shapes, since the kernel's own memory cannot be made to change then.
"""

import mmap
import os
import struct
from types import SimpleNamespace

from ipc_bypass.kernel import ordering
from ipc_bypass.tcp import renewal
from ipc_bypass.xdp import ring_buffer
from ipc_bypass.xdp.af_xdp import rings
import numpy as np
import pytest

PAGE, SIZE, ENTRIES = mmap.PAGESIZE, mmap.PAGESIZE, 64
BUSY = 1 << 31


@pytest.fixture
def then(monkeypatch):
    """Return a list of functions, each called at a barrier, in their order."""
    todo = []

    def barrier():
        ordering.full_barrier()
        if todo:
            todo.pop(0)()
    for module in rings, ring_buffer, renewal:
        monkeypatch.setattr(module, 'WEAK', True)
        monkeypatch.setattr(module, 'full_barrier', barrier)
    return todo


@pytest.fixture
def memory():
    """Return (descriptor, mapping) of memory that can be mapped again."""
    fd = os.memfd_create('ipc_bypass_ordering')
    os.ftruncate(fd, 2 * PAGE + 2 * SIZE)
    with mmap.mmap(fd, 2 * PAGE + 2 * SIZE) as mapping:
        yield fd, mapping
    os.close(fd)


@pytest.mark.parametrize('reader', ['sampler', 'renewal'])
def test_a_record_is_read_after_its_position_and_its_flag(memory, then, reader):
    fd, mapping = memory
    data, seen = 2 * PAGE, []
    mapping[data:data + 12] = struct.pack('=IIQ', 8 | BUSY, 0, 0)[:12]
    mapping[PAGE:PAGE + 8] = struct.pack('=Q', 16)

    def show_length():
        mapping[data:data + 4] = struct.pack('=I', 8)

    def show_record():
        mapping[data + 8:data + 16] = struct.pack('=Q', 4711)

    def look():
        seen.append(struct.unpack_from('=Q', mapping)[0])
    then += [show_length, show_record, look]
    if reader == 'sampler':
        ring = ring_buffer.RingBuffer(fd, SIZE, least=8, most=8)
        found = [struct.unpack('=Q', record)[0] for record in ring.read(9)]
    else:
        ring = renewal.WakeRing(SimpleNamespace(fd=fd, max_entries=SIZE), 'Q')
        found = list(ring.drain())
    ring.close()
    assert found == [4711]
    assert seen == [0]
    assert struct.unpack_from('=Q', mapping) == (16,)


def ring_of(kind, memory):
    """Return an AF_XDP ring: producer at 0, consumer at 64, flags at 128, entries at 192."""
    return kind(memory[0], 0, (0, 64, 192, 128), ENTRIES, np.dtype(
        [('address', '<u8'), ('length', '<u4'), ('options', '<u4')]))


@pytest.mark.parametrize('few', [True, False], ids=['few', 'many'])
def test_what_the_kernel_put_in_is_read_after_its_index(memory, then, few):
    mapping, seen = memory[1], []
    ring = ring_of(rings.ConsumerRing, memory)
    mapping[0:4] = struct.pack('=I', 1)

    def show():
        mapping[192:204] = struct.pack('=QI', 2048, 60)

    def look():
        seen.append(struct.unpack_from('=I', mapping, 64)[0])
    then += [show, look]
    assert ring.ready == 1
    if few:
        assert ring.take_few(1) == ([2048], [60])
    else:
        assert ring.take(8)['address'].tolist() == [2048]
    assert seen == [0]
    assert struct.unpack_from('=I', mapping, 64) == (1,)
    ring.close()


@pytest.mark.parametrize('few', [True, False], ids=['few', 'many'])
def test_what_is_put_in_is_there_before_its_index(memory, then, few):
    mapping, seen = memory[1], []
    ring = ring_of(rings.ProducerRing, memory)
    then.append(lambda: seen.append((struct.unpack_from('=I', mapping, 0)[0],
                                     struct.unpack_from('=Q', mapping, 192)[0])))
    if few:
        ring.put_few([2048], [60])
    else:
        ring.put_packets(np.array([2048]), np.array([60]))
    assert seen == [(0, 2048)]
    assert struct.unpack_from('=I', mapping, 0) == (1,)
    ring.close()
