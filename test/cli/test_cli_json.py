"""What commands print with --json beside the nodes that they ask or run."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support.streams import echoing
from support.waiting import PATIENCE
from xdp_tools import XdpProcess

COMMAND = (sys.executable, '-m', 'ipc_bypass.cli.main')


@pytest.fixture
def run(command):
    """Return a function that runs a command and returns the object that it prints."""
    def printed(*words):
        code, output, errors = command(*words, '--json')
        assert code == 0, errors
        return json.loads(output)
    return printed


def first_object(process):
    """Return the first object of a command that goes on."""
    return json.loads(process.stdout.readline())


def test_proxy(start_sockmap, ports, run):
    port = next(ports)
    with echoing() as backend:
        node = start_sockmap(kernel_path='never')
        node.bring_up()
        assert run('proxy', 'add', f'127.0.0.1:{port}', f'127.0.0.1:{backend}', '--node',
                   node.name) == {'forward': 1}
        shown = run('proxy', 'status', '--node', node.name)
        assert [each['id'] for each in shown['forwards']] == [1]
        assert run('proxy', 'remove', '1', '--node', node.name) == {'forward': 1}


def test_proxy_run(ports):
    port = next(ports)
    with echoing() as backend, subprocess.Popen(
            [*COMMAND, 'proxy', 'run', '--json', '--kernel-path', 'never',
             f'127.0.0.1:{port} -> 127.0.0.1:{backend}'], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True) as process:
        try:
            shown = first_object(process)
            assert shown['forwards'] == [{'id': 1, 'listen': f'127.0.0.1:{port}',
                                          'backend': f'127.0.0.1:{backend}'}]
            assert shown['ways'] == {'shortcut': False, 'sk_skb': False}
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_xdp_rules(client, tmp_path, privileged, run):
    with XdpProcess(client, tmp_path, None, '', slots=['filter', *7 * ['']]) as node:
        node.bring_up()
        asked = '--node', node.name
        added = run('xdp', 'rules', 'add', 'deny', 'udp', 'dport', '7400', *asked)
        assert added == {'rule': 1}
        assert [rule['id'] for rule in run('xdp', 'rules', 'list', *asked)['rules']] == [1]
        assert run('xdp', 'rules', 'remove', '1', *asked) == {'rule': 1}
        assert run('xdp', 'fast-path', *asked)['enabled'] is False


def test_up(cgroup, tmp_path):
    parameters = ('tcp_path:=loopback', 'udp_path:=loopback', f'cgroup_path:={cgroup}')
    words = [word for parameter in parameters for word in ('-p', parameter)]
    for more, state, code in (((), 'active', 0), (('--no-activate',), 'inactive', 0),
                              (('-p', 'cgroup_path:=/n7_none', '-p', 'tcp_path:=sk_msg'),
                               'failed', 1)):
        with subprocess.Popen([*COMMAND, 'up', *words, *more, '--json', '--ros-args', '-r',
                               f'__ns:=/n7_json_{os.getpid()}'], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert first_object(process) == {
                    'node': f'/n7_json_{os.getpid()}/ipc_bypass', 'state': state}
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == code
            finally:
                process.kill()
