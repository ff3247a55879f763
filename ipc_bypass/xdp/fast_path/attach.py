"""
A tc program at the ingress of interfaces: by a tcx link, or by a filter where there is no tcx.

A link (kernel 6.6) ends with the process. A filter does not: it is known by its name, so that
the next start can remove what a crash left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpfcall import address, bpf
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.uapi import AttachType, BpfCmd
from ipc_bypass.xdp.errors import AttachError
from ipc_bypass.xdp.fast_path.rtnetlink import Asking

#: The filter's name, our mark.
FILTER = 'ipc_bypass_fast_path'
WAYS = ('auto', 'tcx', 'clsact')
# uapi/linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and of egress
_INGRESS, _EGRESS, _CLSACT_HANDLE = 0xfffffff2, 0xfffffff3, 0xffff0000
_HOOKS = {'clsact', 'ingress'}
_ETHERTYPES = 0x0300  # ETH_P_ALL, in network byte order
_MOST_PROGRAMS = 64  # BPF_MPROG_MAX, include/linux/bpf_mprog.h
_NO_TCX = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


class TcAttachments:
    """
    Where the program is attached; for one thread, in the namespace of the interfaces.

    `way` is 'tcx' or 'clsact', or '' as long as nothing was attached.

    :param program: descriptor of a program of type SCHED_CLS; it stays the caller's
    :param way: one of WAYS
    """

    def __init__(self, program: int, way: str = 'auto') -> None:
        self._program, self._wanted, self.way = program, way, ''
        self.program_id = syscall.prog_info(program).id
        self._links: dict[int, int] = {}
        self._filters: dict[int, bool] = {}  # by ifindex: whether clsact is ours

    def indices(self) -> set[int]:
        """Return the interfaces that the program is attached to."""
        return {*self._links, *self._filters}

    def attach(self, index: int) -> None:
        """
        Attach to an interface, behind what is attached there.

        :raises AttachError: it cannot be; the interface may be gone (errno ENODEV)
        """
        if index in self.indices():
            return
        what = f'attach the fast path to interface {index}'
        try:
            if self._wanted in ('auto', 'tcx') and self.way != 'clsact':
                try:
                    self._links[index] = syscall.link_create(self._program, index,
                                                             AttachType.TCX_INGRESS)
                    self.way = 'tcx'
                    return
                except OSError as error:
                    if error.errno not in _NO_TCX or self._wanted == 'tcx':
                        raise
            self._filters[index] = _add_filter(index, self._program)
            self.way = 'clsact'
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise privilege_error(what, ['CAP_NET_ADMIN', 'CAP_BPF'], error.errno) from error
            if self._wanted == 'tcx' and error.errno in _NO_TCX:
                raise AttachError(what, 'the kernel has no tcx links', errno=error.errno,
                                  next_step="use kernel 6.6 or later, or attach by 'auto'"
                                  ) from error
            raise AttachError(what, errno=error.errno or errno.EIO,
                              next_step='see: tc filter show dev NAME ingress') from error

    def detach(self, index: int) -> None:
        """Detach from an interface; one that is gone is no error."""
        if index in self._links:
            os.close(self._links.pop(index))
        if index in self._filters:
            ours = self._filters.pop(index)
            with contextlib.suppress(OSError), Asking() as asking:
                remove_filters(asking, index, with_clsact=ours)

    def detach_all(self) -> None:
        """Detach from every interface."""
        for index in self.indices():
            self.detach(index)


def other_programs(asking: Asking, index: int, kinds: set[str], ours: int) -> str:
    """
    Return what other program decides about an interface's frames, '' for none.

    :param kinds: of the queueing disciplines there
    :param ours: id of a program that is no other
    """
    for attach_type in (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS):
        for identifier in _attached(index, attach_type):
            if identifier != ours:
                return f'it has another tc program ({_name(identifier)})'
    for parent in (_INGRESS, _EGRESS) if kinds & _HOOKS else ():
        for found in asking.filters(index, parent):
            if found['name'] != FILTER:
                return f"it has a tc filter of its own ({found['name'] or found['kind']})"
    return ''


def remove_leftovers(asking: Asking) -> int:
    """Remove the filters that an earlier process left, at every interface; return how many."""
    return sum(remove_filters(asking, index, with_clsact=True)
               for index, kinds in asking.qdiscs().items() if 'clsact' in kinds)


def remove_filters(asking: Asking, index: int, *, with_clsact: bool) -> int:
    """
    Remove our filters from an interface; return how many.

    :param with_clsact: remove the place for filters, too, if that was all that it held
    """
    ours = [found for found in asking.filters(index, _INGRESS) if found['name'] == FILTER]
    if not ours:
        return 0
    with _route() as route:
        for found in ours:
            route.tc('del-filter', 'bpf', index, parent=_INGRESS, info=_info(found['preference']),
                     handle=found['handle'])
        if with_clsact and not asking.filters(index, _INGRESS) \
                and not asking.filters(index, _EGRESS):
            route.tc('del', 'clsact', index)
    return len(ours)


def _add_filter(index: int, program: int) -> bool:
    """Add our filter; return whether clsact had to be added for it."""
    with _route() as route:
        added = True
        try:
            route.tc('add', 'clsact', index)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            added = False
        route.tc('add-filter', 'bpf', index, fd=program, name=FILTER, parent=_INGRESS,
                 classid=1, direct_action=True)
    return added


@contextlib.contextmanager
def _route():
    """Yield pyroute2's IPRoute; its errors become OSError."""
    # Not at the top: it takes 0.1 s, and only kernels without tcx need it.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


def _info(preference: int) -> int:
    return preference << 16 | _ETHERTYPES


def _attached(index: int, attach_type: int) -> list[int]:
    """Return the ids of the programs at an interface's tcx hook."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    # All of union bpf_attr's query part: of interfaces, the kernel writes its last word, too.
    attr = bytearray(struct.pack('=IIIIQII4Q', index, attach_type, 0, 0, address(ids),
                                 _MOST_PROGRAMS, 0, 0, 0, 0, 0))
    try:
        bpf(BpfCmd.PROG_QUERY, attr)
    except OSError:  # no tcx here, or the interface is gone
        return []
    return list(ids[:struct.unpack_from('=I', attr, 24)[0]])


def _name(identifier: int) -> str:
    try:
        program = syscall.prog_get_fd_by_id(identifier)
    except OSError:
        return f'id {identifier}'
    try:
        return syscall.prog_info(program).name or f'id {identifier}'
    finally:
        os.close(program)
