"""A process that a comparison starts: read by lines, and ended whatever it does."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import select
import subprocess
import tempfile
import time

from ipc_bypass.kernel.errors import BypassError


class PairError(BypassError):
    """A process of a pair ended, did not answer in time, or measured nothing."""


class Process:
    """
    A process with pipes to its input and from its output; a context manager.

    :param name: for errors
    :param environment: all of it
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self._name, self._command, self._environment = name, command, environment
        self._process: subprocess.Popen | None = None
        self._log = None
        self._rest = b''
        self._said: list[str] = []

    def __enter__(self) -> Process:
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._log, start_new_session=True)
        except OSError as error:
            self._log.close()
            raise PairError(f'start {self._command[0]}', errno=error.errno or 0) from error
        return self

    def __exit__(self, *_exception) -> None:
        process = self._process
        if process is None:
            return
        # One that hangs in its DDS would hang at its end too, and has nothing to save. The words
        # before the command replace themselves by it, so that this is the process itself.
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        self._process = None
        self._log.close()

    def write(self, line: str) -> None:
        """Give the process a line; raises PairError where it has ended."""
        try:
            os.write(self._process.stdin.fileno(), f'{line}\n'.encode())
        except BrokenPipeError:
            raise self.failed('it has ended') from None

    def line(self, timeout: float) -> str:
        """Return its next line; raises PairError where none comes within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        stream = self._process.stdout.fileno()
        while b'\n' not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.failed(f'no answer within {timeout:.0f} s')
            if select.select([stream], [], [], left)[0]:
                data = os.read(stream, 1 << 20)
                if not data:
                    raise self.failed('it has ended')
                self._rest += data
        line, _, self._rest = self._rest.partition(b'\n')
        text = line.decode(errors='replace').strip()
        self._said = [*self._said[-2:], text[:200]]
        return text

    def cpu(self) -> float:
        """Return the CPU time of the threads that it has now, in seconds; raises PairError."""
        total = 0
        try:
            # In ns, where /proc/PID/stat counts in ticks of 10 ms, which is much for who is idle.
            for thread in Path(f'/proc/{self._process.pid}/task').iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    total += int((thread / 'schedstat').read_text().split()[0])
        except FileNotFoundError:
            raise self.failed('it has ended') from None
        return total / 1e9

    def failed(self, reason: str) -> PairError:
        """Return the error for a reason, with the last that the process said."""
        self._log.seek(0)
        said = self._log.read().decode(errors='replace').splitlines()[-2:]
        return PairError(f'measure {self._name}', ' / '.join([reason, *(said or self._said)]))
