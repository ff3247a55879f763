"""Move a thread into the network namespace that is meant, and into no other."""

from __future__ import annotations

import errno
import os

from ipc_bypass.kernel import namespaces


def enter(path: str | os.PathLike, inode: int) -> None:
    """
    Move this thread into a namespace; it stays there, so give it a thread that ends.

    A path by a process is another namespace's, once its number is used again.

    :raises OSError: when the thread may not enter; ESRCH when the namespace is not there any more,
        and the thread may be in another one then
    """
    if _inside() == inode:
        return  # which takes no privilege
    try:
        namespaces.enter(path)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
    if _inside() != inode:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _inside():
    return os.stat('/proc/thread-self/ns/net').st_ino
