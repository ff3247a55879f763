"""Whether the RMW of a profile is installed."""

from __future__ import annotations

import os

from ament_index_python.resources import has_resource
from ipc_bypass.launching.errors import LaunchError
from ipc_bypass.profiles.kinds import KINDS

_DISTRO = 'ROS_DISTRO'


def need_rmw(kind: str) -> None:
    """Raise LaunchError, with the package to install, where the kind's RMW is missing."""
    name = KINDS[kind].RMW
    # What rmw_implementation chooses from is registered there.
    if not has_resource('rmw_typesupport', name):
        distro = os.environ.get(_DISTRO) or f'${_DISTRO}'
        raise LaunchError(f'start a graph on {kind}', f'{name} is not installed',
                          next_step=f"apt-get install ros-{distro}-{name.replace('_', '-')}")
