"""The system call bpf(2) itself, over ctypes."""

from __future__ import annotations

import ctypes
import os
import resource

from ipc_bypass.kernel.uapi import bpf_syscall_number, BpfCmd

_libc = ctypes.CDLL(None, use_errno=True)
_NUMBER = bpf_syscall_number()


def bpf(command: BpfCmd, attr: bytearray) -> int:
    """
    Make one call of the bpf system call.

    :param command: one of `enum bpf_cmd`
    :param attr: the command's part of `union bpf_attr`; the kernel may write into it
    :returns: what the kernel returns, a file descriptor or 0 in most cases; every file
        descriptor that bpf(2) makes is closed on exec
    :raises OSError: with the kernel's errno
    """
    block = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = _libc.syscall(ctypes.c_long(_NUMBER), ctypes.c_int(command),
                           ctypes.c_void_p(ctypes.addressof(block)), ctypes.c_uint(len(attr)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f'bpf({BpfCmd(command).name}): {os.strerror(number)}')
    return result


def address(buffer: ctypes.Array | None) -> int:
    """Return the address of a ctypes buffer, 0 for None; the caller keeps the buffer alive."""
    return 0 if buffer is None else ctypes.addressof(buffer)


def buffer_of(data: bytes | bytearray | memoryview) -> ctypes.Array:
    """Return a ctypes buffer with a copy of `data`."""
    data = bytes(data)
    return ctypes.create_string_buffer(data, max(len(data), 1))


def raise_memlock_limit() -> bool:
    """Lift RLIMIT_MEMLOCK and return whether that changed anything."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK) == unlimited:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    except (OSError, ValueError):
        return False
    return True
