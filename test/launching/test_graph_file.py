"""Which launch file is meant, and with which arguments."""

from ipc_bypass.launching.errors import LaunchError
from ipc_bypass.launching.graph_file import find, split_arguments
import pytest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the share folder of a package `robot`, which ament finds."""
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'robot').touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    share = tmp_path / 'share' / 'robot'
    (share / 'launch').mkdir(parents=True)
    return share


def test_a_path(tmp_path, monkeypatch):
    (tmp_path / 'a.launch.py').touch()
    assert find(str(tmp_path / 'a.launch.py')) == tmp_path / 'a.launch.py'
    monkeypatch.chdir(tmp_path)
    assert find('a.launch.py') == tmp_path / 'a.launch.py'


@pytest.mark.parametrize('name, where', [
    ('up.launch.py', 'launch/up.launch.py'), ('up.launch.py', 'up.launch.py'),
    ('launch/up.launch.py', 'launch/up.launch.py'), ('more/up.xml', 'launch/more/up.xml')])
def test_a_package_and_a_file(package, name, where):
    (package / where).parent.mkdir(exist_ok=True)
    (package / where).touch()
    assert find(f'robot/{name}') == package / where


def test_launch_comes_first(package):
    for where in ('launch/up.py', 'up.py'):
        (package / where).touch()
    assert find('robot/up.py') == package / 'launch' / 'up.py'


def test_a_path_comes_before_a_package(package, tmp_path, monkeypatch):
    (package / 'up.py').touch()
    (tmp_path / 'robot').mkdir()
    (tmp_path / 'robot' / 'up.py').touch()
    monkeypatch.chdir(tmp_path)
    assert find('robot/up.py') == tmp_path / 'robot' / 'up.py'


@pytest.mark.parametrize('graph, reason', [
    ('/nowhere/a.py', 'there is no such file'), ('a.py', 'there is no such file'),
    ('./a.py', 'there is no such file'), ('robot/', 'there is no such file'),
    ('nobody/a.py', "no package 'nobody'"), ('robot/a.py', 'package robot has no a.py in ')])
def test_not_found(package, graph, reason):
    with pytest.raises(LaunchError) as caught:
        find(graph)
    assert reason in str(caught.value)
    assert f"'{graph}'" in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text, pairs', [
    ('', []), ('a:=1', [('a', '1')]), ('a:=1  b:=', [('a', '1'), ('b', '')]),
    ("a:='two words' b:=x:=y", [('a', 'two words'), ('b', 'x:=y')])])
def test_arguments(text, pairs):
    assert split_arguments(text) == pairs


@pytest.mark.parametrize('text', ['a', 'a=1', ':=1', "a:='open"])
def test_no_arguments(text):
    with pytest.raises(LaunchError, match='read graph_arguments'):
        split_arguments(text)
