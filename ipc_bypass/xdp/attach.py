"""A program on an interface's XDP hook: by a link, by netlink, or in libxdp's dispatcher."""

from __future__ import annotations

import contextlib
import errno
import os

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.xdp import dispatcher
from ipc_bypass.xdp.errors import AttachError, InterfaceError, OccupiedError
from ipc_bypass.xdp.interfaces import Interface
from ipc_bypass.xdp.occupant import DISPATCHER, Occupant, occupant
from ipc_bypass.xdp.route import attach_by_route, detach_by_route, FLAGS, RouteAttachment

#: What a mode may be asked as, and which are tried for it, one after the other.
MODES = {'auto': ('native', 'generic'), 'native': ('native',), 'generic': ('generic',),
         'offload': ('offload',)}
# EBUSY: native or generic is taken in the same mode; EEXIST: in the other one.
_TAKEN = (errno.EBUSY, errno.EEXIST)
_ENOTSUPP = 524  # include/linux/errno.h; some drivers leak it


class XdpAttachment:
    """
    The place of one program on one interface; in the namespace of the thread that makes this.

    `mode` is the mode that was taken, '' while nothing is attached; `notes` has a line for each
    mode that was refused and for what is not as usual; `way` is 'link', 'netlink' (kernels before
    5.9, which leave the program attached when this process is killed) or 'dispatcher'.

    :param interface: where; a later one of the same name is another place
    :param links: False: do as on a kernel without links
    """

    def __init__(self, interface: Interface, *, links: bool = True) -> None:
        self.interface = interface
        self.mode, self.way = '', ''
        self.notes: tuple[str, ...] = ()
        self._links = links
        self._link = -1
        self._other: RouteAttachment | dispatcher.Member | None = None

    def attach(self, program_fd: int, mode: str = 'auto', *, frags: bool = False) -> None:
        """
        Attach a program; another's is never replaced.

        :param program_fd: an XDP program
        :param mode: 'auto' (native, then generic), 'native', 'generic' or 'offload'
        :param frags: whether the program was loaded with BPF_F_XDP_HAS_FRAGS; a dispatcher has
            to be told
        :raises OccupiedError: when another's program is there, with its id, name and mode
        :raises AttachError: when no mode can be had, with the kernel's reasons
        :raises PrivilegeError: when a capability is missing
        """
        what = f'attach XDP to {self.interface.name}'
        if self.mode:
            raise AttachError(what, 'a program is attached by this one already',
                              errno=errno.EBUSY, next_step='replace or detach it')
        if mode not in MODES:
            raise AttachError(what, f'there is no mode {mode!r}', errno=errno.EINVAL,
                              next_step='use one of: ' + ', '.join(MODES))
        notes = []
        refusal: OSError | None = None
        for tried in MODES[mode]:
            try:
                self._try(program_fd, tried)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES):
                    raise privilege_error(what, ['CAP_NET_ADMIN', 'CAP_BPF'],
                                          error.errno) from error
                taken = self._occupant(error)
                if taken is not None:
                    self._attach_beside(taken, program_fd, mode, frags, what, error)
                    return
                if error.errno == errno.ENODEV:
                    raise InterfaceError(
                        what, 'the interface is gone', errno=errno.ENODEV,
                        next_step='attach again when it is back: ip link') from error
                named = f'{tried}: ' if len(MODES[mode]) > 1 else ''
                notes.append(named + _reason(error, tried, self.interface))
                refusal = error
                continue
            self.mode, self.notes = tried, (*self.notes, *notes)
            return
        raise AttachError(f'{what} in {mode} mode', '; '.join(notes), errno=refusal.errno,
                          next_step=_next_step(refusal, mode, self.interface)) from refusal

    def replace(self, program_fd: int) -> None:
        """
        Put another program in the place of ours in one step, without a packet in between.

        :raises AttachError: when it cannot be done; the earlier program stays
        """
        what = f'replace the XDP program of {self.interface.name}'
        if not self.mode:
            raise AttachError(what, 'none is attached', next_step='attach one')
        try:
            if self._other is not None:
                self._other.replace(program_fd)
            else:
                syscall.link_update(self._link, program_fd)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise privilege_error(what, ['CAP_NET_ADMIN', 'CAP_BPF'], error.errno) from error
            gone = error.errno in (errno.ENOLINK, errno.ENODEV)
            raise AttachError(
                what, 'the interface is gone, or somebody detached us' if gone else
                _reason(error, self.mode, self.interface), errno=error.errno,
                next_step='attach again' if gone else
                _next_step(error, self.mode, self.interface)) from error

    def detach(self) -> None:
        """Detach, if anything is attached, and wait until the program runs nowhere any more."""
        if not self.mode:
            return
        if self._other is not None:
            self._other.detach()
            self._other = None
        else:
            # Closing would not do where a child process has the descriptor, too. It fails where
            # the interface is gone, and with it the attachment.
            with contextlib.suppress(OSError):
                syscall.link_detach(self._link)
            os.close(self._link)
            self._link = -1
        self.mode, self.way, self.notes = '', '', ()
        wait_for_programs()

    @property
    def attached(self) -> bool:
        """Return whether our program is on the interface now; False once that is gone."""
        if not self.mode:
            return False
        if self._other is not None:
            return self._other.attached
        with contextlib.suppress(OSError):
            return syscall.link_info(self._link).target != 0
        return False

    @property
    def reason(self) -> str:
        """Return the notes as one line, '' where there is nothing to say."""
        return '; '.join(self.notes)

    @property
    def link_fd(self) -> int:
        """Return the link's descriptor, -1 where there is none."""
        return self._link

    def _try(self, program_fd: int, mode: str) -> None:
        """Attach in one mode; raises OSError, with the kernel's own words where it has some."""
        index = self.interface.index
        if self._links:
            try:
                self._link = syscall.link_create(program_fd, index, AttachType.XDP, FLAGS[mode])
                self.way = 'link'
                return
            except OSError as error:
                if error.errno in (*_TAKEN, errno.EPERM, errno.EACCES):
                    raise
                refusal = error
            # A link's refusal comes without words; netlink refuses for the same reason, and
            # says it. EINVAL may also mean that this kernel has no XDP links.
            if refusal.errno != errno.EINVAL:
                attach_by_route(index, program_fd, mode)
                detach_by_route(index, program_fd, mode)
                raise refusal
        self._other = RouteAttachment(index, program_fd, mode)
        self.way = 'netlink'
        self.notes = ('attached by netlink, since the kernel has no XDP links (from 5.9): the '
                      'program stays when this process is killed',)

    def _occupant(self, error: OSError) -> Occupant | None:
        return occupant(self.interface) if error.errno in _TAKEN else None

    def _attach_beside(self, taken: Occupant, program_fd: int, mode: str, frags: bool, what: str,
                       error: OSError) -> None:
        """Join a dispatcher, or refuse."""
        if taken.name != DISPATCHER:
            raise OccupiedError(what, f'{taken}, and is not replaced', occupant=taken,
                                errno=error.errno,
                                next_step=taken.next_step(self.interface)) from error
        if mode not in ('auto', taken.mode):
            raise OccupiedError(what, f"{taken}: libxdp's dispatcher, whose mode is not {mode}",
                                occupant=taken, errno=error.errno,
                                next_step=f'use mode {taken.mode}') from error
        self._other = dispatcher.add(self.interface, program_fd, frags=frags)
        self.mode, self.way = taken.mode, 'dispatcher'
        self.notes = (f"loaded as one of the programs of libxdp's dispatcher "
                      f'(program {taken.program_id})',)


def remove_leftover(interface: Interface, name: str) -> bool:
    """
    Detach a program of this name that netlink attached; return whether there was one.

    For the kernels without links, on which a killed process leaves its program. The caller has to
    know that no other process of ours is alive that may have attached it.

    :raises AttachError: when it cannot be detached
    """
    found = occupant(interface)
    if found is None or found.link_id or found.name != name[:15]:
        return False
    try:
        program = syscall.prog_get_fd_by_id(found.program_id)
        try:
            detach_by_route(interface.index, program, found.mode)
        finally:
            os.close(program)
    except OSError as error:
        raise AttachError(f'remove what an earlier run left on {interface.name}', str(found),
                          errno=error.errno, next_step=found.next_step(interface)) from error
    return True


def _reason(error: OSError, mode: str, interface: Interface) -> str:
    """Return why the kernel refuses, in its words and ours."""
    said = getattr(error, 'said', '')
    words = os.strerror(error.errno) if error.errno != _ENOTSUPP else 'not supported'
    ours = {
        errno.ERANGE: f'the MTU of {interface.name} or of its peer is above what the driver '
                      'takes in this mode without frags support',
        errno.EOPNOTSUPP: f"the driver '{interface.driver or interface.kind}' has no {mode} XDP",
        errno.ENOSPC: f'{interface.name} has fewer receive queues than its peer transmit queues',
    }.get(error.errno, 'the program was not loaded for that device' if mode == 'offload'
          else words)
    return f'{ours} ({said})' if said else ours


def _next_step(error: OSError, mode: str, interface: Interface) -> str:
    """Return what the user can do."""
    other = ', or use mode generic' if mode == 'native' else ''
    if mode == 'offload':
        return 'use mode auto'
    return {
        errno.ERANGE: f"lower the peer's MTU (ip link set dev PEER mtu 1500){other}",
        errno.EOPNOTSUPP: 'use mode auto or generic' if mode == 'native'
                          else 'choose another interface',
        errno.ENOSPC: f'give it more (ethtool -L {interface.name} rx N), or its peer fewer{other}',
        errno.EEXIST: 'see: ip -d link show dev ' + interface.name,
        errno.EBUSY: 'see: ip -d link show dev ' + interface.name,
        errno.EINVAL: f'see dmesg and: ip -d link show dev {interface.name}{other}',
        errno.ENOMEM: 'free memory',
    }.get(error.errno, f'see: ip -d link show dev {interface.name}')
