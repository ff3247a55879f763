"""Where the pins of root arrays are, and how those of dead processes go."""

import fcntl
import os
from pathlib import Path

from ipc_bypass.kernel import bpffs
from ipc_bypass.kernel.errors import BypassError


def pin_name(index):
    """Return the name of the folder of pins of an interface of this thread's namespace."""
    return f"xdp_{os.stat('/proc/thread-self/ns/net').st_ino}_{index}"


def remove_stale(pin_directory):
    """Remove the pins of arrays whose process is gone; return how many arrays they were."""
    removed = 0
    for place in Path(pin_directory).glob('xdp_*_owner'):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(fd), os.lstat(place)):
                continue  # it was removed, and another process has made it anew
            bpffs.PinDirectory(place.with_name(place.name.removesuffix('_owner'))).remove()
            place.rmdir()
            removed += 1
        except (OSError, BypassError):
            continue  # its process lives
        finally:
            os.close(fd)
    return removed
