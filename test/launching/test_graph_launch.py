"""The launch files of graphs, with the real launch where there is one."""

import importlib.util
import json
import subprocess
import sys

from ament_index_python.resources import has_resource
from ipc_bypass.launching import arguments
from ipc_bypass.profiles.kinds import KINDS
from launch_tools import Launched, ROOT
import pytest
from support.capability import need_capabilities

FILES = sorted((ROOT / 'launch').glob('*_graph.launch.py'))
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros is in no registry')

#: A graph with what comes later, an argument that we have too, and a prefix of its own.
USER_GRAPH = '''
import sys
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument, ExecuteProcess, RegisterEventHandler, TimerAction)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration

TELL = """
import os, stat, sys
sockets = [fd for fd in range(3, 256) if os.path.exists(f'/proc/self/fd/{fd}')
           and stat.S_ISSOCK(os.stat(f'/proc/self/fd/{fd}').st_mode)]
print('TOLD', *sys.argv[1:], os.environ.get('IPC_BYPASS_PORT'), len(sockets),
      os.environ.get('FASTDDS_DEFAULT_PROFILES_FILE'), flush=True)
"""


def tell(*words, **how):
    return ExecuteProcess(cmd=[sys.executable, '-c', TELL, *words], output='screen', **how)


def generate_launch_description():
    first = tell('first', LaunchConfiguration('namespace'), LaunchConfiguration('name'))
    return LaunchDescription([
        DeclareLaunchArgument('namespace', default_value='theirs'),
        DeclareLaunchArgument('name'),
        first,
        tell('own', prefix='env'),
        TimerAction(period=0.5, actions=[tell('timer', LaunchConfiguration('namespace'))]),
        RegisterEventHandler(OnProcessExit(
            target_action=first, on_exit=[tell('exit', LaunchConfiguration('name'))]))])
'''


def told(launched):
    """Return {name: the rest} of what the user's graph told."""
    lines = [line.split('TOLD ')[1].split() for line in launched.output().splitlines()
             if 'TOLD ' in line]
    return {words[0]: words[1:] for words in lines}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_compiles(path):
    compile(path.read_text(), str(path), 'exec')


def test_every_kind_has_one():
    assert {path.name for path in FILES} == {
        'demo_graph.launch.py', *(f'{kind}_graph.launch.py' for kind in KINDS)}


@needs_launch
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_declared_arguments(path):
    from launch.actions import DeclareLaunchArgument
    spec = importlib.util.spec_from_file_location('launch_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {entity.name: entity.description
             for entity in module.generate_launch_description().entities
             if isinstance(entity, DeclareLaunchArgument)}
    kind = path.name.removesuffix('_graph.launch.py')
    names = ({each.name for each in arguments.graph_arguments(kind)} if kind in KINDS
             else {'demo', 'role', 'namespace', 'params_file'})
    assert set(found) == names
    assert all(found.values())


@needs_launch
def test_demo_beside_the_node(tmp_path):
    """The demo graph runs, accelerated; the node is seen with the profile and without."""
    need_capabilities()
    with Launched('fastdds_graph.launch.py', tmp_path, demo='state',
                  profile_folder=tmp_path / 'profile') as launched:
        launched.wait_for('active: tcp by sk_msg')
        launched.wait_for('/s ', 2)
        for prefix in ((), ('python3', str(tmp_path / 'profile' / 'run_with_port.py'), '--')):
            done = subprocess.run(
                [*prefix, sys.executable, '-m', 'ipc_bypass.cli.main', 'status', '--json',
                 '--timeout', '20'], capture_output=True, text=True, timeout=60, check=False)
            assert json.loads(done.stdout)['state_label'] == 'active', done.stderr
        assert launched.end() == 0
        assert 'lost 0, out of order 0' in launched.output()
        assert 'has died' not in launched.output()
        assert launched.left() == []


@needs_launch
def test_a_graph_of_the_user(tmp_path):
    (tmp_path / 'user.launch.py').write_text(USER_GRAPH)
    with Launched('fastdds_graph.launch.py', tmp_path, graph=tmp_path / 'user.launch.py',
                  graph_arguments='name:=given', bypass='false', namespace='ours',
                  ports='29410-29420', profile_folder=tmp_path / 'profile') as launched:
        assert launched.process.wait(60) == 0, launched.output()
        found, profile = told(launched), str(tmp_path / 'profile' / 'fastdds.xml')
    assert set(found) == {'first', 'own', 'timer', 'exit'}
    assert found['first'][:2] == ['theirs', 'given']
    assert found['timer'][0] == 'theirs'
    assert found['exit'][0] == 'given'
    assert all(words[-1] == profile for words in found.values())
    for name in ('first', 'timer', 'exit'):
        port, sockets = map(int, found[name][-3:-1])
        assert port in range(29410, 29421)
        assert sockets == 1  # that which reserves the port
    assert found['own'][-3:-1] == ['0', '0']


@needs_launch
def test_processes_inherit_no_socket_of_launch(tmp_path):
    (tmp_path / 'user.launch.py').write_text(USER_GRAPH)
    with Launched('fastdds_graph.launch.py', tmp_path, graph=tmp_path / 'user.launch.py',
                  graph_arguments='name:=given', profile_folder=tmp_path / 'profile') as launched:
        launched.wait_for('TOLD ', 4)
        assert launched.end() == 0
        assert told(launched)['own'][-2] == '0'
        assert launched.left() == []


@needs_launch
def test_without_privileges_the_graph_runs_by_plain_tcp(tmp_path):
    need_capabilities()
    with Launched('fastdds_graph.launch.py', tmp_path, demo='state',
                  prefix=('setpriv', '--bounding-set=-all', '--inh-caps=-all'),
                  profile_folder=tmp_path / 'profile') as launched:
        launched.wait_for('active: tcp by loopback')
        launched.wait_for('/s ', 2)
        assert launched.end() == 0
        assert launched.output().count('TCP stays on loopback: ') == 1
        assert 'lost 0, out of order 0' in launched.output()


@needs_launch
@pytest.mark.parametrize('given, said', [
    ({'graph': '/nowhere.launch.py'}, "find the launch file '/nowhere.launch.py'"),
    ({'graph_arguments': 'name'}, "read graph_arguments 'name'"),
    ({'params_file': '/nowhere.yaml'}, "read params_file '/nowhere.yaml'"),
    ({'domain': '233'}, 'invalid domain 233'),
    ({'ports': '70000'}, "use ports '70000'"),
    ({'demo': 'lidar'}, 'provided value "lidar" is not valid')])
def test_wrong_arguments_start_nothing(tmp_path, given, said):
    with Launched('fastdds_graph.launch.py', tmp_path, profile_folder=tmp_path / 'profile',
                  **given) as launched:
        assert launched.process.wait(60) == 1
        assert said in launched.output()
        assert 'process started' not in launched.output()
        assert 'Traceback' not in launched.output()


@needs_launch
@pytest.mark.parametrize('kind', KINDS)
def test_an_rmw_that_is_not_installed(tmp_path, kind):
    name = KINDS[kind].RMW
    if has_resource('rmw_typesupport', name):
        return  # test_launch_settings has the refusal
    with Launched(f'{kind}_graph.launch.py', tmp_path) as launched:
        assert launched.process.wait(60) == 1
        assert f'{name} is not installed; apt-get install ros-' in launched.output()
        assert 'process started' not in launched.output()


@needs_launch
def test_a_temporary_profile_is_removed(tmp_path):
    first = ('from pathlib import Path\nfrom ipc_bypass.profiles import folder\n'
             "folder.default_folder = lambda kind: Path('/proc/version', kind)\n"
             f'import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n')
    (tmp_path / 'user.launch.py').write_text(USER_GRAPH)
    with Launched('fastdds_graph.launch.py', tmp_path, first=first, bypass='false',
                  graph=tmp_path / 'user.launch.py', graph_arguments='name:=x') as launched:
        assert launched.process.wait(60) == 0, launched.output()
        assert str(tmp_path / 'ipc_bypass_fastdds_') in told(launched)['first'][-1]
        assert not list(tmp_path.glob('ipc_bypass_fastdds_*'))
