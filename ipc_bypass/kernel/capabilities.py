"""Capabilities of this process; never 'the uid is 0'."""

from __future__ import annotations

from collections.abc import Iterable
import errno
import os

from ipc_bypass.kernel.errors import PrivilegeError

#: Bit numbers of uapi/linux/capability.h that this package asks for.
BITS = {
    'CAP_CHOWN': 0, 'CAP_DAC_OVERRIDE': 1, 'CAP_DAC_READ_SEARCH': 2, 'CAP_FOWNER': 3,
    'CAP_NET_BIND_SERVICE': 10, 'CAP_NET_BROADCAST': 11, 'CAP_NET_ADMIN': 12, 'CAP_NET_RAW': 13,
    'CAP_IPC_LOCK': 14, 'CAP_SYS_PTRACE': 19, 'CAP_SYS_ADMIN': 21, 'CAP_SYS_RESOURCE': 24,
    'CAP_PERFMON': 38, 'CAP_BPF': 39,
}
# In bpf(2), CAP_SYS_ADMIN stands for all of them; before 5.8 there was nothing finer.
_IMPLIED_BY = dict.fromkeys(('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON'), 'CAP_SYS_ADMIN')

WHAT_FOR = {
    'CAP_BPF': 'create maps and load programs',
    'CAP_NET_ADMIN': 'load and attach network programs',
    'CAP_PERFMON': 'load programs that read what the kernel knows of a socket, trace',
    'CAP_SYS_ADMIN': 'open bpf objects by id, mount bpffs',
    'CAP_SYS_PTRACE': 'name the processes of a flow, see their queues',
}


def effective(status: str = '/proc/thread-self/status') -> set[str]:
    """
    Return the names of the effective capabilities of this thread that this package knows.

    :param status: a file in the form of proc(5), /proc/pid/status
    """
    with open(status) as stream:
        for line in stream:
            if line.startswith('CapEff:'):
                bits = int(line.split()[1], 16)
                return {name for name, bit in BITS.items() if bits >> bit & 1}
    return set()


def missing(required: Iterable[str]) -> list[str]:
    """Return those of `required` that bpf(2) would miss in this process."""
    have = effective()
    return [name for name in required
            if name not in have and _IMPLIED_BY.get(name, name) not in have]


def privilege_error(what: str, required: Iterable[str], number: int = errno.EPERM, *,
                    log: str = '') -> PrivilegeError:
    """
    Return the error for a refusal that names the missing capabilities.

    :param what: what was tried
    :param required: capabilities that it takes
    :param number: the kernel's errno
    """
    lacking = missing(required)
    if lacking:
        names = [f'{name} (or {_IMPLIED_BY[name]})' if name in _IMPLIED_BY else name
                 for name in lacking]
        return PrivilegeError(what, 'needs ' + ' and '.join(names), errno=number, log=log,
                              next_step=next_step(lacking))
    return PrivilegeError(
        what, f'{os.strerror(number)}, though this process has '
        + ', '.join(required), errno=number, log=log,
        next_step='in a container or user namespace the host must allow bpf(2) (seccomp '
        'profile, --privileged); else look for kernel lockdown: ipc-bypass doctor')


def next_step(lacking: Iterable[str]) -> str:
    """Return what the user can do about missing capabilities."""
    return (f'run with sudo, or with {" ".join(lacking)} (systemd: AmbientCapabilities=, '
            'container: --cap-add)')
