"""The processes of the UDP bench: senders and readers, in C or in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
import os
from pathlib import Path
import select
import shutil
import subprocess
import sys
import tempfile
import time

from ipc_bypass.bench.containers import Namespace
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.sources import bpf_source

LANGUAGES = ('c', 'python')
_SOURCES = ('udp_sender', 'udp_reader')
_HEADER = 'pool_layout.h'
_PYTHON = 'ipc_bypass.bench.udp_python'
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0
_AGAIN = 0.1


class PeerError(BypassError):
    """A sender or a reader failed; the reason is what it said last."""


class Peers:
    """
    Starts senders and readers of one language in one place.

    :param place: where they run
    :param folder: where their programs are; None for Python
    """

    def __init__(self, place: Namespace, folder: Path | None) -> None:
        self._place, self._folder = place, folder

    @property
    def language(self) -> str:
        """Return 'c' or 'python'."""
        return 'python' if self._folder is None else 'c'

    def start(self, role: str, options: Mapping[str, object], *,
              descriptors: Sequence[int] = ()) -> Peer:
        """
        Start a process; a role without a program in C runs in Python.

        :param role: 'sender', 'reader', or another one of udp_python.py
        :param options: handed over as NAME=VALUE
        :param descriptors: what it inherits, with the numbers that they have here
        """
        program = self._folder and self._folder / f'udp_{role}'
        argv = [str(program)] if program and program.exists() else \
            [sys.executable, '-m', _PYTHON, role]
        argv += [f'{name}={value}' for name, value in options.items()]
        return Peer(f'{self.language} {role}', self._place.command(*argv), descriptors)


class Peer:
    """One process: a context manager that ends it."""

    def __init__(self, name: str, argv: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile()
        self._rest = b''
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors,
            pass_fds=descriptors, start_new_session=True)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_exception) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def wait_ready(self) -> Peer:
        """Return itself once it said 'ready'; raises PeerError."""
        line = self._line(_START_TIMEOUT)
        if line != 'ready':
            raise self._error(f'it said {line!r}')
        return self

    def result(self, timeout: float) -> dict:
        """Return what it found, once it ends by itself; raises PeerError."""
        line = self._line(timeout)
        try:
            found = json.loads(line or '')
            self._process.wait(_STOP_TIMEOUT)
        except (ValueError, subprocess.TimeoutExpired):
            raise self._error(f'no result within {timeout:.0f} s') from None
        return found

    def stop(self, patience: float = 0.0) -> dict:
        """
        Return what it found; raises PeerError.

        :param patience: seconds in which it may end by itself, before SIGTERM ends it
        """
        select.select([self._process.stdout], [], [], patience)
        deadline = time.monotonic() + _STOP_TIMEOUT
        # A signal just before a call that blocks does not end that call: hence once more.
        while time.monotonic() < deadline and self._process.poll() is None:
            self._process.terminate()
            if select.select([self._process.stdout], [], [], _AGAIN)[0]:
                break
        return self.result(_STOP_TIMEOUT)

    def _line(self, timeout: float) -> str | None:
        """Return the next line of its output; None at the end, or where none came in time."""
        deadline = time.monotonic() + timeout
        while b'\n' not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b'\n')
        return line.decode(errors='replace')

    def _error(self, reason: str) -> PeerError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors='replace').split('\n')
        said = [line for line in said if line.strip()]
        return PeerError(f'run the {self._name}', ': '.join([reason, *said[-1:]]))


@contextmanager
def peers(place: Namespace, language: str) -> Iterator[Peers]:
    """
    Give the Peers of a language; what was compiled for them is removed at the end.

    :raises UnsupportedError: there is no C compiler
    :raises BypassError: the programs do not compile
    """
    if language == 'python':
        yield Peers(place, None)
        return
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_') as folder:
        compile_peers(Path(folder))
        yield Peers(place, Path(folder))


def compile_peers(folder: Path) -> None:
    """Compile the sender and the reader into a folder; raises as `peers` does."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        raise UnsupportedError('compile the sender and the reader', 'there is no C compiler',
                               next_step='apt-get install gcc, or use --language python')
    # Beside the folder bpf/, in the source tree as in an installation.
    header = bpf_source(_HEADER)
    sources = header.parent.parent / 'bench'
    for name in _SOURCES:
        done = subprocess.run(
            [compiler, '-O2', '-I', str(header.parent), '-o', str(folder / name),
             str(sources / f'{name}.c')], capture_output=True, text=True, check=False)
        if done.returncode:
            error = BypassError(f'compile {name}.c', _first_error(done.stderr),
                                next_step='apt-get install gcc libc6-dev, or use '
                                          '--language python')
            error.log = done.stderr
            raise error


def _first_error(text: str) -> str:
    """Return the first line of a compiler's output that tells of an error."""
    lines = text.splitlines() or ['no reason given']
    return next((line for line in lines if 'error' in line), lines[0])
