"""Where and how packets are handled: the processor, and busy polling."""

from __future__ import annotations

import errno
import os
import socket

from ipc_bypass.kernel.capabilities import next_step
from ipc_bypass.kernel.errors import BypassError, PrivilegeError, UnsupportedError
from ipc_bypass.xdp.af_xdp import uapi
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings


def pin(cpu: int) -> None:
    """Have this thread on one processor, -1 leaves it; raises BypassError."""
    if cpu < 0:
        return
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        raise BypassError(f'use processor {cpu}', errno=error.errno or errno.EINVAL,
                          next_step='see which there are: taskset -p $$') from error


def busy_poll(sock: socket.socket, settings: AfXdpSettings) -> None:
    """
    Have a socket drive its receive queue, as the settings say.

    :raises PrivilegeError: it takes CAP_NET_ADMIN
    :raises UnsupportedError: the kernel is older than 5.11
    """
    if not settings.busy_poll_us:
        return
    options = [(uapi.SO_BUSY_POLL, settings.busy_poll_us),
               (uapi.SO_BUSY_POLL_BUDGET, settings.busy_poll_budget)]
    if settings.prefer_busy_poll:
        options.insert(0, (uapi.SO_PREFER_BUSY_POLL, 1))
    for option, value in options:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            what = 'set busy polling of an AF_XDP socket'
            if error.errno == errno.EPERM:
                raise PrivilegeError(what, 'needs CAP_NET_ADMIN', errno=errno.EPERM,
                                     next_step=next_step(['CAP_NET_ADMIN'])) from error
            raise UnsupportedError(what, errno=error.errno or 0, next_step='use kernel 5.11 or '
                                   'later, or busy_poll_us 0') from error
