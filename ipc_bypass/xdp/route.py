"""An XDP program attached by rtnetlink: for kernels without links, and for the kernel's words."""

from __future__ import annotations

import contextlib
import errno
import os

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.interfaces import find_index_by, link_body, RTM_SETLINK
from ipc_bypass.xdp.netlink import attribute, nested, NetlinkSocket

#: XDP_FLAGS_*_MODE of uapi/linux/if_link.h.
FLAGS = {'generic': 1 << 1, 'native': 1 << 2, 'offload': 1 << 3}
_ONLY_IF_NONE, _REPLACE = 1 << 0, 1 << 4  # XDP_FLAGS_UPDATE_IF_NOEXIST, XDP_FLAGS_REPLACE
_XDP, _FD, _FLAGS, _EXPECTED_FD = 43, 1, 3, 8  # IFLA_XDP and those in it


def attach_by_route(index: int, program_fd: int, mode: str,
                    route: NetlinkSocket | None = None) -> None:
    """
    Attach a program where none is; it stays until somebody detaches it.

    :raises OSError: a NetlinkError, whose `said` has the kernel's or the driver's words
    """
    _set(index, program_fd, FLAGS[mode] | _ONLY_IF_NONE, route=route)


def detach_by_route(index: int, program_fd: int, mode: str,
                    route: NetlinkSocket | None = None) -> None:
    """Detach this program, and no other; raises OSError."""
    _replace(index, -1, program_fd, mode, route)


class RouteAttachment:
    """
    A program that netlink attached, as long as this process does not end otherwise.

    Its methods work from every thread: the socket is of the namespace where this was made.
    """

    def __init__(self, index: int, program_fd: int, mode: str) -> None:
        """Attach; raises OSError."""
        self._index, self._mode = index, mode
        self._program = -1
        self._route = NetlinkSocket()
        try:
            attach_by_route(index, program_fd, mode, self._route)
        except BaseException:
            self._route.close()
            raise
        self._program = os.dup(program_fd)

    def replace(self, program_fd: int) -> None:
        """Put another program in the place of ours; raises OSError."""
        _replace(self._index, program_fd, self._program, self._mode, self._route)
        os.close(self._program)
        self._program = os.dup(program_fd)

    def detach(self) -> None:
        """Detach our program, unless the interface is gone or has another by now."""
        with contextlib.suppress(OSError):
            detach_by_route(self._index, self._program, self._mode, self._route)
        os.close(self._program)
        self._route.close()

    @property
    def attached(self) -> bool:
        """Return whether our program is on the interface now."""
        with contextlib.suppress(OSError):
            now = find_index_by(self._route, self._index).xdp_program_id
            return now == syscall.prog_info(self._program).id
        return False


def _replace(index: int, program_fd: int, expected_fd: int, mode: str,
             route: NetlinkSocket | None) -> None:
    try:
        _set(index, program_fd, FLAGS[mode] | _REPLACE, attribute(_EXPECTED_FD, expected_fd),
             route)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Kernels before 5.7 cannot compare: look first, as well as it goes.
        with NetlinkSocket() if route is None else contextlib.nullcontext(route) as asked:
            now = find_index_by(asked, index).xdp_program_id
        if now != syscall.prog_info(expected_fd).id:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        _set(index, program_fd, FLAGS[mode], route=route)


def _set(index: int, program_fd: int, flags: int, more: bytes = b'',
         route: NetlinkSocket | None = None) -> None:
    body = link_body(index) + nested(_XDP, attribute(_FD, program_fd), attribute(_FLAGS, flags),
                                     more)
    with NetlinkSocket() if route is None else contextlib.nullcontext(route) as asked:
        asked.ask(RTM_SETLINK, body)
