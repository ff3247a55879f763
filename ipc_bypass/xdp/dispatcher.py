"""
Libxdp's dispatcher: a program by which several tools share one interface's XDP hook.

Where one is there, ours becomes one of its programs. What libxdp loads is a program that goes on
into ours by a map (entry_object), so that ours can be replaced in one step without libxdp. When
this process dies, the map empties, and the program that libxdp has passes everything; the next
`add` takes it out. Needs BPF_PROG_TYPE_EXT (5.6, x86-64 and others with a trampoline).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
import errno
import os
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.capabilities import missing, privilege_error
from ipc_bypass.kernel.namespaces import network_namespaces
from ipc_bypass.kernel.uapi import MapType
from ipc_bypass.xdp import libxdp
from ipc_bypass.xdp.entry_object import entry_object, MAP
from ipc_bypass.xdp.errors import DispatcherError
from ipc_bypass.xdp.interfaces import Interface, namespace_inode
from ipc_bypass.xdp.occupant import DISPATCHER, occupant
from ipc_bypass.xdp.peer import inside

#: That of libxdp's programs that ask for none; lower ones run earlier.
PRIORITY = 50
_KEY = bytes(4)
_NEXT_STEP = 'choose another interface, or unload its programs: xdp-loader unload {name} --all'


@dataclass(frozen=True)
class Program:
    """A program of a dispatcher; after the answers in `goes_on` the next one is called."""

    id: int  # noqa: A003
    name: str
    priority: int
    goes_on: tuple[str, ...]

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.id} '{self.name}' (priority {self.priority})"


@dataclass(frozen=True)
class DispatcherInfo:
    """
    A dispatcher on an interface.

    `programs` in the order in which they are called; where libxdp does not know them, they are
    empty and `reason` says why.
    """

    program_id: int
    mode: str
    programs: tuple[Program, ...]
    reason: str = ''


def of(interface: Interface) -> DispatcherInfo | None:
    """
    Return the dispatcher on an interface, None where there is none.

    :raises InterfaceError: when the interface is gone
    """
    taken = occupant(interface)
    if taken is None or taken.name != DISPATCHER:
        return None
    try:
        with libxdp.opened() as library:
            programs = tuple(Program(*each) for each in library.programs(interface.index))
    except (DispatcherError, OSError) as error:
        return DispatcherInfo(taken.program_id, taken.mode, (), str(error))
    return DispatcherInfo(taken.program_id, taken.mode, programs,
                          '' if programs else 'libxdp does not know this dispatcher')


def add(interface: Interface, program_fd: int, *, name: str = 'xdp_root', frags: bool = False,
        priority: int = PRIORITY) -> Member:
    """
    Have the dispatcher on an interface call a program, too.

    :param program_fd: loaded without an expected attach type: kernels of 2025 and later
        refuse to go on from a program without one, as libxdp's are, into one that has it
    :param name: what libxdp shows it as, at most 15 bytes
    :param frags: whether the program was loaded with BPF_F_XDP_HAS_FRAGS; a dispatcher takes it
        only if all of its programs were
    :param priority: lower ones are called earlier
    :raises DispatcherError: when there is none, libxdp is missing, or it refuses
    :raises PrivilegeError: when a capability is missing
    """
    what = f"add {name} to libxdp's dispatcher on {interface.name}"
    there = of(interface)
    if there is None:
        raise DispatcherError(what, 'there is none', errno=errno.ENOENT, next_step='attach to '
                              'the interface itself')
    names = ', '.join(map(str, there.programs)) or 'none that libxdp knows'
    next_step = _NEXT_STEP.format(name=interface.name)
    if not there.programs:
        raise DispatcherError(what, f'dispatcher {there.program_id} cannot be joined '
                              f'({there.reason}), and is not replaced', errno=errno.EBUSY,
                              next_step=next_step)
    entry = -1
    try:
        entry = syscall.map_create(MapType.PROG_ARRAY, 4, 4, 1, name=MAP)
        # First the program, which tells the map of what kind others may be: frags or not.
        syscall.map_update(entry, _KEY, struct.pack('=I', program_fd))
        section = 'xdp.frags' if frags else 'xdp'
        with libxdp.opened() as library:
            for program in there.programs:
                if program.name == name and _is_dead(program.id):
                    library.remove(interface.index, program.id, there.mode)
            try:
                identifier = library.add(interface.index, entry_object(name, section=section),
                                         section, {MAP: entry}, there.mode, priority)
            except OSError as error:
                error.said = '; '.join(library.said[-2:])
                raise
    except OSError as error:
        if entry >= 0:
            os.close(entry)
        if error.errno in (errno.EPERM, errno.EACCES) and missing(['CAP_SYS_ADMIN']):
            raise privilege_error(what, ['CAP_SYS_ADMIN'], error.errno) from error
        reason = os.strerror(error.errno or errno.EIO)
        if error.errno == errno.EPERM:
            reason = 'the kernel lets no program extend another (BPF_PROG_TYPE_EXT)'
        elif error.errno == errno.EINVAL:
            reason = 'the kernel lets it go on only into a program that was loaded without an ' \
                'expected attach type' + (', and with frags only where all have them'
                                          if frags else ' and without frags')
        said = getattr(error, 'said', '')
        raise DispatcherError(
            what, f'{reason}{f" ({said})" if said else ""}; its programs are {names}, and they '
            'are not replaced', errno=error.errno or 0, next_step=next_step) from error
    return Member(interface, identifier, there.mode, entry)


class Member:
    """A program of ours that a dispatcher calls; its methods work from every thread."""

    def __init__(self, interface: Interface, program_id: int, mode: str, entry_fd: int) -> None:
        """Take over `entry_fd`; made by `add`."""
        self.interface, self.program_id, self.mode = interface, program_id, mode
        self._entry, self._inode = entry_fd, namespace_inode()

    def replace(self, program_fd: int) -> None:
        """Have it call another program from now on; raises OSError."""
        syscall.map_update(self._entry, _KEY, struct.pack('=I', program_fd))

    def detach(self) -> None:
        """Call ours no more, and leave the dispatcher, which goes with its last program."""
        if self._entry < 0:
            return
        with contextlib.suppress(OSError):
            syscall.map_delete(self._entry, _KEY)
        with contextlib.suppress(OSError, DispatcherError):
            self._there(lambda library: library.remove(self.interface.index, self.program_id,
                                                       self.mode))
        os.close(self._entry)
        self._entry = -1

    @property
    def attached(self) -> bool:
        """Return whether the dispatcher calls it now."""
        with contextlib.suppress(OSError, DispatcherError):
            return self.program_id in self._there(
                lambda library: [each[0] for each in library.programs(self.interface.index)])
        return False

    def _there(self, function):
        """Call a function with libxdp in the interface's namespace."""
        def run():
            with libxdp.opened() as library:
                return function(library)

        if namespace_inode() == self._inode:
            return run()
        found = network_namespaces().get(self._inode)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, 'the network namespace is gone')
        return inside(found, run)


def _is_dead(identifier: int) -> bool:
    """Return whether an entry program goes on into nothing: its process is gone."""
    program = entry = -1
    try:
        program = syscall.prog_get_fd_by_id(identifier)
        number, = syscall.prog_info(program).map_ids
        entry = syscall.map_get_fd_by_id(number)
        return syscall.map_info(entry).name == MAP and \
            syscall.map_lookup(entry, _KEY, 4) is None
    except (OSError, ValueError):
        return False
    finally:
        for fd in (program, entry):
            if fd >= 0:
                os.close(fd)
