"""
The order of loads and stores on machines that keep none, such as AArch64.

No such machine is here: what it may do is done by hand where a barrier stands. What another
processor stored late is there only from the barrier on, and what must not be seen early is looked
at before it.
"""

from ipc_bypass.kernel.ordering import full_barrier
from ipc_bypass.pool import batch as batch_module
from ipc_bypass.pool import layout, reader, writer
from ipc_bypass.pool.batch import Batch
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.reader import ObserverPlaces, OwnerPlaces
from ipc_bypass.pool.writer import Capture, PoolWriter
import pytest

MODULES = (reader, writer, batch_module)


class Weak:
    """A pool of which each barrier is noted, and calls what a test wants to happen there."""

    def __init__(self, path):
        self.memory = PoolMemory.create_file(path, layout.FEWEST_SLOTS, 1)
        self.writer = PoolWriter(self.memory)
        self.barriers, self.then = 0, []

    def barrier(self):
        self.barriers += 1
        full_barrier()
        if self.then:
            self.then.pop(0)()

    def write(self, count=1):
        for number in range(count):
            assert self.writer.write(0, bytes([number]), Capture(
                1, 1, bytes(16), bytes(16), 40000, 7411, 4, layout.DIVERT, 0, 0, 0, 7, 1)) == ''
        self.barriers = 0

    def hide(self, places, count):
        """Take back what stands in `count` places, but for the numbers; the barrier shows it."""
        shown = self.memory.descriptors[0].copy()
        for place in range(places, places + count):
            number = self.memory.descriptors[0, place]['number']
            self.memory.descriptors[0, place] = 0
            self.memory.descriptors[0, place]['number'] = number

        def show():
            self.memory.descriptors[0] = shown
        self.then.append(show)


@pytest.fixture
def weak(monkeypatch, tmp_path):
    pool = Weak(tmp_path / 'pool')
    for module in MODULES:
        monkeypatch.setattr(module, 'WEAK', True)
        monkeypatch.setattr(module, 'full_barrier', pool.barrier)
    return pool


@pytest.mark.parametrize('count', [1, 2, 200])
@pytest.mark.parametrize('kind', ['owner', 'observer'])
def test_a_descriptor_is_read_after_its_number(weak, kind, count):
    places = OwnerPlaces(weak.memory, 0, 1, 0) if kind == 'owner' else \
        ObserverPlaces(weak.memory, 0)
    weak.write(count)
    weak.hide(0, count)
    found = places.take(count)
    assert len(found) == count
    assert set(found['destination_port']) == {7411}


def test_around_the_end_of_the_ring(weak):
    """The second part has numbers of its own, and a barrier behind them."""
    entries = weak.memory.ring_entries
    places = OwnerPlaces(weak.memory, 0, 1, 0)
    for _ in range(0, entries - 10, 10):
        weak.write(10)
        places.give_back(places.take(4096), places.single)
    start = places.cursor & entries - 1
    weak.write(20)
    first = entries - start
    assert 0 < first < 20
    weak.then.append(lambda: None)
    weak.hide(0, 20 - first)
    found = places.take(4096)
    assert len(found) == 20
    assert set(found['destination_port']) == {7411}


def test_the_cursor_is_published_after_the_descriptors_were_read(weak):
    places, cursors = OwnerPlaces(weak.memory, 0, 1, 0), []
    weak.write(3)
    weak.then += [lambda: cursors.append(int(weak.memory.rings[0]['cursor']))] * 2
    places.take(4096)
    assert cursors == [0, 0]
    assert weak.memory.rings[0]['cursor'] == 3


@pytest.mark.parametrize('count', [1, 3])
def test_slots_are_given_back_after_the_payloads_were_read(weak, count):
    places = OwnerPlaces(weak.memory, 0, 1, 0)
    weak.write(count)
    found, released = places.take(4096), []
    weak.then.append(lambda: released.append(int(weak.memory.released.max())))
    places.give_back(found, places.single)
    assert released == [0]
    assert weak.memory.released.max() == count


def test_a_payload_is_read_before_it_is_asked_whether_it_was_intact(weak):
    places = ObserverPlaces(weak.memory, 0)
    weak.write()
    taken = Batch(places.take(1), weak.memory)
    weak.then.append(lambda: weak.memory.headers[layout.SMALL]['sequence'].fill(0))
    assert not taken.intact().any()


def test_the_writer_shows_a_datagram_when_it_is_whole(weak):
    seen = []

    def look():
        seen.append((int(weak.memory.headers[layout.SMALL][0]['sequence']),
                     int(weak.memory.rings[0]['head']),
                     int(weak.memory.descriptors[0, 0]['number'])))
    weak.then += [look] * 4
    weak.write()
    look()
    assert seen == [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 0), (1, 1, 1)]
