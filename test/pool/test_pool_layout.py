"""The mirror of the layout, held against what the compiler made of the header."""

from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.pool import layout
from ipc_bypass.pool.memory import file_places, PoolMemory
import numpy as np
import pytest


@pytest.fixture
def objects(kernel_pool):
    """Return the loaded program's objects."""
    return kernel_pool.path._capture._objects


@pytest.mark.parametrize('part, dtype', [
    ('pool_header', layout.HEADER), ('rings', layout.RING), ('descriptors', layout.DESCRIPTOR)])
def test_structs(objects, part, dtype):
    assert_same(objects.maps[part].value, dtype)


@pytest.mark.parametrize('part, kind', [('small_slots', layout.SMALL),
                                        ('large_slots', layout.LARGE)])
def test_slots(objects, part, kind):
    compiled = objects.maps[part].value
    assert compiled.size == layout.SLOT[kind]
    assert_same(compiled.fields['header'].nested, layout.SLOT_HEADER)
    assert compiled.fields['data'].offset == layout.SLOT_HEADER.itemsize
    assert compiled.fields['data'].size == layout.SLOT_DATA[kind]


def assert_same(compiled, dtype):
    """Compare sizes, and every field's place and bytes; addresses are words for the compiler."""
    assert compiled.size == dtype.itemsize
    assert list(compiled.fields) == list(dtype.names)
    for name, field in compiled.fields.items():
        assert (field.offset, field.size) == \
            (dtype.fields[name][1], dtype.fields[name][0].itemsize), name


def test_mapped_bytes(objects):
    """The arrays are of the size that consumers map."""
    wanted = layout.part_bytes(objects.slots, len(objects.memory.rings), objects.entries)
    assert set(wanted) == set(layout.PARTS)
    for part, size in wanted.items():
        entry = objects.maps[part]
        assert entry.max_entries * ((entry.value_size + 7) // 8 * 8) == size, part


def test_constants():
    enums = {**enumerations(bpf_source('pool_layout.h')),
             **enumerations(bpf_source('ipc_bypass_common.h'))}
    pool, flags = enums['pool_layout'], enums['descriptor_flag']
    assert (layout.MAGIC, layout.VERSION) == (pool['POOL_MAGIC'], pool['POOL_VERSION'])
    assert (layout.SMALL, layout.LARGE) == (pool['SMALL_SLOT'], pool['LARGE_SLOT'])
    assert layout.SLOT_DATA == (pool['SMALL_SLOT_DATA'], pool['LARGE_SLOT_DATA'])
    assert len(layout.SLOT_DATA) == pool['SLOT_CLASSES']
    assert layout.LARGEST_PAYLOAD == pool['LARGEST_PAYLOAD']
    assert (layout.TRUNCATED, layout.TCP) == (
        flags['DESCRIPTOR_TRUNCATED'], flags['DESCRIPTOR_TCP'])
    assert layout.ACTIONS == {number: name[len('ACTION_'):].lower() for name, number in
                              enums['rule_action'].items() if number in (2, 3)}


def test_each_writer_has_its_cache_line():
    offsets = {name: place // 64 for name, (_, place) in layout.RING.fields.items()}
    lines = [offsets[name] for name in ('head', 'cursor', 'observer_wake', 'generation')]
    assert lines == [0, 1, 2, 3]
    assert layout.RING.itemsize == 4 * 64
    assert offsets['heartbeat_ns'] == offsets['released'] == offsets['owner_wake'] == 1


@pytest.mark.parametrize('size', [0, 1 << 20, 64 << 20, 1 << 30])
def test_counts(size):
    slots = layout.slot_counts(size)
    for count, fewest, each in zip(slots, layout.FEWEST_SLOTS, layout.SLOT, strict=True):
        assert count == fewest or abs(count * each - size / 2) < each
        assert count >= fewest
    entries = layout.entries_for(slots)
    assert entries & (entries - 1) == 0 and entries > sum(slots) + 64


def test_a_files_parts_are_on_pages(tmp_path):
    places = file_places((512, 64), 3, 1024)
    end = 0
    for name in layout.PARTS:
        start, size = places[name]
        assert start % 4096 == 0 and start >= end
        end = start + size
    assert places['end'][0] >= end
    memory = PoolMemory.create_file(tmp_path / 'pool', (512, 64), 3)
    assert memory.slots == (512, 64) and len(memory.rings) == 3
    assert memory.descriptors.shape == (3, 1024)
    assert [len(headers) for headers in memory.headers] == [512, 64]


def test_payloads_and_headers_do_not_overlap(tmp_path):
    memory = PoolMemory.create_file(tmp_path / 'pool', (512, 64), 1)
    for kind, first in ((layout.SMALL, 0), (layout.LARGE, 512)):
        memory.data[kind][:] = b'\xff' * len(memory.data[kind])
        memory.headers[kind][...] = np.zeros(1, layout.SLOT_HEADER)
        for slot in (first, first + memory.slots[kind] - 1):
            payload = memory.payload(slot, layout.SLOT_DATA[kind])
            assert payload.readonly and bytes(payload) == b'\xff' * layout.SLOT_DATA[kind]
