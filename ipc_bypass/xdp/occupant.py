"""Who is on an interface's XDP hook already: the program, its mode, and who holds it there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
import os
from pathlib import Path

from ipc_bypass.kernel import syscall
from ipc_bypass.tcp.owners import comm
from ipc_bypass.xdp.interfaces import find_index, Interface

#: Name of the program by which libxdp runs several on one interface.
DISPATCHER = 'xdp_dispatcher'
_XDP_LINK = 6  # BPF_LINK_TYPE_XDP


@dataclass(frozen=True)
class Occupant:
    """
    A program that is attached to an interface.

    `name` is '' where the kernel does not tell; `link_id` is that of the link that holds it
    there, 0 where netlink attached it; `pids` are the processes that have the link open.
    """

    program_id: int
    name: str
    mode: str
    link_id: int
    pids: tuple[int, ...]

    def __str__(self) -> str:
        """Return it in words, for a refusal."""
        text = f'program {self.program_id}'
        if self.name:
            text += f" '{self.name}'"
        text += f' is attached in {self.mode} mode'
        if self.link_id:
            text += f' by link {self.link_id}'
        if self.pids:
            held = ', '.join(f'{pid} ({_command(pid)})' for pid in self.pids[:3])
            text += f' of process {held}' + (' and others' if len(self.pids) > 3 else '')
        return text

    def next_step(self, interface: Interface) -> str:
        """Return how the user can free the interface."""
        if self.pids:
            return 'end that process, or choose another interface'
        if self.link_id:
            return f'remove the pin of the link, or: bpftool link detach id {self.link_id}'
        word = {'native': 'xdpdrv', 'generic': 'xdpgeneric', 'offload': 'xdpoffload'}
        return f'if nobody needs it: ip link set dev {interface.name} ' \
               f"{word.get(self.mode, 'xdp')} off"


def occupant(interface: Interface) -> Occupant | None:
    """
    Return what is attached to an interface now, None where nothing is.

    :raises InterfaceError: when the interface is gone
    """
    now = find_index(interface.index)
    if not now.xdp_program_id:
        return None
    link = _link_of(now.xdp_program_id, now.index)
    return Occupant(now.xdp_program_id, program_name(now.xdp_program_id), now.xdp_mode, link,
                    _holders(link) if link else ())


def program_name(identifier: int) -> str:
    """Return a program's name by its id, '' where it cannot be had."""
    try:
        fd = syscall.prog_get_fd_by_id(identifier)
    except OSError:
        return ''
    try:
        return syscall.prog_info(fd).name
    except OSError:
        return ''
    finally:
        os.close(fd)


def _link_of(program: int, index: int) -> int:
    """Return the id of the XDP link that has a program on an interface, 0 where there is none."""
    with contextlib.suppress(OSError):
        for number in syscall.link_ids():
            with contextlib.suppress(OSError):
                fd = syscall.link_get_fd_by_id(number)
                try:
                    info = syscall.link_info(fd)
                finally:
                    os.close(fd)
                if (info.type, info.prog_id, info.target) == (_XDP_LINK, program, index):
                    return number
    return 0


def _holders(link: int) -> tuple[int, ...]:
    """Return the processes that have a link open, as far as this process may see."""
    wanted, found = f'link_id:\t{link}\n', []
    for pid in sorted(int(name) for name in os.listdir('/proc') if name.isdigit()):
        with contextlib.suppress(OSError):
            for name in os.listdir(f'/proc/{pid}/fd'):
                with contextlib.suppress(OSError):
                    if 'bpf_link' in os.readlink(f'/proc/{pid}/fd/{name}') and \
                            wanted in Path(f'/proc/{pid}/fdinfo/{name}').read_text():
                        found.append(pid)
                        break
    return tuple(found)


def _command(pid: int) -> str:
    return comm(pid) or 'ended'
