"""
What AF_XDP pipelines show to others: a small file each socket, in one folder.

A process opens its files before it drops its privileges, holds a lock on each as long as it lives
(flock), and writes into them. Readers take a file that nobody holds for one of a process that is
gone. Only files of root, or of the reader's own user, are believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
from dataclasses import asdict, dataclass, fields
import fcntl
import itertools
import json
import os
import re
import stat

from ipc_bypass.xdp.af_xdp.socket_statistics import Counters, SocketStatistics
from ipc_bypass.xdp.af_xdp.uapi import STATISTICS
from ipc_bypass.xdp.interfaces import namespace_inode

DEFAULT_FOLDER = '/run/ipc_bypass/af_xdp'
#: Most bytes of an entry: one write of so many is seen whole, or not at all, by most readers.
LARGEST = 4096
_NAME = re.compile(r'([0-9]{1,10})_([0-9]{1,10})\.json')
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_numbers = itertools.count()


@dataclass(frozen=True)
class Entry:
    """
    What one socket of a live process showed last.

    :param pid: of the process, as it sees itself
    :param namespace: inode of its network namespace
    """

    pid: int
    namespace: int
    statistics: SocketStatistics


class HeldFile:
    """A file in a folder of ours that is locked as long as this process lives, or holds it."""

    def __init__(self, folder: int, name: str) -> None:
        """Make it anew in a folder that is open; raises OSError."""
        self.name, self._folder = name, os.dup(folder)
        self._fd = -1
        try:
            self._open()
            # A reader may have removed it before it was locked.
            while not os.fstat(self._fd).st_nlink:
                os.close(self._fd)
                self._open()
            os.fchmod(self._fd, 0o644)
        except BaseException:
            self.close()
            raise

    def write(self, text: str) -> None:
        """Write a text in place of what stands there; raises OSError."""
        data = text.encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        """Let it go, and remove it where this process still may."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self._folder)
            os.close(self._fd)
        if self._folder >= 0:
            os.close(self._folder)
        self._fd = self._folder = -1

    def _open(self):
        self._fd = -1
        # What has this process's number is of one that is gone.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._folder)
        # Until it is locked, only its owner may open it: no stranger can lock it before us.
        self._fd = os.open(self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600,
                           dir_fd=self._folder)
        fcntl.flock(self._fd, fcntl.LOCK_EX)


class Board:
    """
    The files of one process's sockets.

    :param sockets: how many of them there are
    :param folder: made if it is not there
    :raises OSError: the folder cannot be made, is somebody else's, or does not take files
    """

    def __init__(self, sockets: int, folder: str = DEFAULT_FOLDER) -> None:
        """Make them; each is empty until `show`."""
        self._namespace = namespace_inode()
        self._files: list[HeldFile] = []
        with opened_folder(folder, make=True) as place:
            try:
                for _ in range(sockets):
                    self._files.append(HeldFile(place, f'{os.getpid()}_{next(_numbers)}.json'))
            except BaseException:
                self.close()
                raise

    def show(self, statistics: Iterable[SocketStatistics]) -> None:
        """Write the statistics of each socket, in the order of the files."""
        for file, found in zip(self._files, statistics):  # noqa: B905
            text = json.dumps({**asdict(found), 'namespace': self._namespace})
            if len(text) <= LARGEST:
                # A full file system is no reason to end a pipeline.
                with contextlib.suppress(OSError):
                    file.write(text)

    def close(self) -> None:
        """Let the files go."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Board:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Let the files go."""
        self.close()


def read_board(folder: str = DEFAULT_FOLDER) -> list[Entry]:
    """
    Return what live processes show; what others left is removed where this process may.

    Without the folder there is nothing. What is torn, or makes no sense, is left out.
    """
    try:
        with opened_folder(folder) as place:
            return [entry for pid, text in live_files(place, _NAME)
                    if (entry := _entry(pid, text)) is not None]
    except OSError:
        return []


def live_files(folder: int, pattern: re.Pattern) -> Iterator[tuple[int, str]]:
    """Yield (first group of its name as a number, text) of files that somebody holds."""
    for name in sorted(os.listdir(folder)):
        matched = pattern.fullmatch(name)
        if matched is None:
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            try:
                told = os.fstat(fd)
                if not stat.S_ISREG(told.st_mode) or told.st_uid not in (0, os.geteuid()):
                    continue
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield int(matched[1]), os.pread(fd, LARGEST + 1, 0).decode()
                    continue
                os.unlink(name, dir_fd=folder)
            finally:
                os.close(fd)


@contextlib.contextmanager
def opened_folder(path: str, *, make: bool = False) -> Iterator[int]:
    """Yield the descriptor of a folder that only its owner, root or we, writes to; OSError."""
    if make:
        for each in os.path.dirname(path), path:
            os.makedirs(each, 0o755, exist_ok=True)
    place = os.open(path, _FOLDER)
    try:
        told = os.fstat(place)
        if told.st_uid not in (0, os.geteuid()) or told.st_mode & 0o022:
            raise PermissionError(f'{path} is not of root alone')
        yield place
    finally:
        os.close(place)


def _entry(pid: int, text: str) -> Entry | None:
    """Return the Entry in a text, None where it makes no sense."""
    try:
        told = json.loads(text)
        namespace = told.pop('namespace')
        statistics = SocketStatistics(**told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Entry(pid, namespace, statistics) \
        if _is_count(namespace) and pid < 1 << 32 and _is_sound(statistics) else None


def _is_sound(found: SocketStatistics) -> bool:
    plain = (found.interface, found.queue, found.zero_copy)
    numbers = [getattr(found, field.name) for field in fields(found)[3:12]]
    return isinstance(plain[0], str) and _is_count(plain[1], 1 << 32) \
        and isinstance(plain[2], bool) \
        and all(isinstance(each, (int, float)) and not isinstance(each, bool)
                and 0 <= each < float('inf') for each in numbers) \
        and _is_count(found.rx_packets) and _is_count(found.tx_packets) \
        and _has(found.counters, (field.name for field in fields(Counters))) \
        and _has(found.kernel, STATISTICS)


def _has(counts: object, names: Iterable[str]) -> bool:
    return isinstance(counts, dict) and all(_is_count(counts.get(name)) for name in names)


def _is_count(value: object, most: int = 1 << 62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most
