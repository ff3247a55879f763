"""Give up every privilege, for a process that has all it needs."""

from __future__ import annotations

import ctypes
import os
import struct

from ipc_bypass.kernel.errors import BypassError

# uapi/linux/prctl.h, linux/capability.h, linux/securebits.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_SETS = 24  # bytes: effective, permitted, inheritable, in two halves
_MOST_CAPABILITIES = 64
_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges() -> None:
    """
    Drop every capability of this process, for ever, and forbid it to gain any by execve(2).

    To be called by the only thread of a process: capabilities are a thread's, and the others
    would keep theirs. What is open stays open: rings, sockets, maps that are mapped.

    :raises BypassError: the kernel refused, or there are other threads
    """
    if len(os.listdir('/proc/self/task')) > 1:
        raise BypassError('drop the capabilities', 'other threads of this process would keep '
                          'theirs', next_step='drop them before threads are started')
    for capability in range(_MOST_CAPABILITIES):
        # -1: the kernel has no such capability.
        if _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            # Refused without CAP_SETPCAP; then no_new_privs stands in for it.
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _need(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 'set no_new_privs')
    header = struct.pack('=Ii', _CAPABILITY_VERSION_3, 0)
    _need(_libc.capset(header, bytes(_CAPABILITY_SETS)), 'drop the capabilities')


def capabilities_left(pid: int | str = 'self') -> int:
    """Return the effective and permitted capabilities of a process as bits."""
    left = 0
    with open(f'/proc/{pid}/status') as stream:
        for line in stream:
            if line.startswith(('CapEff:', 'CapPrm:')):
                left |= int(line.split()[1], 16)
    return left


def _need(result, what):
    if result:
        number = ctypes.get_errno()
        raise BypassError(what, errno=number)
