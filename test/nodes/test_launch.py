"""The launch file, with the real launch where there is one."""

import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys

from ipc_bypass.cli.up import params_file
from node_tools import attached, inside, new_name, NodeProcess, write_parameters
import pytest
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / 'launch' / 'ipc_bypass.launch.py'
ARGUMENTS = {'namespace', 'params_file', 'autostart', 'log_level', 'use_respawn'}

needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros is in no registry')

#: Runs the launch file with arguments name:=value, as `ros2 launch` does.
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(argv=[])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[word.split(':=', 1) for word in sys.argv[2:]])]))
sys.exit(service.run())
"""


def test_compiles():
    compile(LAUNCH_FILE.read_text(), str(LAUNCH_FILE), 'exec')


def test_is_installed_with_its_parameters():
    share = params_file().parents[1]
    if share != ROOT:
        assert (share / 'launch' / LAUNCH_FILE.name).is_file()


@needs_launch
def test_arguments():
    from launch.actions import DeclareLaunchArgument
    spec = importlib.util.spec_from_file_location('launch_file', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [entity for entity in module.generate_launch_description().entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == ARGUMENTS
    assert all(argument.description.endswith('.') for argument in arguments)


class Launched(NodeProcess):
    """The launch file as a process; the node is one of its children."""

    def __init__(self, client, folder, cgroup, parameters, **arguments):
        """Start it, in a cgroup, with launch arguments."""
        self.client, self.name = client, new_name()
        self._met = False
        words = {'namespace': self.name.rpartition('/')[0].strip('/'),
                 'params_file': write_parameters(folder, parameters), **arguments}
        self._output = open(Path(folder) / 'launch.log', 'wb')  # noqa: SIM115
        self.process = subprocess.Popen(
            [*inside(cgroup), sys.executable, '-c', RUN, str(LAUNCH_FILE),
             *(f'{name}:={value}' for name, value in words.items())],
            stdout=self._output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def end(self, number=signal.SIGINT):
        """Send a signal, as Ctrl-C, which launch hands on to the node; return the exit code."""
        return super().end(number)

    def node_pid(self):
        """Return the pid of the node, 0 where there is none."""
        children = Path(f'/proc/{self.process.pid}/task').glob('*/children')
        return next((int(pid) for path in children for pid in path.read_text().split()), 0)


@needs_launch
@pytest.mark.parametrize('autostart', ['true', 'false'])
def test_launched(client, cgroup, pin_directory, tmp_path, autostart):
    parameters = {'cgroup_path': str(cgroup), 'pin_directory': pin_directory,
                  'tcp_path': 'sk_msg'}
    with Launched(client, tmp_path, cgroup, parameters, autostart=autostart,
                  log_level='debug') as launched:
        if autostart == 'true':
            client.spin_until(lambda: launched.state() == 'active', 'the node is active')
            assert len(attached(cgroup)) == 1
        else:
            assert launched.state() == 'unconfigured'
        assert launched.parameters()['tcp_path'][0] == 'sk_msg'
        assert launched.end() == 0
        assert attached(cgroup) == []
        assert '[DEBUG]' in launched.output()
        assert 'process has finished cleanly' in launched.output()


@needs_launch
def test_respawned(client, cgroup, pin_directory, tmp_path):
    """A killed node comes back, and is active again."""
    parameters = {'cgroup_path': str(cgroup), 'pin_directory': pin_directory}
    with Launched(client, tmp_path, cgroup, parameters, use_respawn='true') as launched:
        wait_until(lambda: launched.output().count('active: tcp by') == 1, 'the node is active')
        os.kill(launched.node_pid(), signal.SIGKILL)
        wait_until(lambda: launched.output().count('active: tcp by') == 2, 'it is active again')
        assert len(attached(cgroup)) == 1
        assert launched.end() == 0
