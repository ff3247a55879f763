"""Processes of the tests: a TCP path of its own, and the two ends of a stream."""

import json
import os
from pathlib import Path
import select
import subprocess
import sys

import ipc_bypass
from ipc_bypass.kernel.errors import UnsupportedError

from support.waiting import PATIENCE

_HERE = Path(__file__).resolve().parent
_ROOT = Path(ipc_bypass.__file__).resolve().parents[1]


class Script:
    """A script of this folder that answers each line of JSON with a line of JSON."""

    def __init__(self, name, *arguments, prefix=()):
        """Start it; `prefix` are words before the command, as of Namespace.command."""
        paths = filter(None, [str(_HERE.parent), str(_ROOT), os.environ.get('PYTHONPATH')])
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(_HERE / name), *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)})

    def ask(self, name, *arguments):
        """Call a function of the script; return its answer."""
        self.tell(name, *arguments)
        return self.answer()

    def tell(self, name, *arguments):
        """Call a function of the script without waiting for its answer."""
        self.process.stdin.write(json.dumps([name, *arguments]) + '\n')

    def answer(self, timeout=PATIENCE):
        """Return the next answer; raises AssertionError where the process died or is late."""
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        assert ready, f'{self.process.args[-1]}: no answer in {timeout:g} s'
        line = self.process.stdout.readline()
        assert line, f'a process ended with exit code {self.process.wait()}'
        answer = json.loads(line)
        if 'error' in answer:
            kind, _, text = answer['error'].partition(': ')
            if kind == UnsupportedError.__name__:  # what the kernel has not is no fault
                raise UnsupportedError(text)
            raise AssertionError(answer['error'])
        return answer['answer']

    def kill(self):
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End it, if it has not ended."""
        if self.process.returncode is None:
            self.kill()


class PathProcess(Script):
    """A TcpPath in a process of its own, as a node has it."""

    def __init__(self, ranges, **settings):
        """Start it, configured and active, with rules as support.steering.rules makes them."""
        super().__init__('path_process.py', json.dumps(ranges), json.dumps(settings))
        self.ranges, self.settings = ranges, settings
        self.objects = self.answer()


class StreamProcess(Script):
    """One end of a connection that sends and reads without pause until it is told to stop."""

    def __init__(self, role, address, port, seed, *, prefix=()):
        """Start it; `role` is 'server' or 'client'. A server is listening on return."""
        super().__init__('stream_process.py', role, address, str(port), str(seed), prefix=prefix)
        self.answer()

    def finish(self):
        """Stop sending, and wait; return {'sent', 'received'}: [bytes, hash]."""
        self.tell('stop')
        return self.answer()


def serve(functions):
    """Answer the lines of standard input by these functions (the script's side)."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        reply(functions[name], *arguments)


def reply(function, *arguments):
    """Write what a function answers, or its error, as a line."""
    try:
        answer = {'answer': function(*arguments)}
    except Exception as error:  # noqa: B902 - the test shows it
        answer = {'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), flush=True)
