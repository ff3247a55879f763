"""A child process that changes something, and puts it back when this process ends, however."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import signal

from ipc_bypass.kernel.errors import BypassError

_DONE = b'done'
_MOST_BYTES = 4096


class Keeper:
    """
    Keeps a change that takes privileges, for a process that is going to drop its own.

    To be made before anything is opened that ends with its last user, as sockets and rings do.

    :param what: what is changed, for errors
    :param change: called in the child; returns what puts it back, a callable
    :raises BypassError: what `change` raised
    """

    def __init__(self, what: str, change: Callable[[], Callable[[], object]]) -> None:
        said, say = os.pipe2(os.O_CLOEXEC)
        held, self._hold = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if not self._pid:
            os.close(said)
            os.close(self._hold)
            _keep(change, say, held)
        os.close(say)
        os.close(held)
        with os.fdopen(said, 'rb') as stream:
            answer = stream.read(_MOST_BYTES)
        if answer != _DONE:
            self.close()
            raise BypassError(what, answer.decode('utf-8', 'replace') or 'the keeper died')

    def close(self) -> None:
        """Have it put back, and wait for that; once more is no error."""
        pid, self._pid = self._pid, 0
        if pid:
            os.close(self._hold)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _keep(change, say, held):
    """Change, say so, wait for the parent's end, put back; does not return."""
    status = 1
    try:
        # The terminal's signals end the parent, and that ends this.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            put_back = change()
        except Exception as error:
            os.write(say, str(error).encode()[:_MOST_BYTES])
        else:
            os.write(say, _DONE)
            os.close(say)
            os.read(held, 1)
            put_back()
            status = 0
    finally:
        os._exit(status)
