"""
Look things up in the kernel's BTF, in a short-lived child.

It is several megabytes, which would stay in this process's memory. A module that wants something
of it asks `from_child(__name__, ...)`, and calls `print_answer()` where it is run as a program.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import subprocess

from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.child import run_module
from ipc_bypass.kernel.errors import BypassError, UnsupportedError

_PATIENCE = 60.0


def from_child(module: str) -> dict:
    """
    Run a module of this package as a program and return what it looked up.

    :raises UnsupportedError: when the kernel offers no BTF or lacks something, or the child fails
    """
    what = "read the kernel's type information"
    try:
        child = run_module(module, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(what, str(error)) from error
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise UnsupportedError(what, child.stderr.strip().rpartition('\n')[2]) from None
    if 'error' in answer:
        raise UnsupportedError(what, answer['error'])
    return answer


def print_answer(look_up: Callable[[Btf], dict]) -> None:
    """Print what a function finds in the running kernel's BTF, or its error, as JSON."""
    try:
        print(json.dumps(look_up(Btf.from_kernel())))
    except BypassError as error:
        print(json.dumps({'error': f'{error.what}: {error.reason}'}))
