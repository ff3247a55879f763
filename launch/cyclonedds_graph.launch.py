"""Start a graph on Cyclone DDS with its profile, and /ipc_bypass, which shortens its way."""

from ipc_bypass.launching.description import graph_description


def generate_launch_description():
    """Return the launch description: the arguments, /ipc_bypass, the helpers and the graph."""
    return graph_description('cyclonedds')
