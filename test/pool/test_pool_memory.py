"""What can be wrong with the memory of a pool, and who waits for what."""

import os
import threading
import time

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool import layout, memory
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.stranded import count_stranded
import numpy as np
import pytest

SLOTS = layout.FEWEST_SLOTS


@pytest.fixture
def path(tmp_path):
    """Return the path of a pool in a file."""
    PoolMemory.create_file(tmp_path / 'pool', SLOTS, 2)
    return tmp_path / 'pool'


@pytest.fixture
def header(path):
    """Return the header of that pool."""
    return PoolMemory.from_file(path).header


def test_the_version_is_written_last(path, header):
    """A reader waits for it."""
    header['version'] = header['slots'] = 0

    def write():
        time.sleep(0.05)
        header['slots'] = SLOTS
        header['version'] = layout.VERSION

    writer = threading.Thread(target=write)
    writer.start()
    assert PoolMemory.from_file(path).slots == SLOTS
    writer.join()


@pytest.mark.parametrize('version', [0, 7])
def test_another_version(path, header, monkeypatch, version):
    monkeypatch.setattr(memory, 'PATIENCE', 0.05)
    header['version'] = version
    with pytest.raises(PoolError) as caught:
        PoolMemory.from_file(path)
    assert f'version {version},' in str(caught.value)
    assert f'version {layout.VERSION};' in str(caught.value)


@pytest.mark.parametrize('field, value', [
    ('magic', 1), ('rings', 0), ('ring_entries', 1000), ('ring_entries', 0), ('slots', (0, 64)),
    ('slot_data_bytes', (4096, 4096)), ('descriptor_bytes', 88), ('slots', (4_000_000_000, 64)),
    ('rings', 4_000_000_000), ('header_bytes', 0)])
def test_a_senseless_header(path, header, field, value):
    header[field] = value
    with pytest.raises(PoolError) as caught:
        PoolMemory.from_file(path)
    assert '\n' not in str(caught.value)


def test_a_header_is_repaired(path, header):
    whole, before = PoolMemory.from_file(path), bytes(header)
    header['captured'] = 5
    header['version'] = header['ring_entries'] = 9
    whole.repair_header()
    assert header['captured'] == 5
    header['captured'] = 0
    assert bytes(header) == before


def test_a_short_file(path, header):
    os.truncate(path, os.path.getsize(path) - 4096)
    with pytest.raises(PoolError, match='shorter than its header says'):
        PoolMemory.from_file(path)


def test_no_file(tmp_path):
    with pytest.raises(PoolError, match='No such file'):
        PoolMemory.from_file(tmp_path / 'nothing')
    with pytest.raises(PoolError, match='/nothing: No such file'):
        PoolMemory.from_pins(tmp_path / 'nothing')


@pytest.mark.parametrize('shared_pool', ['kernel'], indirect=True)
@pytest.mark.parametrize('ring', [
    {}, {'head': 2 ** 64 - 1, 'cursor': 5}, {'head': 3, 'cursor': 2 ** 63, 'generation': 1},
    {'generation': 2 ** 64 - 1, 'owner_pid': 2 ** 32 - 1, 'head': 2 ** 64 - 1}], ids=str)
def test_what_is_stranded_in_a_pool_that_was_scribbled_over(pool, ring):
    """The next start looks at it, and has to come through."""
    record, before = pool.memory.rings[2], pool.memory.rings[2].copy()
    for name, value in ring.items():
        record[name] = np.uint64(value)
    assert count_stranded(pool.path._capture._pins) == 0
    pool.memory.rings[2] = before
