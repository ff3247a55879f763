"""Start the node sockmap_helper, which configures and activates itself."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ('namespace', '', 'Namespace of the node.'),
    ('params_file',
     PathJoinSubstitution([FindPackageShare('ipc_bypass'), 'config', 'sockmap_helper.yaml']),
     'YAML file with the parameters of the node.'),
    ('autostart', 'true', 'Configure the node when it starts, and activate it then.'),
    ('log_level', 'info', 'Level of the log: debug, info, warn, error or fatal.'),
    ('use_respawn', 'false', 'Start the node again when its process ends.'),
)


def generate_launch_description():
    """Return the launch description: the arguments and the node, which brings itself up."""
    autostart = ParameterValue(LaunchConfiguration('autostart'), value_type=bool)
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, default, description in ARGUMENTS),
        LifecycleNode(
            package='ipc_bypass',
            executable='sockmap_helper',
            name='sockmap_helper',
            namespace=LaunchConfiguration('namespace'),
            parameters=[LaunchConfiguration('params_file'), {'autostart': autostart}],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            output='screen',
            respawn=LaunchConfiguration('use_respawn'),
            respawn_delay=2.0,
        ),
    ])
