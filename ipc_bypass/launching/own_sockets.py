"""Sockets of the launch process itself, which its children must not inherit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import os

_FDS = '/proc/self/fd'
_STANDARD = 2


def kept_from_children(make: Callable[[], object]) -> None:
    """
    Call `make` and have no child inherit the sockets that it opened.

    launch has a DDS participant of its own for lifecycle nodes, and starts its processes with all
    that it has open. Whoever inherits the port where that participant listens keeps it open when
    launch is killed: other processes connect to it, are answered by nobody, and do not end.
    """
    before = _open()
    make()
    for number, what in _open().items():
        # The number alone does not tell: it may have been another file's before.
        if number > _STANDARD and what.startswith('socket:') and before.get(number) != what:
            with suppress(OSError):  # closed meanwhile
                os.set_inheritable(number, False)


def _open() -> dict[int, str]:
    """Return what is open, as 'socket:[inode]' or a path, by its number."""
    found = {}
    for name in os.listdir(_FDS):
        with suppress(OSError):
            found[int(name)] = os.readlink(f'{_FDS}/{name}')
    return found
