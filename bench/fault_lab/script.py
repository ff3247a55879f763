"""A process of ours that answers lines of JSON, and what it has written besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import tempfile

from ipc_bypass.kernel.errors import BypassError

_BENCH = Path(__file__).resolve().parents[1]
_PATIENCE = 240.0


class ScriptError(BypassError):
    """A process of the lab ended, or does not answer."""


class Script:
    """
    `python -m MODULE ARGUMENTS`, a context manager; it is killed at the end.

    :param prefix: words before the command
    :param environment: added to this process's own
    """

    def __init__(self, module: str, *arguments: str, prefix: Sequence[str] = (),
                 environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._output = tempfile.TemporaryFile()
        paths = [str(_BENCH), str(_BENCH.parent), os.environ.get('PYTHONPATH', '')]
        self.process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', '--', *prefix, sys.executable, '-m', module,
             *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, text=True,
            # Python looks for modules in the working folder first.
            bufsize=1, cwd='/', env={
                **os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths)),
                **(environment or {})})

    def __enter__(self):
        return self

    def __exit__(self, *_exception) -> None:
        self.kill()
        self._output.close()

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self.process.pid

    def ask(self, function: str, *arguments, timeout: float = _PATIENCE):
        """Have a function called; return its answer; raises ScriptError."""
        self.tell(function, *arguments)
        return self.answer(timeout)

    def tell(self, function: str, *arguments) -> None:
        """Have a function called without waiting for its answer."""
        try:
            self.process.stdin.write(json.dumps([function, *arguments]) + '\n')
        except BrokenPipeError:
            raise self._error(f'tell {self._module}', 'it has ended') from None

    def answer(self, timeout: float = _PATIENCE):
        """Return the next answer; raises ScriptError."""
        what = f'ask {self._module}'
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        if not ready:
            raise self._error(what, f'no answer in {timeout:g} s')
        line = self.process.stdout.readline()
        if not line:
            raise self._error(what, f'it ended with exit code {self.process.wait()}')
        answer = json.loads(line)
        if 'error' in answer:
            raise self._error(what, answer['error'])
        return answer['answer']

    def output(self) -> str:
        """Return what it wrote to its standard error so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors='replace')

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = _PATIENCE) -> int:
        """End it by SIGTERM; return the exit code; raises ScriptError where it hangs."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f'end {self._module}', f'SIGTERM: still there after {timeout:g} s'
                              ) from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End it by SIGKILL, if it has not ended."""
        if self.process.stdin.closed:
            return
        self.process.kill()
        self.process.wait()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()

    def _error(self, what: str, reason: str) -> ScriptError:
        said = ' / '.join(self.output().splitlines()[-3:]) if not self._output.closed else ''
        return ScriptError(what, f'{reason}; it said {said}' if said else reason)
