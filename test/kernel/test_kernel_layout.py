"""Structs as the compiler laid them out, held against what a program really writes."""

import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.loader import load_object, ProgramSpec
import numpy
import pytest

pytestmark = pytest.mark.usefixtures('privileged')

WRITTEN = {
    'bytes': 0x1122334455667788, 'state': 200, 'difference': -3, 'comm': b'talker',
    'reasons': (10, 0, 0, 13), 'halves': (1, 2), 'why': 5,
}


@pytest.fixture
def loaded(program_file):
    """Yield the loaded program file."""
    programs = [ProgramSpec('k7_fill', syscall.ProgType.SCHED_CLS)]
    with load_object(program_file(), {'K7_STEP': 1}, programs,
                     ['k7_flows', 'k7_sockets', 'k7_queue', 'k7_storage']) as answer:
        yield answer


def test_fields_are_where_the_program_writes_them(loaded):
    assert syscall.prog_test_run(loaded.programs['k7_fill'], bytes(64))[0] == 0
    entry = loaded.maps['k7_flows']
    data = syscall.map_lookup(entry.fd, struct.pack('=I', 0), entry.value_size)
    layout = loaded.layouts['k7_flow']
    values = layout.unpack(data)
    for name, expected in WRITTEN.items():
        assert values[name] == expected, name
    assert values['key'] == {'address': (0, 0, 0, 0x01020304), 'remote': (0, 0, 0, 0), 'port': 7,
                             'remote_port': 8, 'sequence': 9}
    assert values['whole'] == struct.unpack('=I', struct.pack('=HH', 1, 2))[0]
    assert values['inner'] == {'near': 0, 'far': 77}
    assert values['pairs'] == [{'near': 0, 'far': 0}, {'near': 0, 'far': 78}]

    row = numpy.frombuffer(data, numpy.dtype(layout.dtype_dict()))[0]
    for name, expected in WRITTEN.items():
        assert row[name].tolist() == (list(expected) if isinstance(expected, tuple)
                                      else expected), name
    assert row['key']['sequence'] == 9
    assert row['inner']['far'] == 77
    assert row['pairs'][1]['far'] == 78


def test_offsets_follow_alignment_attributes(loaded):
    layout = loaded.layouts['k7_flow']
    assert layout.size == loaded.maps['k7_flows'].value_size == 256
    assert layout.fields['reasons'].offset == 128
    assert layout.fields['reasons'].shape == (4,)
    assert layout.fields['whole'].offset == layout.fields['halves'].offset == 160
    assert layout.fields['difference'].offset == 52
    assert 'low' not in layout.fields  # a bit-field


def test_maps_say_the_structs_of_their_keys_and_values(loaded):
    assert loaded.maps['k7_sockets'].key is loaded.layouts['k7_key']
    assert loaded.maps['k7_sockets'].value is None
    assert loaded.maps['k7_storage'].value.name == 'k7_flow'
    assert loaded.maps['k7_queue'].key is loaded.maps['k7_queue'].value is None


def test_what_is_packed_is_unpacked(loaded):
    layout = loaded.layouts['k7_flow']
    values = layout.unpack(layout.pack({**WRITTEN, 'key': {'sequence': 4},
                                        'pairs': [{'far': 1}, {'far': 2}]}))
    for name, expected in WRITTEN.items():
        assert values[name] == expected
    assert values['key']['sequence'] == 4
    assert [pair['far'] for pair in values['pairs']] == [1, 2]
    with pytest.raises(KeyError):
        layout.pack({'no_such_field': 1})


def test_unpack_takes_an_offset_and_refuses_too_little(loaded):
    layout = loaded.layouts['k7_key']
    data = b'\xff' * 3 + layout.pack({'sequence': 11})
    assert layout.unpack(data, 3)['sequence'] == 11
    with pytest.raises(struct.error):
        layout.unpack(data, 4)
