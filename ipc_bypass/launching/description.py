"""The launch description of a graph with a profile, and of the nodes beside it."""

from __future__ import annotations

from pathlib import Path
import shutil

from ipc_bypass.launching import arguments, graph_file, profile_folders
from ipc_bypass.launching.errors import LaunchError
from ipc_bypass.launching.middleware import need_rmw
from ipc_bypass.launching.own_sockets import kept_from_children
from ipc_bypass.profiles.settings import buffer_advice, Settings, settings
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    SetLaunchConfiguration,
    UnsetLaunchConfiguration,
)
from launch.event_handlers import OnProcessStart, OnShutdown
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node

_PREFIX, _FILTER = 'launch-prefix', 'launch-prefix-filter'
_NODE = 'ipc_bypass'


def declared(found: tuple[arguments.Argument, ...]) -> list[DeclareLaunchArgument]:
    """Return the actions that declare arguments."""
    return [DeclareLaunchArgument(each.name, default_value=each.default,
                                  description=each.description, choices=each.choices or None)
            for each in found]


def graph_description(kind: str) -> LaunchDescription:
    """
    Return the description of a launch file: its arguments, and what they lead to.

    Everything is checked before anything is started: a wrong argument ends the launch with one
    line.

    :param kind: of profiles.kinds.KINDS
    """
    return LaunchDescription([*declared(arguments.graph_arguments(kind)),
                              OpaqueFunction(function=_actions, args=[kind])])


def _actions(context: LaunchContext, kind: str) -> list[LaunchDescriptionEntity]:
    """Return the actions of a launch; raises LaunchError, ProfileError and RuleError."""
    given = {each.name: context.launch_configurations[each.name]
             for each in arguments.graph_arguments(kind)}
    need_rmw(kind)
    _need_files(given)
    here = Path(context.locals.current_launch_file_directory)
    graph = _graph(given, here)
    domain = arguments.domain_id(given['domain'])
    wanted = settings(
        domain, ports=given['ports'], peers=arguments.peer_names(given['peers']),
        address=given['address'],
        shared_memory=arguments.is_true(given.get('shared_memory', 'false')))
    profiles = profile_folders.write(kind, wanted, given['profile_folder'])
    return [
        *_removal(profiles.temporary),
        SetEnvironmentVariable('ROS_DOMAIN_ID', str(domain)),
        LogInfo(msg=_summary(kind, wanted, profiles)),
        *_advice(wanted),
        _tools(given, here, profiles),
        # Not in a group: what a graph starts later, by a timer or when a process ends, would be
        # outside of it, and could not read the arguments of its own launch file either.
        *(UnsetLaunchConfiguration(name) for name in given),
        *_profiled(context, profiles),
        *graph]


def _need_files(given: dict[str, str]) -> None:
    """Raise LaunchError for a parameter file that is not there: launch would only warn."""
    for name in ('params_file', *(f'{helper}_params_file' for helper in arguments.HELPERS)):
        if given[name] and not Path(given[name]).is_file():
            raise LaunchError(f"read {name} '{given[name]}'", 'there is no such file')


def _graph(given: dict[str, str], here: Path) -> list[LaunchDescriptionEntity]:
    """Return the user's launch file, or the demo graph, or nothing; raises LaunchError."""
    if given['graph']:
        return [IncludeLaunchDescription(
            AnyLaunchDescriptionSource(str(graph_file.find(given['graph']))),
            launch_arguments=graph_file.split_arguments(given['graph_arguments']))]
    graph_file.split_arguments(given['graph_arguments'])
    if given['demo'] == 'none':
        return []
    return [_included(here / 'demo_graph.launch.py', demo=given['demo'])]


def _profiled(context: LaunchContext,
              profiles: profile_folders.Profiles) -> list[LaunchDescriptionEntity]:
    """Return what has every process that is started from here on use the profile."""
    actions = [SetEnvironmentVariable(name, value)
               for name, value in profiles.environment.items()]
    prefix = context.launch_configurations.get(_PREFIX, '')
    if prefix and context.launch_configurations.get(_FILTER, ''):
        # One filter is for the whole prefix, and it is the user's: gdb for one node, say.
        return [*actions, LogInfo(msg=(
            f'{_FILTER} is given: the nodes have the profile, but no port of its range, so that '
            'they talk by plain TCP'))]
    words = len(profiles.graph.command_prefix)
    return [*actions, SetLaunchConfiguration(_PREFIX, f'{profiles.prefix} {prefix}'.strip()),
            RegisterEventHandler(OnProcessStart(
                on_start=lambda event, _context: _named(event, profiles, words)))]


def _named(event, profiles: profile_folders.Profiles, words: int) -> list[LogInfo]:
    """Return what tells a process's name: launch names it by the first word of its prefix."""
    command = tuple(event.cmd)
    if command[:words] != profiles.graph.command_prefix:
        return []
    return [LogInfo(msg=f'{event.process_name} is {Path(command[words]).name}')]


def _tools(given: dict[str, str], here: Path,
           profiles: profile_folders.Profiles) -> LaunchDescriptionEntity:
    """Return /ipc_bypass, the helpers and the router, in an environment of their own."""
    actions = [SetEnvironmentVariable(name, value)
               for name, value in profiles.tools_environment.items()]
    wanted = ('bypass', *arguments.HELPERS)
    if any(arguments.is_true(given[name]) for name in wanted):
        # launch makes its own node for the first of them, and would do so without this care.
        actions.append(OpaqueFunction(
            function=lambda context: kept_from_children(lambda: get_ros_node(context))))
    if arguments.is_true(given['bypass']):
        actions.append(_tool(_NODE, given, here, given['params_file'] or str(profiles.rules)))
    actions += [_tool(helper, given, here, given[f'{helper}_params_file'])
                for helper in arguments.HELPERS if arguments.is_true(given[helper])]
    if arguments.is_true(given.get('router', 'false')):
        actions.append(Node(package='rmw_zenoh_cpp', executable='rmw_zenohd', output='screen'))
    return GroupAction(actions)


def _tool(name: str, given: dict[str, str], here: Path,
          params_file: str) -> LaunchDescriptionEntity:
    """Return one of our nodes by its launch file, which must not see our arguments."""
    values = {'namespace': given['namespace']}
    if params_file:
        values['params_file'] = params_file
    return GroupAction([*(UnsetLaunchConfiguration(each) for each in given),
                        _included(here / f'{name}.launch.py', **values)])


def _included(path: Path, **values: str) -> IncludeLaunchDescription:
    return IncludeLaunchDescription(AnyLaunchDescriptionSource(str(path)),
                                    launch_arguments=list(values.items()))


def _removal(temporary: Path | None) -> list[LaunchDescriptionEntity]:
    """Return the action that removes a temporary folder when the launch ends."""
    if temporary is None:
        return []
    return [RegisterEventHandler(OnShutdown(
        on_shutdown=lambda *_: shutil.rmtree(temporary, ignore_errors=True)))]


def _summary(kind: str, wanted: Settings, profiles: profile_folders.Profiles) -> str:
    ports = wanted.ports
    return (f'{kind} profile in {profiles.graph.folder}: domain {wanted.domain}, TCP ports '
            f'{ports[0]} to {ports[-1]}')


def _advice(wanted: Settings) -> list[LaunchDescriptionEntity]:
    command = buffer_advice(wanted)
    return [LogInfo(msg=f'the socket buffers of this host are small: {command}')] if command \
        else []
