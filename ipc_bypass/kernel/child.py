"""Work in a short-lived Python process, for what would stay in this one's memory."""

from pathlib import Path
import subprocess
import sys

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
# The environment is left alone: another thread may be changing it.
_PROGRAM = ('import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); '
            'name = sys.argv.pop(1); runpy.run_module(name, run_name="__main__")')


def run_module(name, *arguments, timeout, started=lambda child: None):
    """
    Run a module of this package as a program and return the CompletedProcess, with text.

    It is found where this package was found, however that was. `started(child)` gets the
    subprocess.Popen, which another thread may kill. Raises subprocess.TimeoutExpired after
    `timeout` seconds, and OSError.
    """
    command = [sys.executable, '-c', _PROGRAM, str(_PACKAGE_FOLDER), name, *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as child:
        try:
            started(child)
            out, err = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            raise
        return subprocess.CompletedProcess(command, child.returncode, out, err)
