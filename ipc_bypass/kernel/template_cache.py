"""
Compiled programs kept in the user's cache folder, so that a start takes no compiler.

What was compiled with the package comes first (`prebuilt_files`). An entry of the cache is found
by everything that went into it: the text with all headers, the definitions, the kernel headers
and the compiler's library. What another user could have written is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
from dataclasses import asdict
import hashlib
import json
import os
from pathlib import Path
import platform
import stat
import tempfile

from ipc_bypass.kernel.headers import cache_folder, find_headers
from ipc_bypass.kernel.layout import FieldLayout, StructLayout
from ipc_bypass.kernel.loader import ProgramSpec, read_source, select_prebuilt
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.template import compile_template, MapShape, Template
from ipc_bypass.kernel.trusted_paths import distrust

# Raised whenever the form of an entry changes.
_VERSION = 1
_MOST_ENTRIES = 200
_LIBRARIES = ('/usr/lib*/libbcc.so.*', '/usr/lib/*/libbcc.so.*', '/usr/local/lib/libbcc.so.*')
_COMMON = 'ipc_bypass_common.h'  # stands for the folder of our own headers


def cached_template(source: Path, definitions: Mapping[str, int | str],
                    programs: Sequence[ProgramSpec], *, cache: Path | None = None) -> Template:
    """
    Return what `template.compile_template` does, from the cache where it is there.

    :param cache: a folder; $XDG_CACHE_HOME/ipc_bypass/programs or below ~/.cache when left out
    :raises BypassError: as `compile_template`; a cache that cannot be used is none
    """
    source = Path(source).resolve()
    if cache is None:
        prebuilt, _ = select_prebuilt(source, definitions, programs)
        if prebuilt is not None:
            return prebuilt.template(programs, definitions)
    headers = find_headers()
    folder = cache or cache_folder() / 'programs'
    place = folder / f'{_key(source, definitions, programs, headers)}.json'
    found = _read(place)
    if found is None:
        found = compile_template(source, definitions, programs, headers=headers)
        with contextlib.suppress(OSError):
            _write(place, found)
    return found


def _key(source, definitions, programs, headers) -> str:
    """Return the name of what these come to."""
    parts = [str(_VERSION), platform.machine(), str(source.name), read_source(source),
             json.dumps(sorted((name, str(value)) for name, value in definitions.items())),
             json.dumps([[spec.name, int(spec.prog_type), spec.attach_type and
                          int(spec.attach_type)] for spec in programs]),
             str(headers.path), headers.release]
    for folder in dict.fromkeys((source.parent, bpf_source(_COMMON).parent)):
        parts += [f'{path.name}\n{path.read_text(encoding="utf-8", errors="replace")}'
                  for path in sorted(folder.glob('*.h'))]
    for pattern in _LIBRARIES:
        for library in sorted(Path('/').glob(pattern[1:])):
            state = library.stat()
            parts.append(f'{library} {state.st_size} {state.st_mtime_ns}')
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f'{len(part)}\n{part}'.encode('utf-8', 'surrogateescape'))
    return whole.hexdigest()[:32]


def _read(place: Path) -> Template | None:
    """Return an entry, None where there is none that can be trusted."""
    try:
        folder = os.lstat(place.parent)
        if not stat.S_ISDIR(folder.st_mode) or not _is_ours(folder) or distrust(place.parent):
            return None
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, encoding='utf-8') as stream:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode) or not _is_ours(state):
                return None
            entry = json.load(stream)
        return _template(entry)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_ours(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _write(place: Path, template: Template) -> None:
    """Write an entry under another name, then rename it: readers see it whole or not at all."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.lstat(place.parent)
    if not stat.S_ISDIR(folder.st_mode) or not _is_ours(folder) or distrust(place.parent):
        return
    old = sorted(place.parent.glob('*.json'), key=lambda path: path.stat().st_mtime_ns)
    for path in old[:-_MOST_ENTRIES]:
        path.unlink(missing_ok=True)
    fd, staged = tempfile.mkstemp(prefix='new-', dir=place.parent)
    try:
        with open(fd, 'w', encoding='utf-8') as stream:
            json.dump(_entry(template), stream)
        os.replace(staged, place)
    except BaseException:
        os.unlink(staged)
        raise


def _entry(template: Template) -> dict:
    return {
        'name': template.name,
        'code': {name: block.hex() for name, block in template.code.items()},
        'kinds': {name: [spec.name, int(spec.prog_type),
                         None if spec.attach_type is None else int(spec.attach_type)]
                  for name, spec in template.kinds.items()},
        'maps': {name: asdict(shape) for name, shape in template.maps.items()},
        'places': {name: list(places) for name, places in template.places.items()}}


def _template(entry: dict) -> Template:
    return Template(
        entry['name'], {name: bytes.fromhex(text) for name, text in entry['code'].items()},
        {name: ProgramSpec(*spec) for name, spec in entry['kinds'].items()},
        {name: MapShape(**{**shape, 'key': _layout(shape['key']),
                           'value': _layout(shape['value'])})
         for name, shape in entry['maps'].items()},
        {name: tuple((offset, map_name) for offset, map_name in places)
         for name, places in entry['places'].items()})


def _layout(entry: dict | None) -> StructLayout | None:
    if entry is None:
        return None
    return StructLayout(entry['name'], entry['size'], {
        name: FieldLayout(**{**field, 'shape': tuple(field['shape']),
                             'nested': _layout(field['nested'])})
        for name, field in entry['fields'].items()})
