"""
Files of other processes, as those see them: opened so that only plain files are ever opened.

What a process names is another user's text. A link in its tree does not lead out of it, and what
is no regular file is not opened at all: the mere opening of a device can act (a watchdog starts).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat

#: What is read of one file, in bytes.
LARGEST = 1 << 20
# openat2(2), from 5.6, and its RESOLVE_* of uapi/linux/openat2.h.
_OPENAT2, _NO_MAGIC_LINKS, _IN_ROOT = 437, 0x02, 0x10
_syscall = ctypes.CDLL(None, use_errno=True).syscall


class _OpenHow(ctypes.Structure):
    """struct open_how of uapi/linux/openat2.h."""

    _fields_ = [('flags', ctypes.c_uint64), ('mode', ctypes.c_uint64),
                ('resolve', ctypes.c_uint64)]


def read_text(pid: int, path: str) -> str:
    """
    Return the text of a file as a process sees it; a relative path begins in its folder.

    Only regular files of at most 1 MiB. One that says it has no bytes is not read: those of proc
    and tracefs are such, and a read can take out of them what others wait for.

    :raises ProcessLookupError: when the process is gone
    :raises OSError: when the file cannot be opened or read; ENOSYS before kernel 5.6
    :raises ValueError: when it is of another kind, or too large
    """
    with contextlib.ExitStack() as stack:
        place = _locate(pid, path)
        stack.callback(os.close, place)
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError('it is no regular file')
        if status.st_size > LARGEST:
            raise ValueError('it is larger than 1 MiB')
        if not status.st_size:
            return ''
        fd = os.open(f'/proc/self/fd/{place}', os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        stream = stack.enter_context(os.fdopen(fd, 'rb'))
        return (stream.read(LARGEST) or b'').decode(errors='replace')


def device_of(pid: int, path: str) -> int | None:
    """Return st_dev of a path as a process sees it, None where it cannot be seen."""
    try:
        place = _locate(pid, path)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            return None
        with contextlib.suppress(OSError):
            return os.stat(f'/proc/{pid}/root{path}').st_dev
        return None
    try:
        return os.fstat(place).st_dev
    finally:
        os.close(place)


def _locate(pid, path):
    """Return an O_PATH descriptor of a file in a process's tree."""
    try:
        root = os.open(f'/proc/{pid}/root', os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
    try:
        if not path.startswith('/'):
            path = os.path.join(os.readlink(f'/proc/{pid}/cwd'), path)
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGIC_LINKS)
        fd = _syscall(_OPENAT2, root, os.fsencode(path.lstrip('/') or '.'), ctypes.byref(how),
                      ctypes.sizeof(how))
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return fd
    finally:
        os.close(root)
