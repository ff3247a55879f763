"""The arguments of the launch files of graphs, as `--show-args` tells them."""

from __future__ import annotations

from dataclasses import dataclass
import os

from ipc_bypass.launching.errors import LaunchError

BOOLEANS = ('true', 'false', 'True', 'False')
#: What the demo graph can be made of; the streams are those of nodes.demo_streams.
DEMO_STREAMS = ('camera', 'camera_6mb', 'point_cloud', 'state')
DEMO = ('all', *DEMO_STREAMS, 'none')
#: Nodes that can be started beside /ipc_bypass.
HELPERS = ('xdp_helper', 'sockmap_helper', 'tun_bridge')


@dataclass(frozen=True)
class Argument:
    """A launch argument; `choices` are all of its values, () for any."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


def graph_arguments(kind: str) -> tuple[Argument, ...]:
    """Return the arguments of the launch file of a kind of profile."""
    return (*_graph(), *_profile(kind), *_bypass(), *(_router() if kind == 'zenoh' else ()))


def _graph() -> tuple[Argument, ...]:
    return (
        Argument('graph', '', 'Your launch file: a path, or PACKAGE/FILE, which is looked for in '
                 "the package's share/launch and share. Empty: the demo graph."),
        Argument('graph_arguments', '',
                 "Arguments for your launch file: 'name:=value name2:=value'."),
        Argument('demo', 'all', 'Talkers and listeners of the demo graph, where no graph is '
                 'given: camera is 1 MB at 30 Hz, camera_6mb 6.2 MB at 30 Hz, point_cloud 2.1 MB '
                 'at 10 Hz, state 96 bytes at 1 kHz.', DEMO))


def _profile(kind: str) -> tuple[Argument, ...]:
    found = [
        Argument('domain', '', 'ROS_DOMAIN_ID of all that is started. Empty: the one of the '
                 'environment, else 0.'),
        Argument('ports', '', 'TCP ports of the graph, FIRST-LAST; each process takes one. Empty: '
                 "the domain's own, 7412-7649 for domain 0."),
        Argument('peers', '', 'Hosts or containers that multicast does not reach, by name or '
                 'address, with commas between them.'),
        Argument('address', '', 'IPv4 address of the one interface to use. Empty: the choice of '
                 'the middleware.'),
        Argument('profile_folder', '', f'Where the profile is written. Empty: '
                 f'/etc/ipc_bypass/profiles/{kind} for root, ~/.config/ipc_bypass/profiles/{kind} '
                 'for others, or a temporary folder where that cannot be written.')]
    # Cyclone's shared memory is another program, iceoryx, which a profile cannot bring.
    if kind != 'cyclonedds':
        found.append(Argument('shared_memory', 'false', 'Let processes that share /dev/shm use '
                              'it, in place of TCP.', BOOLEANS))
    return tuple(found)


def _bypass() -> tuple[Argument, ...]:
    found = [
        Argument('bypass', 'true', 'Start /ipc_bypass, which accelerates the TCP ports of the '
                 'profile. false: the graph runs by plain TCP.', BOOLEANS),
        Argument('params_file', '', 'YAML file with the parameters of /ipc_bypass. Empty: the '
                 "profile's rules.yaml, which accelerates its ports."),
        Argument('namespace', '', 'Namespace of /ipc_bypass and the helpers.')]
    for helper in HELPERS:
        found += [
            Argument(helper, 'false', f'Start the node /{helper} too.', BOOLEANS),
            Argument(f'{helper}_params_file', '', f'YAML file with the parameters of /{helper}. '
                     f'Empty: config/{helper}.yaml of ipc_bypass.')]
    return tuple(found)


def _router() -> tuple[Argument, ...]:
    return (Argument('router', 'false', "Start zenoh's router, rmw_zenohd, too: nodes on other "
                     'hosts, and those where multicast is off, meet there.', BOOLEANS),)


def is_true(text: str) -> bool:
    """Return the value of an argument whose choices are BOOLEANS."""
    return text.lower() == 'true'


def domain_id(text: str) -> int:
    """Return the domain that `domain` or the environment gives; raises LaunchError."""
    text = text.strip() or os.environ.get('ROS_DOMAIN_ID', '').strip() or '0'
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"use domain '{text}'", 'it is no number',
                          next_step='give domain:= a ROS_DOMAIN_ID') from None


def peer_names(text: str) -> tuple[str, ...]:
    """Return the peers in 'host1,host2'."""
    return tuple(filter(None, (name.strip() for name in text.split(','))))
