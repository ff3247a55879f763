"""The pins of a root array: what can be seen from them, and whose they are."""

import os
from pathlib import Path
from types import SimpleNamespace

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import PinError
from ipc_bypass.xdp.array_view import ArrayView, pinned_arrays
from ipc_bypass.xdp.root import pin_name, RootArray, RootSettings
from support.array_processes import ArrayProcess
from support.descriptors import open_descriptors, wait_for_descriptors
from support.frames import udp4_frame
from support.refusals import refusal
from support.slot_sources import NOTE, own, verdicts
from support.waiting import wait_until
from support.xdp import DROP, PASS, run_on, TX

HERE = SimpleNamespace(index=1, mtu=1500)
PORT = 7400
FRAME = udp4_frame()


def test_pins(templates, pin_directory, answering, leaks):
    folder = pin_directory()
    with RootArray(HERE, RootSettings(pin_directory=folder), templates=templates) as array:
        place = Path(folder, pin_name(1))
        assert {path.name for path in place.iterdir()} == {'root', 'slots', 'counters',
                                                           'switches'}
        slot = answering(array, 2, {PORT: DROP})
        assert (place / 'slot2_by_port').exists()
        run_on(array.root_program, FRAME)
        inode = os.stat('/proc/self/ns/net').st_ino
        assert pinned_arrays(folder) == {(inode, 1): place}
        # All that there is to know can be had from the pins.
        fds = [syscall.obj_get(place / name) for name in ('slots', 'counters')]
        row, = (row for row in ArrayView(*fds).slots() if row.program_id)
        assert (row.slot, row.program_id, row.counts) == (2, slot.program_id, verdicts(drop=1))
        for fd in fds:
            os.close(fd)
        # Nobody else may have this interface; another one is another matter.
        assert 'another node runs with it' in refusal(
            PinError, lambda: RootArray(HERE, RootSettings(pin_directory=folder),
                                        templates=templates))
        with RootArray(SimpleNamespace(index=2, mtu=1500), RootSettings(pin_directory=folder),
                       templates=templates):
            assert len(pinned_arrays(folder)) == 2
        array.unload(2)
        assert not (place / 'slot2_by_port').exists()
        leaks.note({'programs': [slot.program_id], 'maps': []})
    assert not Path(folder).exists()


def test_pins_of_a_killed_process(templates, pin_directory, tmp_path):
    folder = Path(pin_directory())
    program = own(tmp_path, NOTE, 'note_facts')
    with ArrayProcess('', folder, program) as process:
        assert 'another node runs with it' in refusal(
            PinError, lambda: RootArray(HERE, RootSettings(pin_directory=str(folder)),
                                        templates=templates))
        process.kill()
    assert (folder / pin_name(1) / 'slot2_noted').exists()
    # An array of another interface clears up, too.
    with RootArray(SimpleNamespace(index=2, mtu=1500), RootSettings(pin_directory=str(folder)),
                   templates=templates):
        assert [path.name for path in pinned_arrays(folder).values()] == [pin_name(2)]
    assert not folder.exists()


def test_failed_pins_leave_the_slot_as_it_was(templates, pin_directory, answering, monkeypatch):
    folder = pin_directory()
    with RootArray(HERE, RootSettings(pin_directory=folder), templates=templates) as array:
        for there in (False, True):
            if there:
                answering(array, 1, {PORT: DROP})
            pinned = set(os.listdir(Path(folder, pin_name(1))))
            descriptors = open_descriptors()
            with monkeypatch.context() as changed:
                changed.setattr(syscall, 'obj_pin', no_space)
                refusal(PinError, answering, array, 1, {PORT: TX})
            assert run_on(array.root_program, FRAME)[0] == (DROP if there else PASS)
            assert set(os.listdir(Path(folder, pin_name(1)))) == pinned
            wait_for_descriptors(descriptors)
            assert list(array.slots) == [1] * there


def no_space(_fd, _path):
    raise OSError(28, 'No space left on device')


def test_closed_twice(templates, answering):
    array = RootArray(HERE, RootSettings(pin_directory=''), templates=templates)
    program_id = answering(array, 1, {PORT: DROP}).program_id
    array.close()
    array.close()
    wait_until(lambda: program_id not in syscall.prog_ids(), 'the program is gone')
