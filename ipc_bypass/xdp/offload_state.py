"""What was changed on an interface, in a small file: for the start after a SIGKILL."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
import re
import stat

from ipc_bypass.xdp.errors import OffloadError

_VERSION = 1
_NAME = re.compile(r'offloads_(\d+)_(\d+)\.json')
_KEY = re.compile(r'feature:[a-z0-9-]+|channels|indirection|steer:\d+')


class OffloadState:
    """
    The file of one interface, and the right to write it, which ends with the process.

    :param folder: where it is; made (0700) where it is missing
    :param namespace: inode of the interface's network namespace
    :raises OffloadError: when another living process has it, or the folder cannot be trusted
    """

    def __init__(self, folder: str | os.PathLike, namespace: int, index: int, mac: bytes) -> None:
        self.path = Path(folder) / f'offloads_{namespace}_{index}.json'
        self._identity = {'version': _VERSION, 'boot': _boot(), 'mac': mac.hex()}
        self._lock_path = self.path.with_suffix('.lock')
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = os.lstat(self.path.parent)
            if not stat.S_ISDIR(state.st_mode) or state.st_uid not in (0, os.geteuid()) \
                    or state.st_mode & 0o022:
                raise PermissionError(errno.EPERM, 'it is no folder that only this user writes to')
            self._lock = self._take()
        except BlockingIOError as error:
            raise OffloadError(f'change settings of interface {index}', 'another process of ours '
                               'has changed them and lives', errno=errno.EBUSY,
                               next_step=f'end it; its file is {self.path}') from error
        except OSError as error:
            raise OffloadError(f'keep what is changed in {self.path.parent}',
                               error.strerror or '', errno=error.errno or 0,
                               next_step='name another folder') from error

    def adopt(self) -> dict[str, tuple]:
        """Return what an earlier process changed on this very interface and did not put back."""
        told = _read(self.path)
        if {key: told.get(key) for key in self._identity} != self._identity:
            self.path.unlink(missing_ok=True)
            return {}
        changed = told.get('changed')
        return {key: tuple(pair) for key, pair in changed.items()
                if _KEY.fullmatch(key) and isinstance(pair, list) and len(pair) == 2} \
            if isinstance(changed, dict) else {}

    def write(self, changed: dict[str, tuple]) -> None:
        """
        Keep what is changed now, in one step; without a change the file goes.

        :raises OffloadError: when it cannot be written
        """
        staged = self.path.with_suffix('.new')
        try:
            if not changed:
                self.path.unlink(missing_ok=True)
                return
            staged.unlink(missing_ok=True)
            fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                         | os.O_CLOEXEC, 0o600)
            with open(fd, 'w', encoding='ascii') as stream:
                json.dump({**self._identity, 'changed': changed}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            staged.rename(self.path)
        except OSError as error:
            raise OffloadError(f'keep what is changed in {self.path}', errno=error.errno or 0,
                               next_step='name another folder') from error

    def close(self) -> None:
        """Give the right up; a file that is there stays for the next."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self._lock_path.unlink()
            os.close(self._lock)
            self._lock = -1

    def _take(self) -> int:
        """Return a descriptor that has the lock; raises BlockingIOError."""
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                         0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its owner may have removed the file between our two steps.
                if os.stat(self._lock_path).st_ino == os.fstat(fd).st_ino:
                    return fd
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def left(folder: str | os.PathLike) -> list[tuple[int, int]]:
    """Return (inode of the network namespace, index) of each interface that has a file."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted((int(match[1]), int(match[2])) for match in map(_NAME.fullmatch, names) if match)


def remove(folder: str | os.PathLike, namespace: int, index: int) -> None:
    """Remove the file of an interface that is gone."""
    for suffix in ('json', 'lock', 'new'):
        Path(folder, f'offloads_{namespace}_{index}.{suffix}').unlink(missing_ok=True)


def _boot() -> str:
    """Return a mark of this boot: settings do not outlive it."""
    with contextlib.suppress(OSError):
        return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return ''


def _read(path: Path) -> dict:
    """Return what the file says, {} where there is none, it is broken or not ours."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, encoding='ascii') as stream:
            if os.fstat(fd).st_uid in (0, os.geteuid()):
                told = json.load(stream)
                return told if isinstance(told, dict) else {}
    return {}
