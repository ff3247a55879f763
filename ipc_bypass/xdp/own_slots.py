"""
Programs that are not ours: how a slot names one, and which of them a stranger may name.

A source of the user's is written against xdp_slot.bpf.h, so that it passes the chain on; a
program that another tool pinned knows nothing of the array and ends the chain. Parameters are the
administrator's and may name any file; services are open to the whole ROS graph, and what they
name has to be in a folder that the administrator gave for it.
"""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import re
import stat

from ipc_bypass.kernel.bpffs import is_bpffs
from ipc_bypass.xdp.kinds import SlotProgram, SLOTS
from ipc_bypass.xdp.request_error import RequestError

_SOURCE = re.compile(r'(?P<path>/.+\.c):(?P<function>[A-Za-z_][A-Za-z0-9_]*)')
_FORM = 'write it as 2:/folder/program.bpf.c:function or 6:/sys/fs/bpf/folder/pin'


@dataclass(frozen=True)
class OwnProgram:
    """A program that is not ours: a source with the name of its function, or a pin without."""

    path: str
    function: str = ''

    @property
    def foreign(self) -> bool:
        """Return whether it is a pin of another tool's, which ends the chain."""
        return not self.function

    def slot_program(self) -> SlotProgram:
        """Return what a root array loads, for a source."""
        return SlotProgram('own', Path(self.path), self.function)

    def __str__(self) -> str:
        """Return it as a parameter or a service names it."""
        return f'{self.path}:{self.function}' if self.function else self.path


def parse_program(text: str) -> OwnProgram:
    """Return the program that '/folder/x.bpf.c:function' or '/sys/fs/bpf/...' names."""
    match = _SOURCE.fullmatch(text)
    if match:
        program = OwnProgram(match['path'], match['function'])
    else:
        program = OwnProgram(text)
    if not text.startswith('/') or '\0' in text or text.endswith(('/', ':', '.c')):
        raise RequestError(f"read the program '{text}'", 'it is neither a source with a function '
                           'nor a pin', code='UNKNOWN_PROGRAM', next_step=_FORM)
    if '..' in Path(program.path).parts:
        raise RequestError(f"read the program '{text}'", "a path with '..' is not taken",
                           code='NOT_ALLOWED', next_step='write the path in full')
    return program


def parse_own_slot(text: str) -> tuple[int, OwnProgram]:
    """Return (slot, program) of an entry as '2:/folder/program.bpf.c:function'."""
    number, _, rest = text.partition(':')
    if not number.isascii() or not number.isdigit() or int(number) >= SLOTS:
        raise RequestError(f"read the own slot '{text}'", f'it begins with no slot from 0 to '
                           f'{SLOTS - 1}', code='INVALID_SLOT', next_step=_FORM)
    return int(number), parse_program(rest)


def allowed(program: OwnProgram, slot_directory: str, pin_directory: str) -> OwnProgram:
    """
    Return the program with its real path, where a service may load it.

    :param slot_directory: folder of sources, '' for none
    :param pin_directory: folder of pins in a bpffs, '' for none
    :raises RequestError: NOT_ALLOWED where it is not in its folder, or others may write to it or
        to a folder above it; UNKNOWN_PROGRAM where it is not there
    """
    parameter, folder = (('slot_pin_directory', pin_directory) if program.foreign
                         else ('slot_directory', slot_directory))
    what = f'load {program.path}'
    if not folder:
        raise RequestError(what, f'the parameter {parameter} is empty: services may load none',
                           code='NOT_ALLOWED', next_step=f'name its folder in {parameter}, or the '
                           'program in the parameter own_slots')
    try:
        root = Path(folder).resolve(strict=True)
        path = Path(program.path).resolve(strict=True)
    except (OSError, RuntimeError):
        # The answer is the same for what is elsewhere: no one learns which files there are.
        if _below(Path(os.path.normpath(program.path)), Path(os.path.normpath(folder))):
            raise RequestError(what, 'there is no such file', code='UNKNOWN_PROGRAM') from None
        raise RequestError(what, f'it is not below {folder}', code='NOT_ALLOWED',
                           next_step=f'put it below the folder of the parameter {parameter}'
                           ) from None
    if not _below(path, root):
        raise RequestError(what, f'it is not below {folder}', code='NOT_ALLOWED',
                           next_step=f'put it below the folder of the parameter {parameter}')
    if program.foreign and not is_bpffs(path):
        raise RequestError(what, 'it is no pin in a bpffs', code='NOT_ALLOWED')
    # All the way up: whoever can write to a folder can put another one in the place of what is in
    # it.
    for place in (path, *path.parents):
        _trust(what, place)
    return OwnProgram(str(path), program.function)


def _below(path: Path, folder: Path) -> bool:
    return folder in path.parents


def _trust(what: str, place: Path) -> None:
    """Raise RequestError unless only this user or root can have written to a file or folder."""
    state = os.stat(place)
    # In a folder with the sticky bit, others cannot replace what is not theirs.
    sticky = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
    if state.st_uid not in (0, os.geteuid()) or (state.st_mode & 0o022 and not sticky):
        raise RequestError(what, f'others than this user and root may write to {place}',
                           code='NOT_ALLOWED', next_step=f'chown root {place}; chmod go-w {place}')
