"""
The capabilities of a thread, lowered, raised and given up for good.

capset(2) concerns the calling thread alone; threads that it starts later begin with what it has.
So a process gives something up before it starts threads.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import ctypes
import os

from ipc_bypass.kernel.capabilities import BITS

_VERSION_3 = 0x20080522  # uapi/linux/capability.h
# uapi/linux/prctl.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_LAST = '/proc/sys/kernel/cap_last_cap'
_SETPCAP = 1 << 8
_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [('effective', ctypes.c_uint32), ('permitted', ctypes.c_uint32),
                ('inheritable', ctypes.c_uint32)]


def permitted() -> set[str]:
    """Return the names of what this thread may have effective, of those that we know."""
    mask = _read()[1]
    return {name for name, bit in BITS.items() if mask >> bit & 1}


def lower(keep: Iterable[str]) -> None:
    """Have these effective in this thread, as far as they are permitted, and no others."""
    _effective, may, inheritable = _read()
    _write(may & _mask(keep), may, inheritable)


def restore() -> None:
    """Have all effective in this thread that is permitted."""
    _effective, may, inheritable = _read()
    _write(may, may, inheritable)


def drop(keep: Iterable[str]) -> None:
    """
    Give up all but these, for good: in this thread, those it starts, and what it executes.

    Root would get all of the bounding set back by execve(2): that is lowered too, where
    CAP_SETPCAP lets it be, and no_new_privs has execve(2) give nothing that is not there before.

    :raises OSError: as of prctl(2) and capset(2)
    """
    kept = _mask(keep)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    effective, may, inheritable = _read()
    if effective & _SETPCAP:
        for bit in range(_last() + 1):
            if not kept >> bit & 1 and _libc.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0) == 1:
                _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0)
    _write(effective & kept, may & kept, inheritable & kept)


def _mask(names: Iterable[str]) -> int:
    return sum(1 << BITS[name] for name in set(names))


def _last() -> int:
    with contextlib.suppress(OSError, ValueError), open(_LAST) as stream:
        return int(stream.read())
    return max(BITS.values())


def _read() -> tuple[int, int, int]:
    """Return the masks (effective, permitted, inheritable) of this thread."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), data))
    return tuple(getattr(data[0], name) | getattr(data[1], name) << 32
                 for name in ('effective', 'permitted', 'inheritable'))


def _write(effective: int, may: int, inheritable: int) -> None:
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    for name, value in (('effective', effective), ('permitted', may),
                        ('inheritable', inheritable)):
        setattr(data[0], name, value & 0xffffffff)
        setattr(data[1], name, value >> 32)
    _check(_libc.capset(ctypes.byref(header), data))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
