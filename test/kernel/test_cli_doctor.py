"""The command `ipc-bypass` and its `doctor`, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time

import ipc_bypass
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(ipc_bypass.__file__)))
COMMAND = [sys.executable, '-m', 'ipc_bypass.cli.main']
PATH = os.pathsep.join(filter(None, [ROOT, os.environ.get('PYTHONPATH')]))


def run(*words, before=(), **environment):
    """Run `ipc-bypass` and return the completed process."""
    return subprocess.run([*before, *COMMAND, *words], text=True, capture_output=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': PATH, **environment})


def test_doctor_prints_a_table_and_says_what_can_work(privileged):
    result = run('doctor', '--no-graph')
    assert result.returncode == 0, result.stderr
    assert 'tcp by sk_msg: can work here' in result.stdout
    assert 'helper msg_redirect_hash in sk_msg' in result.stdout
    assert result.stderr == ''


def test_doctor_json(privileged):
    result = run('doctor', '--json')
    answer = json.loads(result.stdout)
    assert set(answer) == {'rows', 'ok', 'paths', 'graph'}
    assert answer['ok'] is True
    assert answer['paths']['tcp']['sk_msg'] == {'available': True, 'reason': ''}
    assert {'name', 'works', 'errno', 'reason', 'minimum_kernel', 'next_step', 'needed_for'} <= \
        set(answer['rows'][0])
    assert result.returncode == 0


def test_doctor_without_the_capability_says_what_to_do(privileged):
    before = ['setpriv', '--bounding-set', '-bpf,-sys_admin']
    result = run('doctor', '--no-graph', before=before)
    assert result.returncode == 1
    assert 'tcp by sk_msg: cannot work here: bpf(2): needs CAP_BPF' in result.stdout
    result = run('doctor', '--no-graph', '--json', before=before)
    assert json.loads(result.stdout)['ok'] is False
    assert result.returncode == 1


def test_doctor_without_rich(privileged, tmp_path):
    """It must run where packages are still missing."""
    (tmp_path / 'rich.py').write_text('raise ImportError("not installed")\n')
    result = run('doctor', '--no-graph', PYTHONPATH=os.pathsep.join([str(tmp_path), PATH]))
    assert result.returncode == 0, result.stderr
    assert 'works      bpf(2)' in result.stdout


def test_a_reader_that_leaves_is_no_error():
    result = subprocess.run(' '.join([*COMMAND, 'doctor', '--no-graph']) + ' | head -c 1',
                            shell=True, text=True, capture_output=True,
                            env={**os.environ, 'PYTHONPATH': PATH})
    assert result.stderr == ''


@pytest.mark.parametrize('words, code', [((), 2), (('nonsense',), 2), (('--help',), 0),
                                         (('doctor', '--nonsense'), 2), (('doctor', '-h'), 0)])
def test_arguments(words, code):
    result = run(*words)
    assert result.returncode == code
    assert 'Traceback' not in result.stderr
    assert 'usage: ipc-bypass' in result.stdout + result.stderr


def test_an_error_is_one_line_and_the_log_is_there_for_the_asking(tmp_path):
    """A sub-command that fails as ours do, in the place of a real one."""
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys, types\n'
        'status = types.ModuleType("ipc_bypass.cli.status")\n'
        'status.add_arguments = lambda parser: None\n'
        'def run(args):\n'
        '    from ipc_bypass.kernel.errors import VerifierError\n'
        '    raise VerifierError("load", "refused", log="the whole log")\n'
        'status.run = run\n'
        'sys.modules["ipc_bypass.cli.status"] = status\n')
    path = os.pathsep.join([str(tmp_path), PATH])
    result = run('status', PYTHONPATH=path)
    assert (result.returncode, result.stdout, result.stderr) == (
        1, '', 'ipc-bypass: load: refused\n')
    result = run('-v', 'status', PYTHONPATH=path)
    assert result.stderr == 'the whole log\nipc-bypass: load: refused\n'


def test_a_missing_package_is_named(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys, types\n'
        'class Finder:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "ipc_bypass.cli.up":\n'
        '            raise ModuleNotFoundError("No module named rclpy", name="rclpy")\n'
        'sys.meta_path.insert(0, Finder())\n')
    result = run('up', PYTHONPATH=os.pathsep.join([str(tmp_path), PATH]))
    assert result.returncode == 1
    assert result.stderr.startswith('ipc-bypass: run ipc-bypass up: it needs rclpy; source ROS 2')
    assert result.stderr.count('\n') == 1


def test_an_interrupt_is_quiet(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys, time, types\n'
        'status = types.ModuleType("ipc_bypass.cli.status")\n'
        'status.add_arguments = lambda parser: None\n'
        'def run(args):\n'
        '    print("ready", flush=True)\n'
        '    time.sleep(60)\n'
        'status.run = run\n'
        'sys.modules["ipc_bypass.cli.status"] = status\n')
    process = subprocess.Popen(
        [*COMMAND, 'status'], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), PATH])})
    assert process.stdout.readline() == 'ready\n'
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, '')
