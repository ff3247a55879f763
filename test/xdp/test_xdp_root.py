"""The root array by PROG_TEST_RUN: what a packet meets, and what slots count."""

import ctypes
import os
from pathlib import Path
import struct
import subprocess
import time
from types import SimpleNamespace

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.errors import (
    BypassError,
    CompileError,
    LoaderError,
    UnsupportedError,
)
from ipc_bypass.kernel.uapi import AttachType, BpfCmd, ProgFlag, ProgType
from ipc_bypass.xdp.kinds import check_order, DEFAULT_ORDER, slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
import pytest
from support.frames import udp4_frame
from support.refusals import refusal
from support.slot_sources import ANSWER, CUT, NOTE, own, seen_ports, verdicts
from support.xdp import ABORTED, DROP, PASS, REDIRECT, run_on, TX

HERE = SimpleNamespace(index=1, mtu=1500)
#: Port to which a test's packets go, and another.
PORT, OTHER = 7400, 7401
FRAME, OTHER_FRAME = udp4_frame(), udp4_frame(destination_port=OTHER)


@pytest.fixture
def array(templates):
    """Yield an array that is pinned nowhere."""
    with RootArray(HERE, RootSettings(pin_directory=''), templates=templates) as made:
        yield made


@pytest.fixture
def foreign(pin_directory):
    """Return a function that pins a program of another tool, and returns its path and id."""
    folder = Path(pin_directory())
    made = []

    def pin(answer, *, prog_type=ProgType.XDP, flags=0):
        code = struct.pack('=BBhiBBhi', 0xb7, 0, 0, answer, 0x95, 0, 0, 0)  # r0 = answer; exit
        fd = syscall.prog_load(
            prog_type, code, name='other_tool', flags=flags,
            attach_type=AttachType.XDP if prog_type == ProgType.XDP else 0)
        try:
            folder.mkdir(exist_ok=True)
            path = folder / f'program{len(made)}'
            syscall.obj_pin(fd, path)
            made.append(path)
            return path, syscall.prog_info(fd).id
        finally:
            os.close(fd)
    yield pin
    for path in made:
        path.unlink()
    if made:
        folder.rmdir()


def counted(array):
    """Return {slot: {verdict: packets}} of those that counted any."""
    return {slot: row for slot, row in array.counters().items() if any(row.values())}


def status(array):
    """Return the SlotStatus of each slot that is not empty, by slot."""
    return {row.slot: row for row in array.view.slots() if row.program_id}


def test_empty_array_passes(array):
    assert run_on(array.root_program, FRAME) == (PASS, FRAME)
    assert counted(array) == {'root': verdicts(**{'pass': 1})}
    assert status(array) == {}


@pytest.mark.parametrize('verdict, name', [
    (ABORTED, 'aborted'), (DROP, 'drop'), (PASS, 'pass'), (TX, 'tx'), (REDIRECT, 'redirect'),
    (5, 'invalid'), (6, 'invalid'), (2 ** 31 - 1, 'invalid'), (-2, 'invalid')])
def test_verdicts_are_counted(array, answering, verdict, name):
    answering(array, 1, {PORT: verdict})
    last = answering(array, 5, {OTHER: DROP})
    assert run_on(array.root_program, FRAME)[0] == verdict % 2 ** 32
    assert counted(array) == {'root': verdicts(**{'pass': 1}), 1: verdicts(**{name: 1})}
    assert run_on(array.root_program, OTHER_FRAME)[0] == DROP
    assert array.counters()[1] == verdicts(**{name: 1}) | {
        'pass': 1 + (name == 'pass')}
    assert array.counters()[5] == verdicts(drop=1)
    assert seen_ports(last) == {OTHER: 1}


def test_all_eight_in_order(array, tmp_path, answering):
    """Whichever slot answers, those before it saw the packet, and those behind did not."""
    slots = [answering(array, index, {1000 + index: DROP}) for index in range(8)]
    for index in range(8):
        assert run_on(array.root_program, udp4_frame(destination_port=1000 + index))[0] == DROP
        for other, slot in enumerate(slots):
            assert (1000 + index in seen_ports(slot)) == (other <= index)
    assert run_on(array.root_program, FRAME)[0] == PASS
    counters = array.counters()
    assert counters['root']['pass'] == 9
    for index in range(8):
        assert counters[index] == verdicts(drop=1, **{'pass': 8 - index})


@pytest.mark.parametrize('loaded', [(0,), (7,), (0, 7), (1, 2, 4), (3, 6), (2, 5, 6)])
def test_empty_slots_are_passed_over(array, answering, loaded):
    for index in loaded:
        answering(array, index, {1: DROP})
    assert run_on(array.root_program, FRAME)[0] == PASS
    assert counted(array) == {slot: verdicts(**{'pass': 1}) for slot in (*loaded, 'root')}
    for index in loaded:
        assert array.unload(index)
        assert not array.unload(index)
        assert run_on(array.root_program, FRAME)[0] == PASS
    assert status(array) == {}


def test_replaced_slot_keeps_counters_and_maps(array, answering):
    before = answering(array, 2, {PORT: DROP})
    assert run_on(array.root_program, FRAME)[0] == DROP
    after = answering(array, 2, {PORT: TX})
    assert after.program_id != before.program_id
    assert run_on(array.root_program, FRAME)[0] == TX
    assert array.counters()[2] == verdicts(drop=1, tx=1)
    assert seen_ports(after) == {PORT: 2}
    # Its maps anew, when that is asked for.
    anew = answering(array, 2, {PORT: DROP}, keep_maps=False)
    assert seen_ports(anew) == {}
    assert array.counters()[2] == verdicts(drop=1, tx=1)
    # A slot that was empty in between begins at 0.
    array.unload(2)
    answering(array, 2, {PORT: DROP})
    assert array.counters()[2] == verdicts()


def test_another_kind_begins_at_0(array, answering):
    answering(array, 2, {PORT: DROP})
    run_on(array.root_program, FRAME)
    array.load(2, slot_program('sampler'))
    assert array.counters()[2] == verdicts()
    assert run_on(array.root_program, FRAME)[0] == PASS
    assert status(array)[2].name == 'xdp_sampler'


def test_status(array, answering):
    started = time.time()
    slot = answering(array, 4, {PORT: DROP})
    run_on(array.root_program, FRAME)
    run_on(array.root_program, OTHER_FRAME)
    row, = status(array).values()
    assert (row.slot, row.program_id, row.name, row.foreign) == (
        4, slot.program_id, 'answer_port', False)
    assert abs(row.load_time - started) < 60
    assert (row.entered, row.counts) == (2, verdicts(drop=1, **{'pass': 1}))


def test_program_of_another_tool_ends_the_chain(array, answering, foreign):
    path, program_id = foreign(DROP)
    answering(array, 0, {PORT: TX})
    behind = answering(array, 6, {OTHER: TX})
    slot = array.load_pinned(3, path)
    assert (slot.kind, slot.program_id) == ('foreign', program_id)
    assert run_on(array.root_program, FRAME)[0] == TX
    assert run_on(array.root_program, OTHER_FRAME)[0] == DROP
    row = status(array)[3]
    assert (row.program_id, row.name, row.foreign, row.entered) == (
        program_id, 'other_tool', True, 1)
    assert row.counts == verdicts()
    assert status(array)[6].entered == 0
    assert seen_ports(behind) == {}
    # One of ours takes its place, and the chain goes on.
    answering(array, 3, {1: DROP})
    assert run_on(array.root_program, OTHER_FRAME)[0] == TX
    assert array.counters()[3] == verdicts(**{'pass': 1})
    assert path.exists()


@pytest.mark.parametrize('frags', ['off', 'on'])
def test_refused_programs(templates, answering, foreign, frags):
    flags = 0 if frags == 'on' else ProgFlag.XDP_HAS_FRAGS
    with RootArray(HERE, RootSettings(frags, ''), templates=templates) as array:
        for there in (False, True):
            if there:
                answering(array, 1, {PORT: DROP})
            path, _ = foreign(PASS, flags=flags)
            assert 'BPF_F_XDP_HAS_FRAGS' in refusal(UnsupportedError, array.load_pinned, 1, path)
            path, _ = foreign(PASS, prog_type=1)
            assert 'it is no XDP program' in refusal(BypassError, array.load_pinned, 1, path)
            missing = path.with_name('missing')
            assert 'No such file' in refusal(BypassError, array.load_pinned, 1, missing)
            # What stood there stands there.
            assert run_on(array.root_program, FRAME)[0] == (DROP if there else PASS)
            assert len(status(array)) == len(array.slots) == there
        for index in (-1, 8):
            assert 'there are 8' in refusal(BypassError, answering, array, index, {})
            assert 'there are 8' in refusal(BypassError, array.unload, index)


def test_refused_sources(array, tmp_path):
    plain = own(tmp_path, '#include <linux/bpf.h>\nint plain(void *ctx) { return 2; }\n', 'plain')
    assert refusal(LoaderError, array.load, 1, plain) == (
        'compile plain.bpf.c: it does not include xdp_slot.bpf.h; write the program with '
        'XDP_SLOT(name), see docs/xdp.md')
    broken = own(tmp_path, ANSWER.replace('facts->destination_port', 'facts->no_such'), 'broken')
    assert 'broken.bpf.c:7: error: no member named' in refusal(
        CompileError, array.load, 1, broken)
    named = own(tmp_path, ANSWER, 'unnamed')
    assert 'unnamed' in refusal(BypassError, array.load, 1, named)
    refused = own(tmp_path, '#include "xdp_slot.bpf.h"\nXDP_SLOT(wild)\n'
                  '{\n\treturn *(int *)(long)ctx->data;\n}\n', 'wild')
    assert 'load program wild of wild.bpf.c: ' in refusal(BypassError, array.load, 1, refused)
    missing = own(tmp_path, '', 'missing')
    missing.source.unlink()
    assert 'missing.bpf.c' in refusal(BypassError, array.load, 1, missing)
    assert array.slots == {}
    assert run_on(array.root_program, FRAME)[0] == PASS


def test_order():
    check_order(DEFAULT_ORDER)
    for order, said in ((('filter',), '1 places'), ((*DEFAULT_ORDER[:-1], 'filter'), 'two'),
                        ((*DEFAULT_ORDER[:-1], 'nothing'), "'nothing'")):
        assert said in refusal(BypassError, check_order, order)


def test_facts_are_of_the_very_packet(array, tmp_path):
    """A slot that moves a packet's end has the next one read the headers again."""
    note = array.load(3, own(tmp_path, NOTE, 'note_facts'))
    entry = note.maps['noted']

    def length():
        return entry.value.unpack(syscall.map_lookup(entry.fd, bytes(4), entry.value_size))[
            'length']

    assert run_on(array.root_program, FRAME)[0] == PASS
    assert length() == len(FRAME)
    array.load(0, own(tmp_path, CUT, 'cut_tail', CUT=7))
    assert run_on(array.root_program, FRAME) == (PASS, FRAME[:-7])
    assert length() == len(FRAME) - 7
    # Without the root nobody left facts: the slot does not take those of the last packet.
    assert run_on(note.program, FRAME + bytes(3))[0] == PASS
    assert length() == len(FRAME) + 3


def test_metadata_of_others_is_left_alone(array, answering):
    """What another program put before the packet is neither read nor lost."""
    answering(array, 3, {PORT: DROP})
    # Facts of a packet to another port, as far as they can be forged.
    forged = struct.pack('<HBBHHHHHHHHI', 0x1bc1, 4, 17, 16, 0x800, 14, 34, 42, 1, OTHER, 0, 60)
    for frame, expected in ((FRAME, DROP), (OTHER_FRAME, PASS)):
        assert run_with_metadata(array.root_program, forged, frame) == (
            expected, forged + frame)


def run_with_metadata(program, metadata, frame):
    """Run a program on a packet with metadata; return its answer, and both as they are left."""
    data = metadata + frame
    given, left = buffer_of(data), ctypes.create_string_buffer(len(data) + 256)
    context = buffer_of(struct.pack('=6I', len(metadata), len(data), 0, 0, 0, 0))
    attr = bytearray(struct.pack(
        '=IIIIQQIIIIQQ', program, 0, len(data), len(left), address(given), address(left), 1, 0,
        24, 0, address(context), 0))
    bpf(BpfCmd.PROG_TEST_RUN, attr)
    answer, _, size = struct.unpack_from('=III', attr, 4)
    return answer, left.raw[:size]


@pytest.fixture
def trace_log(tmp_path):
    """Return a function that returns the kernel's trace, without taking it from others."""
    folder = tmp_path / 'tracing'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tracefs', 'tracefs', folder], check=True)
    yield lambda: (folder / 'trace').read_text(errors='replace')
    subprocess.run(['umount', folder], check=True)


def test_decisions_are_traced_by_a_switch(array, answering, trace_log):
    slot = answering(array, 5, {PORT: DROP})
    length = 600 + os.getpid() % 800
    frame = udp4_frame(b'x' * (length - 42))

    def traced():
        lines = [line.partition('ipc_bypass xdp: ')[2] for line in trace_log().splitlines()]
        return [line for line in lines if line.endswith(f', {length} bytes')]

    before = len(traced())
    run_on(array.root_program, frame)
    assert traced()[before:] == []
    array.set_trace(True)
    run_on(array.root_program, frame)
    assert traced()[before:] == [f'slot 8 answers -1, {length} bytes',
                                 f'slot 5 answers 1, {length} bytes']
    array.set_trace(False)
    run_on(array.root_program, frame)
    assert len(traced()) == before + 2
    assert array.slots[5].program_id == slot.program_id
