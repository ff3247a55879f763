"""
Root arrays as their pins show them: what `ipc-bypass xdp status` says without any node.

The pins of a node that was killed stay until the next start; its attachment does not, so that
such an array is shown as not attached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import os
from pathlib import Path
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import PinDirectory
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp import dispatcher
from ipc_bypass.xdp.array_view import ArrayView, pinned_arrays, ROOT
from ipc_bypass.xdp.entry_object import MAP
from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.interfaces import Interface, interfaces, matching, namespace_inode
from ipc_bypass.xdp.occupant import DISPATCHER, program_name
from ipc_bypass.xdp.status import boot_time, InterfaceStatus, Report, slot_status, SlotStatus

# struct xdp_switches of bpf/xdp_common.h: two words, the first one is trace.
_SWITCHES, _PROGRAM = struct.Struct('=II'), struct.Struct('=I')
# Kinds by the names of their programs, at most 15 bytes.
_KINDS = {'xdp_sampler': 'sampler', 'xdp_filter': 'filter', 'xdp_limiter': 'rate_limiter',
          'xdp_steering': 'af_xdp', 'xdp_devmap': 'devmap', 'xdp_bypass': 'bypass'}


def pinned_report(pin_directory: str, patterns: Sequence[str] = ()) -> Report:
    """
    Return the status of the arrays in this thread's network namespace.

    :param pin_directory: folder that the node pins in
    :param patterns: names, globs or 'bridge:br0'; none: every interface that has an array
    :raises BypassError: when pins cannot be opened or trusted
    """
    present = interfaces()
    arrays = arrays_here(pin_directory)
    chosen = matching(patterns, present) if patterns else [
        each for each in present if each.index in arrays]
    found = [pinned_status(arrays[each.index], each) if each.index in arrays
             else InterfaceStatus(each.name, each.index, each.kind, each.driver, each.mtu,
                                  reason=_occupied(each))
             for each in chosen]
    found += [InterfaceStatus(pattern, reason='there is no such interface')
              for pattern in patterns if not matching([pattern], present)]
    return Report(tuple(found))


def arrays_here(pin_directory: str) -> dict[int, Path]:
    """Return {interface's index: folder of pins} of this thread's network namespace."""
    here = namespace_inode()
    return {index: folder for (inode, index), folder in pinned_arrays(pin_directory).items()
            if inode == here}


def pinned_status(folder: Path, interface: Interface) -> InterfaceStatus:
    """Return the status of one pinned array; raises BypassError."""
    with _opened(folder) as pins:
        root = syscall.prog_info(pins['root'])
        view = ArrayView(pins['slots'], pins['counters'])
        attached, behind = interface.xdp_program_id == root.id, ''
        if not attached and _dispatched(interface):
            attached, behind = _behind_dispatcher(interface, root.id)
        return InterfaceStatus(
            name=interface.name, index=interface.index, kind=interface.kind,
            driver=interface.driver, mtu=interface.mtu, attached=attached,
            mode=interface.xdp_mode if attached else '',
            reason='' if attached else behind or _occupied(interface)
            or 'its node is inactive, or gone',
            trace=bool(_trace(pins['switches'])), program_id=root.id,
            load_time=boot_time() + root.load_time_ns / 1e9,
            packets=sum(view.counters()[ROOT].values()),
            slots=tuple(_slot(row) for row in view.slots()))


def set_trace(folder: Path, on: bool) -> None:
    """Have the programs of a pinned array print each decision, or not; raises BypassError."""
    with _opened(folder) as pins:
        syscall.map_update(pins['switches'], bytes(4), _SWITCHES.pack(int(on), 0))


def open_slot_maps(folder: Path) -> dict[int, dict[str, int]]:
    """Return {slot: {map's name: descriptor}} of a pinned array, for the caller to close."""
    found: dict[int, dict[str, int]] = {}
    pins = PinDirectory(folder)
    for name in pins.list():
        slot, _, rest = name.partition('_')
        if slot.startswith('slot') and slot[4:].isdigit() and rest:
            found.setdefault(int(slot[4:]), {})[rest] = pins.open(name)
    return found


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[dict[str, int]]:
    """Open what every array has pinned: {'root', 'slots', 'counters', 'switches'}."""
    pins, found = PinDirectory(folder), {}
    try:
        for name in ('root', 'slots', 'counters', 'switches'):
            found[name] = pins.open(name)
        yield found
    except OSError as error:
        raise BypassError(f'read the root array in {folder}', errno=error.errno or 0) from error
    finally:
        for fd in found.values():
            os.close(fd)


def _slot(row) -> SlotStatus:
    kind = ''
    if row.program_id:
        kind = 'foreign' if row.foreign else _KINDS.get(row.name, 'own')
    return slot_status(row, kind=kind)


def _dispatched(interface: Interface) -> bool:
    """Return whether libxdp's dispatcher is there."""
    return bool(interface.xdp_program_id) and program_name(interface.xdp_program_id) == DISPATCHER


def _behind_dispatcher(interface: Interface, root: int) -> tuple[bool, str]:
    """Return whether one of the dispatcher's programs goes on into our root, or why not."""
    try:
        there = dispatcher.of(interface)
        if there is None:
            return False, ''
        if not there.programs:
            return False, f"behind libxdp's dispatcher; not known ({there.reason})"
        if any(_leads_to(program.id, root) for program in there.programs):
            return True, ''
    except (InterfaceError, OSError) as error:
        return False, f"behind libxdp's dispatcher; not known ({error})"
    return False, "libxdp's dispatcher is attached, and does not call this array"


def _leads_to(identifier: int, root: int) -> bool:
    """Return whether a program goes on into another by an entry map, see entry_object; OSError."""
    with contextlib.ExitStack() as held:
        def keep(fd: int) -> int:
            held.callback(os.close, fd)
            return fd

        for number in syscall.prog_info(keep(syscall.prog_get_fd_by_id(identifier))).map_ids:
            entry = keep(syscall.map_get_fd_by_id(number))
            if syscall.map_info(entry).name == MAP and syscall.map_lookup(
                    entry, bytes(4), 4) == _PROGRAM.pack(root):
                return True
    return False


def _occupied(interface: Interface) -> str:
    """Return whose program is on an interface, '' where there is none."""
    if not interface.xdp_program_id:
        return ''
    name = program_name(interface.xdp_program_id)
    return (f"program {interface.xdp_program_id} '{name}' is attached in "
            f'{interface.xdp_mode} mode')


def _trace(switches: int) -> int:
    raw = syscall.map_lookup(switches, bytes(4), _SWITCHES.size)
    return _SWITCHES.unpack(raw)[0] if raw else 0
