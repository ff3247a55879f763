"""Where a program of others runs for a while: its folder, its processes, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
import hashlib
import os
from pathlib import Path
import subprocess
import tempfile

from ipc_bypass.bench.ports import wait_for_listener
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.headers import cache_folder
from support.programs import _unpack as unpack
from support.programs import Program, program

#: Seconds until a program that does not come to its end is given up.
PATIENCE = 60.0


class Wrong(BypassError):
    """What came through a connection is not what was sent, or a program failed."""


@dataclass(frozen=True)
class Outcome:
    """
    What one run gave.

    :param figures: by metric, whose name ends with its unit
    :param content: what has to be the same over every way: hashes, counts
    :param least_bytes: that the connections carried at least, both directions
    :param most_bytes: and at most; None where nobody knows
    """

    figures: dict[str, float]
    content: object = None
    least_bytes: int = 1
    most_bytes: int | None = None


@dataclass
class Place:
    """
    A folder and processes that end with it; a context manager.

    :param quick: whether runs are to be short
    """

    quick: bool = False
    folder: Path = field(init=False)
    _stack: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Place:
        self.folder = Path(self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix='ipc_bypass_software_')))
        self.folder.chmod(0o755)  # servers drop root
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    def program(self, name: str, package: str) -> Program:
        """Return a program that is installed, or unpacked; raises RuntimeError."""
        return program(name, package)

    def package(self, name: str) -> Path:
        """Return the folder that a package is unpacked in; raises RuntimeError."""
        target = cache_folder() / 'servers' / name
        if not target.is_dir():
            unpack(name, target)
        return target

    def start(self, *command: object, port: int | None = None, environment: dict | None = None,
              stop: Callable[[subprocess.Popen], None] | None = None) -> subprocess.Popen:
        """
        Start a process that ends with the place.

        :param port: wait until somebody listens there
        :param stop: how to end it; killed where left out
        """
        words = [str(word) for word in command]
        with open(self.folder / f'{Path(words[0]).name}.{port}.log', 'ab') as log:
            process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', '--', *words], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True)
        self._stack.callback(_end, process, stop)
        if port is not None:
            try:
                wait_for_listener(port, timeout=20.0)
            except BypassError as error:
                raise Wrong(f'start {words[0]}', _last_line(Path(log.name))) from error
        return process

    def on_exit(self, call: Callable, *arguments: object) -> None:
        """Call a function when the place ends."""
        self._stack.callback(call, *arguments)

    def run(self, *command: object, environment: dict | None = None, data: bytes | None = None,
            user: Sequence[object] = (), cwd: Path | None = None) -> bytes:
        """Run a program to its end and return its output; raises Wrong with what it said."""
        words = [str(word) for word in (*user, *command)]
        try:
            done = subprocess.run(words, input=data, capture_output=True, timeout=PATIENCE,
                                  check=False, env=environment, cwd=cwd or self.folder,
                                  **({} if data is not None else {'stdin': subprocess.DEVNULL}))
        except subprocess.TimeoutExpired as error:
            raise Wrong(f'run {words[len(user)]}', f'it did not end in {PATIENCE:g} s') from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors='replace').strip().splitlines()
            raise Wrong(f'run {" ".join(words[:6])}',
                        f'exit status {done.returncode}: {" | ".join(said[-3:])}')
        return done.stdout

    def file(self, name: str, size: int) -> Path:
        """Return a file of `size` random bytes, made once."""
        path = self.folder / name
        if not path.exists():
            with open(path, 'wb') as stream:
                for start in range(0, size, 1 << 20):
                    stream.write(os.urandom(min(1 << 20, size - start)))
        return path


def _end(process: subprocess.Popen, stop: Callable[[subprocess.Popen], None] | None) -> None:
    if process.poll() is None and stop is not None:
        stop(process)
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.kill()
    process.wait()


def _last_line(path: Path) -> str:
    said = path.read_text(errors='replace').strip().splitlines()
    return said[-1] if said else 'it does not listen, and said nothing'


def digest(data: bytes) -> str:
    """Return the hash of bytes as text."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hash of a file as text."""
    content = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as stream:
        while part := stream.read(1 << 20):
            content.update(part)
    return content.hexdigest()


def tree_digest(folder: Path, without: str = '.git') -> str:
    """Return the hash of all names, modes and contents below a folder, but one of its own."""
    content = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob('*')):
        if path.relative_to(folder).parts[0] == without:
            continue
        content.update(f'{path.relative_to(folder)} {path.lstat().st_mode:o}\n'.encode())
        if path.is_symlink():
            content.update(os.readlink(path).encode())
        elif path.is_file():
            content.update(file_digest(path).encode())
    return content.hexdigest()


class Case:
    """
    One program: `serve(port)` starts a server there, `measure(port)` leads traffic to it.

    :param place: where it runs; the same for every way, so that all have the same data
    """

    #: Short name, of the table's first column.
    name = ''
    #: Host that is connected to.
    address = '127.0.0.1'
    #: Whether the traffic is to be redirected; else why it is not, a reason of the path's.
    excluded = ''
    #: Whether it takes some seconds: left out of the short form.
    long = False

    def __init__(self, place: Place) -> None:
        self.place = place

    def prepare(self) -> None:
        """Do what is done once; raises RuntimeError where a program is missing."""

    def serve(self, port: int) -> None:
        """Start the server."""
        raise NotImplementedError

    def measure(self, port: int) -> Outcome:
        """Run the client once; raises Wrong."""
        raise NotImplementedError
