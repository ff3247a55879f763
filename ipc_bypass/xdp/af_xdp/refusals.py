"""Why the kernel refused an AF_XDP socket, each with what the user can do about it."""

from __future__ import annotations

import errno
import os
import socket

from ipc_bypass.kernel.capabilities import effective, next_step
from ipc_bypass.kernel.errors import BypassError, PrivilegeError, UnsupportedError
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings


def refusal(what: str, interface: str, queue: int, settings: AfXdpSettings,
            error: OSError) -> BypassError:
    """Return the error for what socket(2), setsockopt(2), mmap(2) or bind(2) answered."""
    number = error.errno or 0
    if number in (errno.EPERM, errno.EACCES):
        lacking = [name for name in ('CAP_NET_RAW', 'CAP_NET_ADMIN')
                   if name not in effective()]
        return PrivilegeError(what, f"needs {' and '.join(lacking) or 'CAP_NET_RAW'}",
                              errno=number, next_step=next_step(lacking or ['CAP_NET_RAW']))
    if number in (errno.EAFNOSUPPORT, errno.ENOPROTOOPT):
        return UnsupportedError(what, 'the kernel has no AF_XDP', errno=number,
                                next_step='use kernel 5.4 or later with CONFIG_XDP_SOCKETS')
    if not _index(interface):
        return BypassError(what, 'there is no such interface', errno=number,
                           next_step='see `ip link`; is it in another network namespace?')
    reason, step = _REASONS.get(number, (os.strerror(number), ''))
    if number == errno.EINVAL:
        queues = _queues(interface)
        if queue >= queues:
            reason = f'no such queue: {interface} has {queues}'
            step = f'use queue 0 to {queues - 1}, or `ethtool -L {interface} combined N`'
    elif number == errno.EOPNOTSUPP and settings.mode != 'zero-copy':
        reason, step = 'the driver has no native XDP', 'attach in mode generic'
    return BypassError(what, reason, errno=number, next_step=step)


_REASONS = {
    errno.EBUSY: ('another AF_XDP socket has this queue',
                  'end the process that has it (ss --xdp), or use another queue'),
    errno.EOPNOTSUPP: ('the driver has no zero-copy mode here', 'use mode auto or copy'),
    errno.ENOBUFS: ('the UMEM is larger than the locked memory that is allowed',
                    'raise it: ulimit -l unlimited (systemd: LimitMEMLOCK=), grant CAP_IPC_LOCK, '
                    'or use fewer frames'),
    errno.ENOMEM: ('there is not enough memory', 'use fewer frames or ring_entries'),
    errno.ENETDOWN: ('the interface is down', 'ip link set it up'),
    errno.ENODEV: ('the interface is gone', 'see `ip link`'),
    errno.EINVAL: ('the kernel refuses these settings',
                   'use frame_size 2048 or 4096, and less headroom'),
}


def _index(interface):
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _queues(interface):
    """Return how many receive queues an interface of this thread's namespace has."""
    try:
        # /sys is of the namespace in which it was mounted; netlink is of the thread's.
        from pyroute2 import IPRoute
        with IPRoute() as route:
            return route.get_links(_index(interface))[0].get_attr('IFLA_NUM_RX_QUEUES') or 1
    except Exception:  # noqa: B902
        return 1
