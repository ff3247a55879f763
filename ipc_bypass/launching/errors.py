"""The error of a launch file that cannot start what it was asked for."""

from ipc_bypass.kernel.errors import BypassError


class LaunchError(BypassError):
    """A graph cannot be started as asked; nothing of it was."""
