"""Find or mount bpffs, and keep pins in a folder of it that nobody sees half made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import ctypes
import errno
import fcntl
import os
from pathlib import Path
import re
import stat
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.cgroup import unescape
from ipc_bypass.kernel.errors import BypassError, PinError

MOUNT_POINT = '/sys/fs/bpf'
_MAGIC = 0xcafe4a11  # BPF_FS_MAGIC, uapi/linux/magic.h
_MOUNT_COMMAND = f'mount -t bpf bpf {MOUNT_POINT}'
_RENAME_EXCHANGE = 2  # uapi/linux/fs.h
# The kernel keeps names with dots for itself.
_NAME = re.compile(r'[A-Za-z0-9_]{1,64}')

_libc = ctypes.CDLL(None, use_errno=True)


def find_bpffs(mountinfo: str = '/proc/self/mountinfo') -> str:
    """
    Return a mount point of bpffs, the usual one where there are several.

    :raises PinError: when there is none
    """
    found = []
    with open(mountinfo, encoding='utf-8', errors='surrogateescape') as stream:
        for line in stream:
            before, _, after = line.partition(' - ')
            if after.split(' ')[0] == 'bpf':
                found.append(unescape(before.split(' ')[4]))
    if not found:
        raise PinError('find bpffs', 'it is not mounted', errno=errno.ENOENT,
                       next_step=_MOUNT_COMMAND)
    return MOUNT_POINT if MOUNT_POINT in found else found[0]


def ensure_bpffs(*, mount: bool = False) -> str:
    """
    Return a mount point of bpffs; mount it at /sys/fs/bpf if asked to and there is none.

    :raises PinError: when there is none and it was not asked for, or the kernel has none
    :raises PrivilegeError: when mounting takes a capability that is missing
    """
    try:
        return find_bpffs()
    except PinError:
        if not mount:
            raise
    what = f'mount bpffs at {MOUNT_POINT}'
    if _libc.mount(b'bpf', MOUNT_POINT.encode(), b'bpf', ctypes.c_ulong(0), b'mode=0700') == 0:
        return MOUNT_POINT
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.EACCES):
        raise privilege_error(what, ['CAP_SYS_ADMIN'], number)
    raise PinError(what, errno=number, next_step='use a kernel with CONFIG_BPF_SYSCALL and /sys '
                   'mounted')


class PinDirectory:
    """
    A folder of pins, for example /sys/fs/bpf/ipc_bypass/tcp.

    The folder above it is made where it is missing, open to this user only, and locked while
    anything changes. A set of pins is made under another name and renamed, so that it is either
    whole or not there.

    :param path: absolute, in a bpffs
    :param timeout: seconds to wait for another process that holds the lock
    :param group: number of a group whose processes may open the pins (0660) and look into the
        folder and the one above (0750); None: nobody but this user
    """

    def __init__(self, path: str | os.PathLike, *, timeout: float = 5.0,
                 group: int | None = None) -> None:
        self.path = Path(path)
        self.timeout = timeout
        self.group = group
        if not self.path.is_absolute() or not _NAME.fullmatch(self.path.name) or \
                '..' in self.path.parts:
            raise PinError(f'use {self.path} for pins', 'the name of a folder of pins is '
                           'absolute, of letters, digits and underscores', errno=errno.EINVAL)

    def list(self) -> list[str]:  # noqa: A003
        """Return the names of the pins, none where there is no such folder."""
        return sorted(os.listdir(self.path)) if self._is_there() else []

    def open(self, name: str) -> int:  # noqa: A003
        """Open a pinned object and return its descriptor; raises PinError."""
        if not self._is_there():
            raise self._error(f'open pin {name}', errno.ENOENT)
        try:
            return syscall.obj_get(self._pin(name))
        except OSError as error:
            raise self._error(f'open pin {name}', error.errno) from error

    def publish(self, descriptors: Mapping[str, int], *, replace: bool = False) -> None:
        """
        Pin these objects, all or none.

        :param descriptors: maps, programs and links by name
        :param replace: put them in place of the pins that are there; else those are an error
        :raises PinError: when it cannot be done; what was there is as it was
        """
        with self._locked():
            self._remove_leftovers()
            exists = self._is_there()
            if exists and not replace:
                raise self._error('pin', errno.EEXIST, next_step='adopt or remove the pins of '
                                  'the earlier run')
            staged = self.path.with_name(f'{self.path.name}_new_{os.getpid()}')
            try:
                staged.mkdir(mode=0o700)
                for name, fd in descriptors.items():
                    syscall.obj_pin(fd, self._pin(name, staged))
                    self._share(self._pin(name, staged), 0o660)
                self._share(staged, 0o750)
                self._share(self.path.parent, 0o750)
                if exists:
                    _exchange(staged, self.path)
                else:
                    staged.rename(self.path)
            except OSError as error:
                raise self._error('pin', error.errno) from error
            finally:
                self._remove_folder(staged)

    def remove(self, name: str | None = None) -> None:
        """Remove a pin, or all of them with their folder; what is not there is no error."""
        if not self.path.parent.exists():
            return
        with self._locked():
            if not self._is_there():
                return
            try:
                if name is not None:
                    self._pin(name).unlink(missing_ok=True)
                else:
                    self._remove_folder(self.path)
                    self._remove_leftovers()
            except OSError as error:
                raise self._error('remove pins', error.errno) from error

    def _share(self, place: Path, mode: int) -> None:
        """Give what was just made, or is locked, to the group; without one it stays as it is."""
        if self.group is not None:
            os.chown(place, -1, self.group, follow_symlinks=False)
            place.chmod(mode)

    def _pin(self, name: str, folder: Path | None = None) -> Path:
        if not _NAME.fullmatch(name):
            raise PinError(f'pin {name!r}', 'a name is of letters, digits and underscores',
                           errno=errno.EINVAL)
        return (folder or self.path) / name

    def _is_there(self) -> bool:
        """Return whether the folder exists; raises PinError when it cannot be trusted."""
        for place in (self.path.parent, self.path):
            try:
                state = os.lstat(place)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise self._error('read', error.errno) from error
            self._trust(place, state)
        return True

    def _trust(self, place: Path, state: os.stat_result) -> None:
        """Raise PinError unless only this user or root can have put something there."""
        reason = ''
        if stat.S_ISLNK(state.st_mode):
            reason = 'it is a symbolic link'
        elif not stat.S_ISDIR(state.st_mode):
            reason = 'it is no folder'
        elif not is_bpffs(place):
            reason = 'it is not in a bpffs'
        elif state.st_uid not in (0, os.geteuid()):
            reason = f'it belongs to user {state.st_uid}'
        elif state.st_mode & 0o022 and not state.st_mode & stat.S_ISVTX:
            reason = 'others may write to it'
        if reason:
            raise PinError(f'use {place} for pins', reason, errno=errno.EPERM,
                           next_step=f'remove it, or choose a folder below {MOUNT_POINT}')

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock on the folder above, which is made where it is missing."""
        above = self.path.parent
        try:
            if not above.exists() and is_bpffs(above.parent):
                above.mkdir(mode=0o700, exist_ok=True)
            self._trust(above, os.lstat(above))
            fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._error('use the folder above', error.errno) from error
        try:
            deadline = time.monotonic() + self.timeout
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise self._error('lock', errno.EBUSY, next_step='end the other '
                                          'ipc-bypass process') from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(fd)

    def _remove_leftovers(self) -> None:
        """Remove what a process left that died while it pinned; the lock is held."""
        for place in self.path.parent.glob(f'{self.path.name}_new_*'):
            self._remove_folder(place)

    @staticmethod
    def _remove_folder(folder: Path) -> None:
        if folder.is_dir() and not folder.is_symlink():
            for pin in folder.iterdir():
                pin.unlink()
            folder.rmdir()

    def _error(self, what: str, number: int | None, *, next_step: str = '') -> BypassError:
        what = f'{what} ({self.path})'
        if number == errno.EPERM:
            return privilege_error(what, ['CAP_BPF'], number)
        if number == errno.EACCES:  # of a folder's mode: bpf(2) itself answers EPERM
            return PinError(what, f'user {os.geteuid()} may not look into the folder',
                            errno=number, next_step='as root, give that user a folder of its own '
                            "(systemd/ipc-bypass-pins USER FOLDER), or set pin_directory to ''")
        if number == errno.ENOENT and not next_step:
            next_step = _MOUNT_COMMAND if not os.path.ismount(MOUNT_POINT) else ''
        return PinError(what, errno=number or 0, next_step=next_step)


def is_bpffs(path: str | os.PathLike) -> bool:
    """Return whether a path is in a bpffs; False where it does not exist."""
    block = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), block) != 0:
        return False
    # f_type is the first word of struct statfs, of the machine's word size.
    return struct.unpack_from('@l', block)[0] & 0xffffffff == _MAGIC


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step, or in two where the kernel cannot (bpffs before 5.17)."""
    renameat2 = getattr(_libc, 'renameat2', None)
    if renameat2 is not None and renameat2(-100, os.fsencode(one), -100, os.fsencode(other),
                                           ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return
    aside = one.with_name(one.name + '_old')
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)
