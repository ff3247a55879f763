"""The user's launch file: where it is, and the arguments for it."""

from __future__ import annotations

from pathlib import Path
import shlex

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from ipc_bypass.launching.errors import LaunchError

_FORM = 'give the path of a launch file, or PACKAGE/FILE'


def find(graph: str) -> Path:
    """
    Return the launch file that a path, or PACKAGE/FILE, names.

    FILE is looked for in the package's share folder, in launch/ first. A path that is there comes
    before a package of that name.

    :raises LaunchError: where there is none
    """
    path = Path(graph).expanduser()
    if path.is_file():
        return path.absolute()
    what = f"find the launch file '{graph}'"
    package, slash, name = graph.partition('/')
    if path.is_absolute() or not (package and slash and name) or package in ('.', '..', '~'):
        raise LaunchError(what, 'there is no such file', next_step=_FORM)
    try:
        share = Path(get_package_share_directory(package))
    except (PackageNotFoundError, ValueError):
        raise LaunchError(what, f"there is no such file, and no package '{package}'",
                          next_step=_FORM) from None
    for found in (share / 'launch' / name, share / name):
        if found.is_file():
            return found
    raise LaunchError(what, f'package {package} has no {name} in {share}/launch or {share}',
                      next_step=_FORM)


def split_arguments(text: str) -> list[tuple[str, str]]:
    """
    Return the (name, value) pairs of 'name:=value name2:="two words"'.

    :raises LaunchError: where a word is none
    """
    what = f"read graph_arguments '{text}'"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise LaunchError(what, str(error), next_step="quote each value with '") from None
    pairs = []
    for word in words:
        name, sign, value = word.partition(':=')
        if not (name and sign):
            raise LaunchError(what, f"'{word}' is no argument", next_step='write name:=value')
        pairs.append((name, value))
    return pairs
