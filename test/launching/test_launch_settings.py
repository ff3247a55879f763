"""The arguments of the launch files, the middleware they need, and the profiles they write."""

import os
import socket
import subprocess
import sys

from ipc_bypass.launching import arguments, profile_folders
from ipc_bypass.launching.errors import LaunchError
from ipc_bypass.launching.middleware import need_rmw
from ipc_bypass.launching.own_sockets import kept_from_children
from ipc_bypass.profiles import folder
from ipc_bypass.profiles.kinds import KINDS
from ipc_bypass.profiles.settings import ProfileError, settings
import pytest


@pytest.mark.parametrize('kind', KINDS)
def test_arguments_are_documented(kind):
    found = arguments.graph_arguments(kind)
    assert len({each.name for each in found}) == len(found)
    assert all(each.description.endswith('.') for each in found)
    assert all(not each.choices or each.default in each.choices for each in found)
    assert {'graph', 'graph_arguments', 'domain', 'ports', 'peers', 'address', 'bypass',
            'params_file', 'namespace', 'demo', 'profile_folder', 'xdp_helper', 'sockmap_helper',
            'tun_bridge'} <= {each.name for each in found}


def test_domain(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    assert (arguments.domain_id('3'), arguments.domain_id('')) == (3, 7)
    monkeypatch.delenv('ROS_DOMAIN_ID')
    assert arguments.domain_id(' ') == 0
    with pytest.raises(LaunchError, match="use domain 'x'"):
        arguments.domain_id('x')


def test_peers():
    assert arguments.peer_names('') == ()
    assert arguments.peer_names('robot, 10.0.0.1,') == ('robot', '10.0.0.1')


def test_missing_rmw(tmp_path, monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    with pytest.raises(LaunchError) as caught:
        need_rmw('cyclonedds')
    assert str(caught.value) == (
        'start a graph on cyclonedds: rmw_cyclonedds_cpp is not installed; '
        'apt-get install ros-jazzy-rmw-cyclonedds-cpp')


def test_rmw_that_is_there(tmp_path, monkeypatch):
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'rmw_typesupport'
    index.mkdir(parents=True)
    (index / 'rmw_zenoh_cpp').touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    need_rmw('zenoh')


def test_profiles(tmp_path):
    found = profile_folders.write('fastdds', settings(3), str(tmp_path / 'profile'))
    assert found.temporary is None
    assert found.environment['IPC_BYPASS_PORT'] == '0'
    assert "'tcp:8162-8399:accelerate'" in found.rules.read_text()
    # What /ipc_bypass has must take data by UDP as well, the graph must not.
    tools = found.tools_environment['FASTDDS_DEFAULT_PROFILES_FILE']
    assert tools != found.environment['FASTDDS_DEFAULT_PROFILES_FILE'] == str(found.graph.file)
    with open(tools) as stream:
        assert '<udpv4><address>0.0.0.0' in stream.read()
    assert '<udpv4><address>0.0.0.0' not in found.graph.file.read_text()


@pytest.mark.parametrize('kind', ['cyclonedds', 'zenoh'])
def test_tools_of_others_have_the_environment_of_the_shell(kind, tmp_path):
    assert profile_folders.write(kind, settings(0), str(tmp_path)).tools_environment == {}


def test_prefix_is_read_by_a_shell_as_it_was_meant(tmp_path):
    found = profile_folders.write('fastdds', settings(0), str(tmp_path / 'two words'))
    code = 'import os; print(os.environ["IPC_BYPASS_PORT"])'
    done = subprocess.run(f"{found.prefix} {sys.executable} -c '{code}'", shell=True, text=True,
                          capture_output=True, timeout=30, check=False)
    assert int(done.stdout) in settings(0).ports


def test_a_default_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(folder, 'default_folder', lambda kind, domain: tmp_path / 'file' / kind)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    found = profile_folders.write('fastdds', settings(0))
    assert found.temporary == found.graph.folder
    assert found.temporary.stat().st_mode & 0o077 == 0
    assert found.temporary.parent == tmp_path


def test_a_chosen_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ProfileError, match='write the profile to '):
        profile_folders.write('fastdds', settings(0), str(tmp_path / 'file'))


def test_sockets_that_children_do_not_inherit():
    kept = []

    def make():
        for _ in range(2):
            kept.append(socket.socket())
            os.set_inheritable(kept[-1].fileno(), True)
    before = socket.socket()
    os.set_inheritable(before.fileno(), True)
    kept_from_children(make)
    assert [os.get_inheritable(each.fileno()) for each in kept] == [False, False]
    assert os.get_inheritable(before.fileno())
    for each in (before, *kept):
        each.close()
