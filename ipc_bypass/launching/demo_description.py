"""The launch description of the demo graph: talkers and listeners alone."""

from __future__ import annotations

from ipc_bypass.launching.arguments import Argument, DEMO, DEMO_STREAMS
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ROLES = ('talker', 'listener')
ARGUMENTS = (
    Argument('demo', 'all', 'Streams: camera is 1 MB at 30 Hz, camera_6mb 6.2 MB at 30 Hz, '
             'point_cloud 2.1 MB at 10 Hz, state 96 bytes at 1 kHz.', DEMO),
    Argument('role', 'both', 'Start the talkers, the listeners, or both: each side may be in a '
             'container of its own.', ('both', *ROLES)),
    Argument('namespace', '', 'Namespace of the nodes.'),
)
PARAMS_FILE = DeclareLaunchArgument(
    'params_file',
    default_value=PathJoinSubstitution(
        [FindPackageShare('ipc_bypass'), 'config', 'demo_graph.yaml']),
    description='YAML file with the parameters of the nodes.')


def demo_description() -> LaunchDescription:
    """Return the description: the arguments, and a talker and a listener for each stream."""
    return LaunchDescription([
        *(DeclareLaunchArgument(each.name, default_value=each.default,
                                description=each.description, choices=each.choices or None)
          for each in ARGUMENTS),
        PARAMS_FILE,
        OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Node]:
    demo, role = (context.launch_configurations[name] for name in ('demo', 'role'))
    streams = DEMO_STREAMS if demo == 'all' else (demo,) if demo in DEMO_STREAMS else ()
    # The listeners first: they are there when the talkers begin.
    roles = ROLES[::-1] if role == 'both' else (role,)
    return [_node(each, stream) for each in roles for stream in streams]


def _node(role: str, stream: str) -> Node:
    return Node(
        package='ipc_bypass', executable=f'demo_{role}', name=f'{role}_{stream}',
        namespace=LaunchConfiguration('namespace'), output='screen',
        parameters=[LaunchConfiguration('params_file'), {'stream': stream}])
