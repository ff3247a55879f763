"""The profiles that a launch file writes: one for the graph, and one for /ipc_bypass itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
import shlex
import tempfile

from ipc_bypass.profiles import folder
from ipc_bypass.profiles.settings import ProfileError, Settings

#: Below the graph's profile: the same, but also for nodes without a profile.
TOOLS_FOLDER = 'with_udp'


@dataclass(frozen=True)
class Profiles:
    """
    What was written.

    :param graph: the profile of the graph's processes
    :param tools_environment: variables of /ipc_bypass and the helpers, {} for those of the shell
    :param temporary: a folder to remove at the end, None where the profile stays
    """

    graph: folder.Written
    tools_environment: dict[str, str]
    temporary: Path | None

    @property
    def prefix(self) -> str:
        """Return what stands before every command of the graph, as a shell reads it."""
        return shlex.join(self.graph.command_prefix)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of processes that have a prefix of their own."""
        return folder.variables(self.graph.kind, str(self.graph.file))

    @property
    def rules(self) -> Path:
        """Return the parameter file of /ipc_bypass that covers the profile's ports."""
        return self.graph.folder / folder.RULES


def write(kind: str, settings: Settings, chosen: str = '') -> Profiles:
    """
    Write the profiles and return them.

    Without a folder of the user's choice they go to the default one, and where that cannot be
    written to, into a temporary one.

    :param chosen: the folder that the user gave, '' for none
    :raises ProfileError: where they cannot be written
    """
    if chosen:
        return _write(kind, settings, Path(chosen).expanduser(), None)
    try:
        return _write(kind, settings, folder.default_folder(kind, settings.domain), None)
    except ProfileError:
        # mkdtemp's folder is this user's alone.
        temporary = Path(tempfile.mkdtemp(prefix=f'ipc_bypass_{kind}_'))
        return _write(kind, settings, temporary, temporary)


def _write(kind: str, settings: Settings, where: Path, temporary: Path | None) -> Profiles:
    written = folder.write(kind, settings, where)
    environment = {}
    if kind == 'fastdds':
        # A node with the profile and one without find each other, and exchange no data. So that
        # `ros2 topic echo /ipc_bypass/statistics` works from any shell, that node does both; its
        # few messages may go twice.
        tools = folder.write(kind, replace(settings, udp_peers=True),
                             written.folder / TOOLS_FOLDER)
        environment = folder.variables(kind, str(tools.file))
    return Profiles(written, environment, temporary)
