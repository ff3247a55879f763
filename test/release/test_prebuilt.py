"""Programs that are compiled with the package: they are what the compiler makes, and safe."""

import os
import stat

from ipc_bypass.kernel import prebuilt_files, syscall
from ipc_bypass.kernel.errors import BypassError, CompileError, UnsupportedError
from ipc_bypass.kernel.headers import find_headers
from ipc_bypass.kernel.loader import load_object, ProgramSpec, read_source, run_compiler
from ipc_bypass.kernel.prebuilt_files import (
    find_prebuilt,
    from_dict,
    is_open,
    prebuilt_name,
    to_dict,
    UNKNOWN,
    VARIABLE,
    write_prebuilt,
)
from ipc_bypass.kernel.uapi import MapType, ProgType
from ipc_bypass.prebuilt.compiling import compile_prebuilt
import pytest

PROGRAMS = (ProgramSpec('r7_send', ProgType.SK_MSG),)
READ = """
  bpf_probe_read_kernel(&seen->first, 4, (void *)(address + OFFSET_FIRST));
  bpf_probe_read_kernel(&seen->second, 4, (void *)(address + OFFSET_FIRST + OFFSET_IN_IT + 4));
#if OFFSET_LATER != 0xffffffff
  bpf_probe_read_kernel(&seen->bytes, 8, (void *)(address + OFFSET_LATER));
#endif
  bpf_probe_read_kernel(&flags, 1, (void *)(address + OFFSET_IN_IT));
  if (flags & MASK_WANTED)
    seen->bytes += 1;
"""
DEFINITIONS = {'OFFSET_FIRST': 1464, 'OFFSET_IN_IT': 40, 'OFFSET_LATER': UNKNOWN,
               'MASK_WANTED': 0x0a, 'MAX_SEEN': 300}


@pytest.fixture(scope='module')
def prebuilt(source, privileged):
    """Return (source, Prebuilt) of the program that reads."""
    path = source(READ)
    return path, compile_prebuilt(path, DEFINITIONS, PROGRAMS, find_headers())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder in which programs are looked for, instead of the package's own."""
    made = tmp_path / 'prebuilt'
    made.mkdir(mode=0o755)
    monkeypatch.setattr(prebuilt_files, 'prebuilt_folder', lambda: made)
    return made


def without_maps(template):
    """Return the instructions of a Template, with nothing in the places of maps."""
    found = {}
    for name, code in template.code.items():
        code = bytearray(code)
        for offset, _ in template.places[name]:
            code[offset + 4:offset + 8] = bytes(4)
        found[name] = bytes(code)
    return found


def test_filled_in_is_what_the_compiler_makes(prebuilt):
    path, made = prebuilt
    compiled = compiled_code(path)
    filled = from_dict(to_dict(made)).template(PROGRAMS, DEFINITIONS)
    assert without_maps(filled) == compiled
    numbers = [number for _, number in made.opened['r7_send']]
    assert {'OFFSET_FIRST': 1, 'OFFSET_IN_IT': 1} in [dict(number.times) for number in numbers]
    assert 4 in [number.constant for number in numbers]
    assert made.maps['r7_hash'].entries.times == {'MAX_SEEN': 1}


def compiled_code(path):
    """Return the instructions as the compiler makes them for these definitions."""
    with run_compiler(path, DEFINITIONS, PROGRAMS, None, template=True) as (_, answer):
        code = bytearray.fromhex(answer['code']['r7_send'])
    for offset in range(0, len(code), 8):
        if code[offset] == 0x18 and code[offset + 1] >> 4 == 1:
            code[offset + 4:offset + 8] = bytes(4)
    return {'r7_send': bytes(code)}


def test_it_loads_as_what_is_compiled_does(prebuilt):
    """Every special kind of map is made: of the same shape, and taken by the same program."""
    path, made = prebuilt
    names = ['r7_storage', 'r7_hash', 'r7_rings', 'r7_template', 'r7_records']
    with made.load(PROGRAMS, names, DEFINITIONS) as ours, load_object(
            path, DEFINITIONS, PROGRAMS, names) as compiled:
        assert ours.program_info['r7_send'].tag == compiled.program_info['r7_send'].tag
        for name in names:
            one, other = (syscall.map_info(each.maps[name].fd) for each in (ours, compiled))
            assert (one.type, one.key_size, one.value_size, one.max_entries, one.flags) == (
                other.type, other.key_size, other.value_size, other.max_entries, other.flags)
            assert ours.maps[name].value == compiled.maps[name].value
        # A map of maps takes one as was said.
        ring = syscall.map_create(MapType.RINGBUF, 0, 0, 1 << 16)
        syscall.map_update(ours.maps['r7_rings'].fd, bytes(4), ring.to_bytes(4, 'little'))
        os.close(ring)
    with made.load(PROGRAMS, ['r7_hash'], {**DEFINITIONS, 'MAX_SEEN': 77}) as ours:
        assert list(ours.maps) == ['r7_hash']
        assert syscall.map_info(ours.maps['r7_hash'].fd).max_entries == 77


@pytest.mark.parametrize('body', [
    'seen->bytes = address + (OFFSET_FIRST & 0xff);',
    'if (OFFSET_FIRST > 99) seen->bytes = address + OFFSET_FIRST;',
    'seen->bytes = 0x1122334400000000ULL + OFFSET_FIRST;',
], ids=['a part of it', 'compared', '64 bits'])
def test_what_cannot_be_filled_in_is_refused(source, body, privileged):
    """The build fails where the compiler did more with an open number than to add it."""
    definitions = {'OFFSET_FIRST': 8, 'OFFSET_SECOND': 16, 'MAX_SEEN': 3}
    with pytest.raises(CompileError):
        compile_prebuilt(source(body), definitions, PROGRAMS, find_headers())


def test_what_is_open():
    assert is_open('OFFSET_COOKIE', 16) and is_open('MAX_FLOWS', 2048)
    assert not is_open('OFFSET_COOKIE', UNKNOWN)
    assert not is_open('KIND_MASK', 255) and not is_open('GATEWAY', 1)


def test_who_could_have_written_it(prebuilt, folder, monkeypatch):
    """A file is read only where root or this user alone can have written it."""
    path, made = prebuilt
    text = read_source(path)
    place = folder / prebuilt_name(path, text, DEFINITIONS)
    write_prebuilt(place, made)

    def found(**changed):
        return find_prebuilt(path, text, {**DEFINITIONS, **changed}, PROGRAMS)
    assert found() == (made, '')
    assert found(OFFSET_FIRST=7)[0] == made
    for change in ({'OFFSET_LATER': 8}, {'GATEWAY': 1}):
        assert 'not compiled with these settings' in found(**change)[1]
    assert 'not compiled' in find_prebuilt(path, text + ' ', DEFINITIONS, PROGRAMS)[1]
    for each, mode, reason in ((place, 0o646, 'another user'), (place, 0o664, 'another user'),
                               (folder, 0o777, 'others may write')):
        kept = stat.S_IMODE(each.stat().st_mode)
        each.chmod(mode)
        assert reason in found()[1]
        each.chmod(kept)
    for each, reason in ((place, 'another user'), (folder, 'belongs to user 65534')):
        os.chown(each, 65534, 65534)
        assert reason in found()[1]
        os.chown(each, os.geteuid(), os.getegid())
    real = place.rename(folder / 'real')
    place.symlink_to(real)
    assert found()[0] is None
    place.unlink()
    whole = real.read_text()
    for damaged in ('', whole[:-9], whole.replace('"times"', '"tines"'), '[]',
                    whole.replace('"r7_hash"\n', '"r7_lost"\n'), '{"name": 1}'):
        place.write_text(damaged)
        assert 'damaged' in found()[1], damaged[:40]
    place.write_text(whole)
    assert found()[0] == made
    monkeypatch.setenv(VARIABLE, 'prebuilt')
    with pytest.raises(UnsupportedError, match='not compiled with these settings'):
        load_object(path, {**DEFINITIONS, 'GATEWAY': 1}, PROGRAMS, [])
    load_object(path, DEFINITIONS, PROGRAMS, []).close()
    monkeypatch.setenv(VARIABLE, 'perhaps')
    with pytest.raises(BypassError, match='auto, prebuilt, compile'):
        load_object(path, DEFINITIONS, PROGRAMS, [])


def test_a_place_outside_of_the_program_is_refused(prebuilt):
    _, made = prebuilt
    entry = to_dict(made)
    for offset in (-8, 4, len(made.code['r7_send'])):
        for part in ('places', 'opened'):
            changed = {**entry, part: {'r7_send': [[offset, *entry[part]['r7_send'][0][1:]]]}}
            with pytest.raises(ValueError, match='outside'):
                from_dict(changed)
