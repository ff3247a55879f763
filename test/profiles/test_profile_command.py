"""`ipc-bypass profile` and `ipc-bypass run`, with real talkers and listeners."""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from ipc_bypass.bench.containers import Containers
from ipc_bypass.profiles import check as module
from ipc_bypass.profiles import folder
from ipc_bypass.profiles.settings import settings
import pytest

KINDS = ('cyclonedds', 'fastdds', 'zenoh')
#: Of these tests alone on the host.
DOMAIN = 67
ENVIRONMENT = {'ROS_DOMAIN_ID': str(DOMAIN)}


@pytest.mark.parametrize('kind', KINDS)
def test_data_flows_between_containers(kind, tmp_path, command, privileged):
    done = command('profile', kind, '--containers', '--output', tmp_path / 'p', '--check',
                   '--json', env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr + done.stdout
    checked = json.loads(done.stdout)['check']
    assert checked['works']
    assert checked['messages'] >= 20
    assert set(checked['ports']) <= set(settings(DOMAIN).ports)


def test_data_flows_on_this_host(tmp_path, command):
    done = command('profile', 'fastdds', '--output', tmp_path / 'p', '--check', '--address',
                   '127.0.0.1', env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert 'by TCP port' in done.stdout


def test_a_middleware_that_ignores_the_profile_is_told_of(tmp_path):
    written = folder.write('fastdds', settings(DOMAIN), tmp_path)
    # As where another shell script sets it, after the runner.
    written.file.write_text(written.file.read_text().replace('ipc_bypass_tcp</transport_id>\n '
                                                             '         <tr', 'nothing<tr'))
    text = written.file.read_text().replace('is_default_profile="true"', '')
    written.file.write_text(text)
    checked = module.check(written, settings(DOMAIN))
    assert not checked.works
    assert 'ignores the profile' in checked.problem


def test_a_blocked_port_is_told_of(tmp_path, privileged):
    written = folder.write('fastdds', settings(0), tmp_path)
    with Containers() as (here, there):
        # Nothing but TCP is lost: the ends find each other, and no data comes.
        for place in (here, there):
            subprocess.run(place.command('ip', 'rule', 'add', 'pref', '0', 'ipproto', 'tcp',
                                         'blackhole'), check=True)
        checked = module._by_peers(written, settings(0), (here.command, there.command))
    assert not checked.works
    assert 'firewall' in checked.advice


def test_a_discovery_range_that_keeps_them_apart_is_named(monkeypatch):
    assert '--peer' in module._discovery_advice()
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    assert module._discovery_advice().endswith('unset ROS_AUTOMATIC_DISCOVERY_RANGE')


def test_run(tmp_path, command):
    folder.write('fastdds', settings(DOMAIN), tmp_path)
    done = command('run', 'fastdds', '--profile', tmp_path, '--', 'sh', '-c',
                   'echo $IPC_BYPASS_PORT; exit 3')
    assert done.returncode == 3
    assert int(done.stdout) in settings(DOMAIN).ports
    answer = json.loads(command('run', 'fastdds', '--profile', tmp_path, '--json', '--',
                                'ls').stdout)
    assert answer['command'] == ['ls']
    assert int(answer['environment']['IPC_BYPASS_PORT']) in settings(DOMAIN).ports


@pytest.fixture
def place_of_nobody():
    """Return a folder of another user's, also where the tests' own is private."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 65534, 65534)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root, to become another user')
def test_run_makes_the_usual_profile(place_of_nobody):
    done = subprocess.run(
        ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', sys.executable, '-m',
         'ipc_bypass.cli.main', 'run', 'zenoh', '--', 'sh', '-c', 'cat $ZENOH_CONFIG'],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, 'XDG_CONFIG_HOME': str(place_of_nobody / 'config'),
             'XDG_RUNTIME_DIR': str(place_of_nobody), 'ROS_DOMAIN_ID': '3'})
    assert done.returncode == 0, done.stderr
    assert f'tcp/0.0.0.0:{settings(3).ports[0]}' in done.stdout
    assert (place_of_nobody / 'config/ipc_bypass/profiles/zenoh-3/zenoh.json5').is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root, to become another user')
def test_run_without_a_place_for_a_profile():
    done = subprocess.run(
        ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', sys.executable, '-m',
         'ipc_bypass.cli.main', 'run', 'fastdds', '--', 'echo', 'ran'],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, 'XDG_CONFIG_HOME': '/proc/1/root/nowhere'})
    assert done.stdout == 'ran\n'
    assert 'running without the profile' in done.stderr


def test_errors_are_one_line(command, tmp_path):
    for words in (('profile', 'fastdds', '--ports', 'x'), ('profile', 'zenoh', '--peer', '<'),
                  ('profile', 'cyclonedds', '--domain', '999'),
                  ('profile', 'fastdds', '--output', '/proc/nowhere')):
        done = command(*words)
        assert done.returncode == 1
        assert done.stderr.startswith('ipc-bypass: ')
        assert done.stderr.count('\n') == 1


def test_print_and_env(command, tmp_path):
    assert '<CycloneDDS' in command('profile', 'cyclonedds', '--print').stdout
    done = command('profile', 'zenoh', '--output', tmp_path, '--env')
    assert f'export ZENOH_CONFIG={tmp_path}/zenoh.json5' in done.stdout
