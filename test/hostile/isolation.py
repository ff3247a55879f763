"""A network namespace of its own for this process: what a hostile input does stays there."""

import ctypes
import os
import subprocess

_CLONE_NEWNET = 0x40000000  # uapi/linux/sched.h


def isolate():
    """Move this thread, and those that it makes, into a new namespace with a loopback."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
