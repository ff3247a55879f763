"""Compiled programs that are kept: found again, and not trusted where others can write."""

import json
from pathlib import Path

from ipc_bypass.kernel import template_cache
from ipc_bypass.kernel.loader import ProgramSpec
from ipc_bypass.kernel.uapi import AttachType, ProgType
import pytest

_TEXT = """
#include "kept.h"
BPF_HASH(kept_map, __u32, struct kept, 4);
int kept_program(struct xdp_md *ctx)
{
    __u32 key = 1;
    struct kept *found = kept_map.lookup(&key);
    return found && found->inner.number == WANTED ? XDP_DROP : XDP_PASS;
}
"""
_HEADER = 'struct kept { struct { __u32 number; } inner; __u16 list[3]; char name[6]; };\n'
pytestmark = pytest.mark.usefixtures('privileged')

_PROGRAMS = [ProgramSpec('kept_program', ProgType.XDP, AttachType.XDP)]


@pytest.fixture
def source(tmp_path):
    """Return a program file, with a header beside it."""
    path = tmp_path / 'kept.bpf.c'
    path.write_text(_TEXT)
    (tmp_path / 'kept.h').write_text(_HEADER)
    return path


@pytest.fixture
def compiled(monkeypatch):
    """Return the list of what the compiler was asked for."""
    asked, compile_template = [], template_cache.compile_template

    def noted(source, definitions, programs, **rest):
        asked.append(dict(definitions))
        return compile_template(source, definitions, programs, **rest)
    monkeypatch.setattr(template_cache, 'compile_template', noted)
    return asked


def get(source, folder, wanted=1):
    """Return the template, kept in `folder`."""
    return template_cache.cached_template(source, {'WANTED': wanted}, _PROGRAMS, cache=folder)


def test_found_again(source, tmp_path, compiled):
    """What comes from the cache is what the compiler made, layouts included, and loads."""
    made = get(source, tmp_path / 'programs')
    found = get(source, tmp_path / 'programs')

    assert len(compiled) == 1
    assert found == made
    assert found.maps['kept_map'].value.fields['inner'].nested.fields['number'].format == 'I'
    with found.instantiate() as loaded:
        assert loaded.program_info['kept_program'].name == 'kept_program'


@pytest.mark.parametrize('change', ['text', 'header', 'definition'])
def test_another_program(source, tmp_path, compiled, change):
    """Whatever goes into a program is part of its name."""
    get(source, tmp_path / 'programs')
    if change == 'text':
        source.write_text(_TEXT + '/* another */\n')
    if change == 'header':
        (tmp_path / 'kept.h').write_text(_HEADER + '\n')

    get(source, tmp_path / 'programs', wanted=2 if change == 'definition' else 1)

    assert len(compiled) == 2


@pytest.mark.parametrize('fault', ['torn', 'nonsense', 'open file', 'open folder', 'link'])
def test_not_trusted(source, tmp_path, compiled, fault):
    """An entry that is not whole, or that others could have written, is compiled anew."""
    folder = tmp_path / 'programs'
    made = get(source, folder)
    entry, = folder.iterdir()
    if fault == 'torn':
        entry.write_text(entry.read_text()[:100])
    elif fault == 'nonsense':
        entry.write_text(json.dumps({'name': 1}))
    elif fault == 'open file':
        entry.chmod(0o666)
    elif fault == 'open folder':
        folder.chmod(0o777)
    else:
        entry.rename(tmp_path / 'elsewhere.json')
        entry.symlink_to(tmp_path / 'elsewhere.json')

    assert get(source, folder) == made
    assert len(compiled) == 2


def test_no_cache(source, compiled):
    """Where nothing can be written, every start compiles."""
    get(source, Path('/proc/nowhere'))

    assert len(compiled) == 1
