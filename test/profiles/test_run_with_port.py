"""The runner, as a container has it: alone, with Python's standard library."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

from ipc_bypass.bench.containers import Containers
from ipc_bypass.profiles import run_with_port
import pytest

SHOW = ('import os, sys; print(os.environ.get("IPC_BYPASS_PORT"), flush=True); '
        'sys.stdin.readline()')


@pytest.fixture
def runner(written):
    """Return a function that starts a command by the runner, from a profile's own folder."""
    started = []

    def start(*words, kind='fastdds', ports='23960-23963', alone=True, env=None):
        profile = written(kind, ports=ports)
        # -I: neither this tree nor a user's packages are in reach.
        process = subprocess.Popen(
            [sys.executable, *(['-I', '-S'] if alone else []),
             str(profile.folder / 'run_with_port.py'), '--', *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})})
        started.append(process)
        return process
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_each_process_has_its_port(runner):
    found = [runner(sys.executable, '-c', SHOW).stdout.readline().strip() for _ in range(4)]
    assert sorted(found) == ['23960', '23961', '23962', '23963']


def test_a_killed_process_gives_its_port_back(runner):
    first = runner(sys.executable, '-c', SHOW)
    assert first.stdout.readline().strip() == '23960'
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert runner(sys.executable, '-c', SHOW).stdout.readline().strip() == '23960'


def test_a_port_that_somebody_listens_on_is_left(runner):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(('127.0.0.1', 23960))
        other.listen()
        assert runner(sys.executable, '-c', SHOW).stdout.readline().strip() == '23961'


def test_without_a_port_left_the_command_runs(runner):
    for _ in range(2):
        assert runner(sys.executable, '-c', SHOW, ports='23960-23961').stdout.readline().strip()
    process = runner(sys.executable, '-c', SHOW, ports='23960-23961')
    assert process.stdout.readline().strip() == '0'
    assert 'every port from 23960 to 23961 is taken' in process.stderr.readline()


def test_many_at_once_do_not_clash(runner):
    processes = [runner(sys.executable, '-c', SHOW, ports='23940-23963') for _ in range(20)]
    found = [process.stdout.readline().strip() for process in processes]
    assert len(set(found)) == 20
    assert '0' not in found


def test_environment(runner):
    process = runner(sys.executable, '-c', 'import json, os; print(json.dumps(dict(os.environ)))',
                     env={'MALLOC_TRIM_THRESHOLD_': '77'})
    seen = json.loads(process.communicate('')[0])
    assert seen['RMW_IMPLEMENTATION'] == 'rmw_fastrtps_cpp'
    assert os.path.isfile(seen['FASTDDS_DEFAULT_PROFILES_FILE'])
    # What the user chose for the allocator stands.
    assert seen['MALLOC_TRIM_THRESHOLD_'] == '77'


def test_zenoh_gets_a_file_with_its_port(runner, tmp_path):
    process = runner(sys.executable, '-c',
                     'import os; print(open(os.environ["ZENOH_CONFIG"]).read())', kind='zenoh')
    assert json.loads(process.communicate('')[0])['listen']['endpoints'] == [
        'tcp/0.0.0.0:23960']
    folder = tmp_path / 'runtime' / f'ipc_bypass-{os.getuid()}'
    assert [path.name for path in folder.iterdir()] == ['zenoh-23960.json5']


def test_a_folder_of_somebody_else_is_not_used(runner, tmp_path):
    planted = tmp_path / 'runtime' / f'ipc_bypass-{os.getuid()}'
    planted.symlink_to(tmp_path)
    process = runner(sys.executable, '-c', 'import os; print(os.environ.get("ZENOH_CONFIG"))',
                     kind='zenoh')
    out, err = process.communicate('')
    assert out.strip() == 'None'
    assert "not this user's alone" in err
    assert 'running without the profile' in err


@pytest.mark.parametrize('damage', [
    lambda folder: (folder / 'profile.json').unlink(),
    lambda folder: (folder / 'profile.json').write_text('{'),
    lambda folder: (folder / 'profile.json').write_text('[]'),
    lambda folder: (folder / 'profile.json').write_text('{"ports": [1, 99999999]}'),
    lambda folder: (folder / 'fastdds.xml').unlink()])
def test_whatever_is_wrong_the_command_runs(written, damage):
    profile = written('fastdds')
    damage(profile.folder)
    done = subprocess.run(
        [sys.executable, str(profile.folder / 'run_with_port.py'), '--', sys.executable, '-c',
         'import os; print(os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE"))'],
        capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'None'
    assert done.stderr.count('\n') == 1
    assert 'running without the profile' in done.stderr


def test_peers_that_are_not_there_are_left_out(written):
    profile = written('cyclonedds', peers=('no-such-host.invalid', '127.0.0.1', '127.0.0.2'))
    done = subprocess.run(
        [sys.executable, str(profile.folder / 'run_with_port.py'), '--', 'sh', '-c',
         'cat ${CYCLONEDDS_URI#file://}'], capture_output=True, text=True, check=True)
    assert 'no-such-host.invalid' not in done.stdout
    assert '127.0.0.2:7412' in done.stdout
    assert done.stderr.count('\n') == 1
    assert 'peer no-such-host.invalid does not answer: left out' in done.stderr


def test_an_address_that_nobody_has_is_silent(written, privileged):
    profile = written('cyclonedds', peers=('198.18.0.2', '198.18.0.9'))
    with Containers() as (here, _there):
        done = subprocess.run(
            here.command(sys.executable, str(profile.folder / 'run_with_port.py'), '--', 'sh',
                         '-c', 'cat ${CYCLONEDDS_URI#file://}'),
            capture_output=True, text=True, check=True)
    assert '198.18.0.2:7412' in done.stdout
    assert '198.18.0.9' not in done.stdout


def test_a_peer_that_listens_gets_no_connection(written):
    """Cyclone DDS may hang where a connection ends while it starts: there is none."""
    profile = written('cyclonedds', ports='23960-23963', peers=('127.0.0.1',))
    with socket.create_server(('127.0.0.1', 23960)) as listener:
        done = subprocess.run(
            [sys.executable, str(profile.folder / 'run_with_port.py'), '--', 'sh', '-c',
             'cat ${CYCLONEDDS_URI#file://}'], capture_output=True, text=True, check=True)
        assert '127.0.0.1:23960' in done.stdout
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_exit_codes(written, tmp_path):
    runner = str(written('fastdds').folder / 'run_with_port.py')
    (tmp_path / 'plain').write_text('')

    def code(*words):
        return subprocess.run([sys.executable, runner, *words], capture_output=True,
                              check=False).returncode
    assert [code(), code('--', 'sh', '-c', 'exit 7'), code('--', '/no/such/program'),
            code('--', str(tmp_path / 'plain'))] == [2, 7, 127, 126]


def test_a_port_stays_reserved_across_exec(runner):
    process = runner('sh', '-c', 'exec sleep 30')
    deadline = time.monotonic() + 10
    name = '\0ipc_bypass/tcp_port/23960'
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trial:
            try:
                trial.bind(name)
            except OSError:
                break
        time.sleep(0.05)
    with open(f'/proc/{process.pid}/comm') as stream:
        while stream.read().strip() != 'sleep' and time.monotonic() < deadline:
            time.sleep(0.05)
            stream.seek(0)
    assert run_with_port.reserve(range(23960, 23961)) == 0
