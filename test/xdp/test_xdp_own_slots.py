"""How own programs are named, and which of them a service may load."""

import os

from ipc_bypass.xdp.own_slots import allowed, OwnProgram, parse_own_slot, parse_program
from ipc_bypass.xdp.request_error import RequestError
import pytest


@pytest.mark.parametrize('text, expected', [
    ('0:/a/b.bpf.c:count', (0, OwnProgram('/a/b.bpf.c', 'count'))),
    ('6:/sys/fs/bpf/other/pin', (6, OwnProgram('/sys/fs/bpf/other/pin'))),
    ('7:/a/with:colon.c:f', (7, OwnProgram('/a/with:colon.c', 'f')))])
def test_parsed(text, expected):
    index, program = parse_own_slot(text)
    assert (index, program) == expected
    assert f'{index}:{program}' == text


@pytest.mark.parametrize('text, code', [
    ('', 'INVALID_SLOT'), ('8:/a/b.c:f', 'INVALID_SLOT'), ('-1:/a/b.c:f', 'INVALID_SLOT'),
    ('²:/a/b.c:f', 'INVALID_SLOT'), ('/a/b.c:f', 'INVALID_SLOT'),
    ('1:a/b.c:f', 'UNKNOWN_PROGRAM'), ('1:', 'UNKNOWN_PROGRAM'), ('1:/a/b.c', 'UNKNOWN_PROGRAM'),
    ('1:/a/b.c:', 'UNKNOWN_PROGRAM'), ('1:/a/', 'UNKNOWN_PROGRAM'),
    ('1:/a/\0b', 'UNKNOWN_PROGRAM'), ('1:/a/../b.c:f', 'NOT_ALLOWED'),
    ('1:/sys/fs/bpf/../x', 'NOT_ALLOWED')])
def test_refused(text, code):
    with pytest.raises(RequestError) as refusal:
        parse_own_slot(text)
    assert refusal.value.code == code
    assert '\n' not in str(refusal.value)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a source in it, and one in a folder below."""
    made = tmp_path / 'slots'
    (made / 'below').mkdir(parents=True, mode=0o755)
    for place in (made, made / 'below'):
        place.chmod(0o755)
        (place / 'x.bpf.c').write_text('x')
        (place / 'x.bpf.c').chmod(0o644)
    return made


def refusal(text, folder, pins=''):
    """Return the code with which a service's program is refused."""
    with pytest.raises(RequestError) as error:
        allowed(parse_program(text), str(folder), pins)
    return error.value.code


def test_allowed(folder):
    for place in (folder, folder / 'below'):
        assert allowed(parse_program(f'{place}/x.bpf.c:f'), str(folder), '') == OwnProgram(
            str(place / 'x.bpf.c'), 'f')


def test_not_allowed(folder, tmp_path):
    outside = tmp_path / 'y.bpf.c'
    outside.write_text('y')
    (folder / 'link.bpf.c').symlink_to(outside)
    (folder / 'way').symlink_to(tmp_path)
    (tmp_path / 'slots_too').mkdir()
    (tmp_path / 'slots_too' / 'x.bpf.c').write_text('x')
    assert refusal(f'{outside}:f', folder) == 'NOT_ALLOWED'
    assert refusal(f'{folder}/link.bpf.c:f', folder) == 'NOT_ALLOWED'
    assert refusal(f'{folder}/way/y.bpf.c:f', folder) == 'NOT_ALLOWED'
    assert refusal(f'{tmp_path}/slots_too/x.bpf.c:f', folder) == 'NOT_ALLOWED'
    assert refusal(f'{folder}/x.bpf.c:f', '') == 'NOT_ALLOWED'
    assert refusal(f'{folder}/x.bpf.c', folder, str(folder)) == 'UNKNOWN_PROGRAM'
    assert refusal(f'{folder}/below', folder, str(folder)) == 'NOT_ALLOWED'  # no bpffs


def test_what_is_elsewhere_is_not_told(folder):
    """A file that is there and one that is not are refused alike."""
    assert refusal('/etc/passwd.c:f', folder) == refusal('/etc/no_such.c:f', folder)
    assert refusal(f'{folder}/no_such.c:f', folder) == 'UNKNOWN_PROGRAM'


def test_what_others_can_write_is_not_loaded(folder):
    source = folder / 'x.bpf.c'
    source.chmod(0o666)
    assert refusal(f'{source}:f', folder) == 'NOT_ALLOWED'
    source.chmod(0o644)
    folder.chmod(0o777)
    assert refusal(f'{source}:f', folder) == 'NOT_ALLOWED'
    folder.chmod(0o1777)  # as /tmp: others cannot replace what is not theirs
    assert allowed(parse_program(f'{source}:f'), str(folder), '')
    above = folder.parent
    before = above.stat().st_mode
    above.chmod(0o777)  # another could put a folder of his in its place
    assert refusal(f'{source}:f', folder) == 'NOT_ALLOWED'
    above.chmod(before)
    if os.geteuid() == 0:
        os.chown(above, 12345, -1)
        assert refusal(f'{source}:f', folder) == 'NOT_ALLOWED'
        os.chown(above, 0, -1)
        os.chown(source, 12345, -1)
        assert refusal(f'{source}:f', folder) == 'NOT_ALLOWED'
