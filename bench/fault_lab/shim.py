"""The tester's side of shim.c: which calls of bpf(2) fail, and what the wall clock says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import mmap
from pathlib import Path
import subprocess

from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.uapi import BpfCmd

_SOURCE = Path(__file__).with_name('shim.c')
_CALLS = 65536


class _Shared(ctypes.Structure):
    """The struct of shim.c of the same content."""

    _fields_ = [('calls', ctypes.c_uint64), ('fail_at', ctypes.c_uint64),
                ('times', ctypes.c_uint64), ('error', ctypes.c_uint64),
                ('failed', ctypes.c_uint64), ('wall_clock_s', ctypes.c_int64),
                ('commands', ctypes.c_uint8 * _CALLS)]


class Shim:
    """
    A shim for a process and its children: start it with `environment` added to its own.

    :param folder: an empty folder of its own, for the library and the shared file
    :raises UnsupportedError: where it cannot be compiled
    """

    def __init__(self, folder: Path) -> None:
        library, shared = folder / 'shim.so', folder / 'shim.shared'
        done = subprocess.run(
            ['cc', '-O2', '-shared', '-fPIC', '-o', library, _SOURCE, '-ldl'],
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnsupportedError('compile shim.c', done.stderr.strip().splitlines()[-1],
                                   next_step='apt-get install gcc libc6-dev')
        shared.write_bytes(bytes(ctypes.sizeof(_Shared)))
        with open(shared, 'r+b') as stream:
            self._mapped = mmap.mmap(stream.fileno(), 0)
        self._shared = _Shared.from_buffer(self._mapped)
        self.environment = {'LD_PRELOAD': str(library), 'IPC_BYPASS_FAULTS': str(shared)}

    @contextmanager
    def failing(self, number: int, error: int, times: int = 1) -> Iterator[None]:
        """Have the calls from `number` on (from 1, counted from now) fail with an errno."""
        shared = self._shared
        shared.fail_at = 0
        shared.error, shared.times, shared.failed, shared.calls = error, times, 0, 0
        shared.fail_at = number
        try:
            yield
        finally:
            shared.fail_at = 0

    @contextmanager
    def counting(self) -> Iterator[list[int]]:
        """Give a list that has the commands of all calls within, once the context has ended."""
        shared, found = self._shared, []
        shared.fail_at, shared.calls = 0, 0
        yield found
        found += shared.commands[:min(shared.calls, _CALLS)]

    @property
    def failed(self) -> int:
        """Return how many calls failed since `failing` began."""
        return self._shared.failed

    def jump(self, seconds: int) -> None:
        """Let the wall clock be so far from the true one."""
        self._shared.wall_clock_s = seconds

    def close(self) -> None:
        """Unmap the shared file."""
        del self._shared
        self._mapped.close()


def command_name(number: int) -> str:
    """Return the name of a command of bpf(2), its number where it has none here."""
    try:
        return BpfCmd(number).name
    except ValueError:
        return str(number)
