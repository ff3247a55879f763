"""`ipc-bypass up` and `ipc-bypass status`, as processes."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys

from ipc_bypass.cli.up import params_file
from node_tools import attached, inside, NodeProcess, write_parameters
import pytest
from support.processes import Script
from support.waiting import PATIENCE

MAIN = 'ipc_bypass.cli.main'
PROCESS = str(Path(__file__).with_name('connection_process.py'))


def ipc_bypass(*words, **environment):
    """Run the command and return the completed process."""
    return subprocess.run([sys.executable, '-m', MAIN, *words], capture_output=True, text=True,
                          timeout=2 * PATIENCE, env={**os.environ, **environment})


@pytest.fixture
def up(start):
    """Return a function that starts `ipc-bypass up WORDS`; `how` and the rest are start()'s."""
    def started(*words, how=None, **parameters):
        return start(how={'command': (MAIN, 'up'), 'arguments': words, **(how or {})},
                     **parameters)
    return started


def wait_until_said(node, text):
    node.client.spin_until(lambda: text in node.output(), f'the node says {text!r}')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_up(up, cgroup, number):
    node = up()
    wait_until_said(node, 'active: tcp by sk_msg')
    assert node.state() == 'active'
    assert len(attached(cgroup)) == 1
    # The file of the package was read: domain 0.
    assert node.parameters()['domains'][0] == ['0']
    assert node.end(number) == 0
    assert attached(cgroup) == []
    assert node.errors() == []


def test_up_configures_only(up, cgroup):
    node = up('--no-activate')
    wait_until_said(node, 'configured: ')
    assert node.state() == 'inactive'
    assert attached(cgroup) == []
    assert node.change('activate')
    assert node.end() == 0


def test_up_takes_parameters(up, tmp_path):
    file = write_parameters(tmp_path, {'rules': ['tcp:1'], 'guard_rate': 7, 'budget_bytes': 65537})
    node = up('--params-file', str(file), '-p', 'guard_rate:=8', '-p', "rules:=['tcp:2', 'tcp:3']")
    wait_until_said(node, 'active: tcp by sk_msg')
    values = {name: value for name, (value, _) in node.parameters().items()}
    assert (values['rules'], values['guard_rate'], values['budget_bytes'], values['domains']) == (
        ['tcp:2', 'tcp:3'], 8, 65537, [])


def test_up_fails_in_one_line(up, cgroup):
    node = up(cgroup_path='/n7_no_cgroup')
    assert node.process.wait(PATIENCE) == 1
    assert len(node.errors()) == 1
    assert 'configure failed: open cgroup /n7_no_cgroup: ' in node.errors()[0]
    assert attached(cgroup) == []


def test_up_without_its_file(client, tmp_path):
    with NodeProcess(client, tmp_path, {}, command=(MAIN, 'up'),
                     arguments=('--params-file', '/n7_no_file.yaml')) as node:
        assert node.process.wait(PATIENCE) == 1
        assert '/n7_no_file.yaml' in node.output()
        assert 'Traceback' not in node.output()


def test_parameter_file_is_found():
    assert params_file().name == 'ipc_bypass.yaml'


def test_status_without_a_node():
    done = ipc_bypass('status', '--timeout', '0.5', '--node', '/n7_nobody/ipc_bypass')
    assert done.returncode == 1
    assert done.stdout == ''
    line, = done.stderr.splitlines()
    assert '/n7_nobody/ipc_bypass' in line
    assert f"domain {os.environ['ROS_DOMAIN_ID']}" in line
    assert 'ipc-bypass up' in line


def test_status(start, cgroup, ports):
    port = next(ports)
    node = start(rules=[f'tcp:{port}', 'udp:7400'])
    node.bring_up()
    with Script(PROCESS, prefix=inside(cgroup)) as process:
        number = process.ask('connect', port)
        process.ask('send', number, 'client', 1000, 10)
        done = ipc_bypass('status', '--json', '--node', node.name)
        assert done.returncode == 0, done.stderr
        status = json.loads(done.stdout)
        assert (status['node'], status['state_label']) == (node.name, 'active')
        assert status['bytes'] == status['redirected_bytes'] == 10_000
        assert [rule['effective'] for rule in status['rule_list']] == [True, False]
        assert sorted(flow['bytes'] for flow in status['flow_list']) == [0, 10_000]
        assert status['flows_left_out'] == 0
        assert any(path['selected'] for path in status['paths'] if path['name'] == 'sk_msg')

        table = ipc_bypass('status', '--node', node.name).stdout
        for text in (node.name, 'active', 'sk_msg', f'127.0.0.1:{port}', '9.8 KiB', 'udp_path',
                     'redirected_messages'):
            assert text in table, text
    assert node.change('deactivate')
    assert node.change('cleanup')
    status = json.loads(ipc_bypass('status', '--json', '--node', node.name).stdout)
    assert (status['state_label'], status['flow_list'], status['rule_list']) == (
        'unconfigured', None, [])
    assert 'ros2 lifecycle set' in ipc_bypass('status', '--node', node.name).stdout


@pytest.mark.parametrize('as_json', [True, False], ids=['json', 'table'])
def test_status_watch(start, as_json):
    node = start(statistics_period_s=0.1)
    node.bring_up()
    words = ['status', '--watch', '--node', node.name, *(['--json'] if as_json else [])]
    with subprocess.Popen([sys.executable, '-m', MAIN, *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:
        seen = []
        while len(seen) < 3:
            line = process.stdout.readline()
            assert line, seen
            if not as_json:
                seen += [line] if node.name in line else []
                if seen:
                    break
                continue
            seen.append(json.loads(line))
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert 'Traceback' not in rest
    if as_json:
        stamps = [look['header']['stamp'] for look in seen]
        assert sorted(stamps, key=lambda stamp: (stamp['sec'], stamp['nanosec'])) == stamps
