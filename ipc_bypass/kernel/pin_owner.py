"""One process a folder of pins: a lock for its life, given up by the kernel when it dies."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from ipc_bypass.kernel import bpffs
from ipc_bypass.kernel.errors import PinError, PinsInUseError


class PinOwner:
    """The right to write pins of one kind below a folder in a bpffs."""

    def __init__(self, folder, name, *, trust, mount=True):
        """
        Take `folder` for what `name` stands for; raises PinError.

        PinsInUseError where another process has it.

        :param trust: called before anything is made; raises where the folder cannot be trusted
        :param mount: whether to mount a bpffs where none is, at its usual place
        """
        self._folder, self._owner = Path(folder), Path(folder, name)
        if not bpffs.is_bpffs(self._folder.parent):
            bpffs.ensure_bpffs(
                mount=mount and str(folder).startswith(bpffs.MOUNT_POINT + '/'))
        trust()
        self._fd = None
        try:
            while self._fd is None:
                self._fd = self._locked()
        except BlockingIOError:
            raise PinsInUseError(f'take the pin folder {folder}', 'another node runs with it',
                                 errno=errno.EBUSY, next_step='stop that node, or give this one '
                                 'another pin_directory') from None
        except OSError as error:
            raise PinError(f'write to the pin folder {folder}', errno=error.errno,
                           next_step=f'make {self._folder.parent} writable (mount -t bpf bpf '
                           f"{bpffs.MOUNT_POINT}), or set pin_directory to ''") from error

    def _locked(self):
        """Return the locked folder's descriptor, None where it was removed before the lock."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._owner.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self._owner, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                         | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.lstat(self._owner)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def close(self, keep=False):
        """Give the right up, and remove the folders that are empty then, unless told to keep."""
        if not keep:
            with contextlib.suppress(OSError):
                self._owner.rmdir()
                self._folder.rmdir()
        os.close(self._fd)
