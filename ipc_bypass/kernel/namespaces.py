"""
Network namespaces of this host: which there are, and what each one's /proc/net says.

A namespace is known by its inode. It is found by a process that lives in it, or by a name that
`ip netns` gave it; one that only a thread, a socket or another mount namespace holds is not.
"""

from __future__ import annotations

from collections.abc import Iterable
import ctypes
from dataclasses import dataclass
import os
import threading
import time

_CLONE_NEWNET = 0x40000000  # uapi/linux/sched.h
_NAMES = '/run/netns'
_BLOCK = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class NetworkNamespace:
    """
    One namespace.

    `path` is a file that setns(2) takes, the lasting one where it has a name; `pid` a process
    that lives in it, 0 where there is none.
    """

    inode: int
    path: str
    pid: int


class Namespaces:
    """What was found last, so that those who want it at the same time look once; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[int, NetworkNamespace] = {}
        self._when = float('-inf')

    def find(self, max_age: float = 0.0) -> dict[int, NetworkNamespace]:
        """Return the namespaces by inode, as they were at most `max_age` seconds ago."""
        with self._lock:
            if time.monotonic() - self._when > max_age:
                self._found, self._when = network_namespaces(), time.monotonic()
            return self._found

    def read(self, *names: str, max_age: float = 0.0) -> dict[int, tuple[bytes, ...]]:
        """
        Return what files of /proc/net say, by the inode of their namespace.

        A file that the kernel has not (IPv6 is off) is b''. A namespace that ended meanwhile,
        or that this process may not enter (CAP_SYS_ADMIN), is left out.
        """
        found = self.find(max_age)
        contents, rest = {}, []
        for namespace in found.values():
            read = _read_files(namespace, names) if namespace.pid else None
            if read is None:
                rest.append(namespace)
            else:
                contents[namespace.inode] = read
        if any(namespace.pid for namespace in rest):
            # Its process ended; another one, or a name, may have it still.
            found = self.find()
            rest = [found[namespace.inode] for namespace in rest if namespace.inode in found]
        if rest:
            thread = threading.Thread(target=_enter_and_read, args=(rest, names, contents))
            thread.start()
            thread.join()
        return contents


def network_namespaces() -> dict[int, NetworkNamespace]:
    """Return the namespaces that a process or a name has, by inode; our own is the first."""
    pids: dict[str, int] = {}
    for name in (str(os.getpid()), *filter(str.isdigit, os.listdir('/proc'))):
        try:
            # 'net:[4026531840]'; stat(2) on it costs twice as much.
            pids.setdefault(os.readlink(f'/proc/{name}/ns/net'), int(name))
        except OSError:
            continue
    found = {int(text[5:-1]): (f'/proc/{pid}/ns/net', pid) for text, pid in pids.items()}
    try:
        entries = list(os.scandir(_NAMES))
    except OSError:
        entries = []
    for entry in entries:
        try:
            inode = os.stat(entry.path).st_ino
        except OSError:
            continue
        if inode in found or _is_namespace(entry.path):
            found[inode] = entry.path, found.get(inode, ('', 0))[1]
    return {inode: NetworkNamespace(inode, path, pid) for inode, (path, pid) in found.items()}


def enter(path: str | os.PathLike) -> None:
    """Move this thread, and sockets that it makes from now on, into a namespace; OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(path))
    finally:
        os.close(fd)


def _is_namespace(path: str) -> bool:
    """Return whether a file is a namespace's: a name whose namespace is gone is a plain file."""
    return os.stat(path).st_dev == os.stat('/proc/self/ns/net').st_dev


def _read_files(namespace: NetworkNamespace, names: Iterable[str]) -> tuple[bytes, ...] | None:
    """Return what the files of a namespace's process say, None where it is not there any more."""
    folder = f'/proc/{namespace.pid}'
    contents = tuple(_content(f'{folder}/net/{name}') for name in names)
    try:
        there = os.readlink(f'{folder}/ns/net') == f'net:[{namespace.inode}]'
    except OSError:
        there = False
    return contents if there else None


def _enter_and_read(namespaces: Iterable[NetworkNamespace], names: Iterable[str],
                    contents: dict[int, tuple[bytes, ...]]) -> None:
    """Read the files of namespaces without a process; in a thread, which ends afterwards."""
    for namespace in namespaces:
        try:
            enter(namespace.path)
            here = os.stat('/proc/thread-self/ns/net').st_ino
        except OSError:
            continue
        if here == namespace.inode:
            contents[here] = tuple(_content(f'/proc/thread-self/net/{name}') for name in names)


def _content(path: str) -> bytes:
    try:
        with open(path, 'rb', buffering=0) as stream:
            parts = []
            while part := stream.read(_BLOCK):
                parts.append(part)
            return b''.join(parts)
    except OSError:
        return b''
