"""Whether somebody else could change what is at a path, as of this user."""

from __future__ import annotations

import os
from pathlib import Path
import stat

_OVERFLOW_UID = 65534  # DEFAULT_OVERFLOWUID, linux/highuid.h


def distrust(path: str | os.PathLike) -> str:
    """
    Return in a few words why what is at a path may be somebody else's doing, '' where not.

    Every folder on the way has to belong to root or this user, and to be writable by nobody
    else, or sticky as /tmp is. What is not there yet is judged by the folders above it. Symbolic
    links are followed as the kernel does; one that another user made is a reason.

    :param path: a file or folder; it need not be there
    """
    path = Path(os.path.abspath(path))
    try:
        real = Path(os.path.realpath(path))
    except OSError as error:
        return f'{path}: {error.strerror}'
    for place in dict.fromkeys((*_with_parents(path), *_with_parents(real))):
        try:
            state = os.lstat(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f'{place}: {error.strerror}'
        if state.st_uid not in (0, os.geteuid()) and not _is_unmapped(state.st_uid):
            return f'{place} belongs to user {state.st_uid}'
        if stat.S_ISLNK(state.st_mode):
            continue  # its mode says nothing; where it leads is looked at, too
        if _others_write(state) and not (
                stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX):
            return f'others may write to {place}'
    return ''


def _is_unmapped(uid: int, uid_map: str = '/proc/self/uid_map') -> bool:
    """
    Return whether a user is none of this user namespace, as the host's root in a container.

    The kernel shows all of these as one (kernel.overflowuid, 65534). In the first namespace,
    which maps every number, that is a user like others.
    """
    try:
        with open(uid_map) as stream:
            spans = [tuple(map(int, line.split())) for line in stream]
    except (OSError, ValueError):
        return False
    return uid == _OVERFLOW_UID and not any(
        first <= uid < first + count for first, _outside, count in spans)


def _others_write(state: os.stat_result) -> bool:
    """Return whether a mode lets others write; a group of this user's own is not others."""
    if state.st_mode & 0o002:
        return True
    return bool(state.st_mode & 0o020) and state.st_gid not in (0, os.getegid())


def _with_parents(path: Path) -> list[Path]:
    return [*reversed(path.parents), path]
