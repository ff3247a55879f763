"""Start talkers and listeners as a robot has them: cameras, a point cloud and joint states."""

from ipc_bypass.launching.demo_description import demo_description


def generate_launch_description():
    """Return the launch description: the arguments, and two nodes for each stream."""
    return demo_description()
