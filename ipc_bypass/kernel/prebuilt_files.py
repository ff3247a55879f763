"""
Find programs that were compiled when the package was built.

They lie beside the sources, below `prebuilt/` and the kind of machine. A file is found by
everything that went into it: the program's text with all headers, and the definitions. What
somebody else than root or this user could have written is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
import hashlib
import json
import os
from pathlib import Path
import platform
import stat
from typing import TYPE_CHECKING

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.kernel.prebuilt import Number, Prebuilt, PrebuiltMap
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.trusted_paths import distrust

if TYPE_CHECKING:
    from ipc_bypass.kernel.loader import ProgramSpec

#: Raised whenever the form of a file changes.
VERSION = 1
#: 'auto': where there is one, else compile; 'prebuilt': never compile; 'compile': always.
VARIABLE, CHOICES = 'IPC_BYPASS_PROGRAMS', ('auto', 'prebuilt', 'compile')
#: A definition with this value says that the kernel has no such member, and stays as it is.
UNKNOWN = 0xffffffff
_FOLDER, _STAMP = 'prebuilt', 'sources.sha256'
_OPEN_PREFIXES = ('OFFSET_', 'MASK_', 'MAX_', 'NUMBER_')
_OPEN_NAMES = ('KIND_BYTES', 'KIND_SEGMENTS')
_COMMON = 'ipc_bypass_common.h'  # stands for the folder of our own sources


def choice() -> str:
    """
    Return which of CHOICES the environment asks for.

    :raises BypassError: when it is none of them
    """
    wanted = os.environ.get(VARIABLE) or CHOICES[0]
    if wanted not in CHOICES:
        raise BypassError(f"take programs as {VARIABLE}='{wanted}' says", 'there is no such way',
                          next_step=f'use one of {", ".join(CHOICES)}')
    return wanted


def is_open(name: str, value: int | str) -> bool:
    """Return whether the build leaves a definition open, to be filled in when it is loaded."""
    return value != UNKNOWN and (name.startswith(_OPEN_PREFIXES) or name in _OPEN_NAMES)


def prebuilt_folder(machine: str | None = None) -> Path:
    """Return the folder for a kind of machine, as uname(2) names it; this one's by default."""
    return bpf_source(_COMMON).parent.parent / _FOLDER / (machine or platform.machine())


def prebuilt_name(source: Path, text: str, definitions: Mapping[str, int | str]) -> str:
    """
    Return the name of the file for a source and definitions.

    :param text: what `loader.read_source` made of the source
    """
    kept = {name: None if is_open(name, value) else str(value)
            for name, value in definitions.items()}
    parts = [str(VERSION), source.name, text, json.dumps(sorted(kept.items()))]
    for folder in dict.fromkeys((source.parent, bpf_source(_COMMON).parent)):
        parts += [f'{path.name}\n{path.read_text(encoding="utf-8", errors="replace")}'
                  for path in sorted(folder.glob('*.h'))]
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f'{len(part)}\n{part}'.encode('utf-8', 'surrogateescape'))
    return f'{source.name.removesuffix(".bpf.c")}-{whole.hexdigest()[:32]}.json'


def find_prebuilt(source: Path, text: str, definitions: Mapping[str, int | str],
                  programs: Sequence[ProgramSpec]) -> tuple[Prebuilt | None, str]:
    """
    Return the compiled program file, and '' or why there is none.

    :param text: what `loader.read_source` made of the source
    """
    folder = prebuilt_folder()
    place = folder / prebuilt_name(source, text, definitions)
    try:
        if not folder.is_dir():
            return None, f'no programs were compiled for {platform.machine()} with the package'
        fault = distrust(folder)
        if fault:
            return None, f'the compiled programs are not trusted: {fault}'
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, encoding='utf-8') as stream:
            if not _is_trusted(os.fstat(fd)):
                return None, f'{place} could have been written by another user'
            found = from_dict(json.load(stream))
        if not {spec.name for spec in programs} <= set(found.code):
            return None, f'{place} lacks programs'
        return found, ''
    except FileNotFoundError:
        return None, ('the package was not compiled with these settings, or its sources were '
                      'changed')
    except OSError as error:
        return None, f'{place}: {error.strerror}'
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, f'{place} is damaged'


def prebuilt_state() -> tuple[int, str]:
    """Return how many there are for this machine, and '' or why they are of no use."""
    folder = prebuilt_folder()
    try:
        if not folder.is_dir():
            return 0, f'no programs were compiled for {platform.machine()} with the package'
        fault = distrust(folder)
        if fault:
            return 0, f'they are not trusted: {fault}'
        if (folder / _STAMP).read_text(encoding='ascii').strip() != sources_digest():
            return 0, 'they were compiled of other sources'
        return len(list(folder.glob('*.json'))), ''
    except OSError as error:
        return 0, f'{folder}: {error.strerror}'


def sources_digest() -> str:
    """Return a number of all our sources together."""
    whole = hashlib.sha256()
    for path in sorted(bpf_source(_COMMON).parent.glob('*.[ch]')):
        data = path.read_bytes()
        whole.update(f'{path.name} {len(data)}\n'.encode() + data)
    return whole.hexdigest()


def write_stamp(folder: Path) -> None:
    """Note in a folder that its files are of the sources as they are now."""
    (folder / _STAMP).write_text(sources_digest() + '\n', encoding='ascii')


def _is_trusted(state: os.stat_result) -> bool:
    return stat.S_ISREG(state.st_mode) and state.st_uid in (0, os.geteuid()) \
        and not state.st_mode & 0o022


def write_prebuilt(place: Path, prebuilt: Prebuilt) -> None:
    """Write a file, under another name first: readers see it whole or not at all."""
    staged = place.with_suffix('.new')
    staged.write_text(json.dumps(to_dict(prebuilt), sort_keys=True, indent=1) + '\n')
    staged.chmod(0o644)
    staged.replace(place)


def to_dict(prebuilt: Prebuilt) -> dict:
    """Return it as what JSON can hold."""
    return {'name': prebuilt.name,
            'code': {name: block.hex() for name, block in prebuilt.code.items()},
            'maps': {name: asdict(entry) for name, entry in prebuilt.maps.items()},
            'places': prebuilt.places,
            'opened': {name: [[offset, asdict(number)] for offset, number in opened]
                       for name, opened in prebuilt.opened.items()}}


def from_dict(entry: dict) -> Prebuilt:
    """
    Return what to_dict() was given.

    :raises ValueError: when a place is outside of its program, or there is no such map
    """
    code = {name: bytes.fromhex(text) for name, text in entry['code'].items()}
    maps = {name: PrebuiltMap(**{
        **shape, 'entries': _number(shape['entries']),
        'key': StructLayout.from_dict(shape['key']),
        'value': StructLayout.from_dict(shape['value'])}) for name, shape in entry['maps'].items()}
    places = {name: [(_within(offset, code[name]), map_name) for offset, map_name in found]
              for name, found in entry['places'].items()}
    _known((map_name for found in places.values() for _, map_name in found), maps)
    _known((shape.inner for shape in maps.values() if shape.inner), maps)
    opened = {name: [(_within(offset, code[name]), _number(number)) for offset, number in found]
              for name, found in entry['opened'].items()}
    return Prebuilt(entry['name'], code, maps, places, opened)


def _number(entry: dict | None) -> Number | None:
    return None if entry is None else Number(int(entry['constant']), dict(entry['times']))


def _within(offset: int, code: bytes) -> int:
    if not 0 <= offset <= len(code) - 8 or offset % 8:
        raise ValueError('a place outside of the program')
    return offset


def _known(names: Iterable[str], maps: Mapping[str, PrebuiltMap]) -> None:
    if not set(names) <= set(maps):
        raise ValueError('a map that is not there')
