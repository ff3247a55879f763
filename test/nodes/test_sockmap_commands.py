"""`ipc-bypass proxy add`, `status` and `remove`, which ask a node sockmap_helper."""

import json
import os
import subprocess
import sys

from ipc_bypass.cli.main import main
import pytest
from sockmap_tools import echo, ended, refused, SockmapProcess
from support.streams import connect, echoing
from support.waiting import PATIENCE


def command(node, *words, code=0):
    """Run `ipc-bypass proxy` and return what it prints, or with what words it fails."""
    done = subprocess.run(
        [sys.executable, '-m', 'ipc_bypass.cli.main', 'proxy', *words, '--node', node.name],
        capture_output=True, text=True, timeout=2 * PATIENCE, env={**os.environ, 'COLUMNS': '250'})
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_node(client, ports, tmp_path):
    first, port = next(ports), next(ports)
    with echoing() as backend, SockmapProcess(
            client, tmp_path, forwards=[f'127.0.0.1:{first} -> 127.0.0.1:{backend}'],
            kernel_path='never') as node:
        node.bring_up()
        assert command(node, 'add', f'127.0.0.1:{port}', f'127.0.0.1:{backend}', '--path',
                       'splice', '--max-connections', '5') == 'forward 2\n'
        with connect(port) as sock:
            echo(sock, bytes(100_000))
            shown = json.loads(command(node, 'status', '2', '--json'))
            forward, = shown['forwards']
            assert (forward['id'], forward['max_connections'], forward['splice'],
                    forward['bytes_onward'], forward['bytes_back']) == (2, 5, 1, 100_000, 100_000)
            assert [each['client'] for each in shown['connections']] == [
                f'127.0.0.1:{sock.getsockname()[1]}']
            table = command(node, 'status')
            for words in ('forwards', 'connections', f'127.0.0.1:{first}', f'127.0.0.1:{port}',
                          'splice 1', 'up', 'unknown', 'shortcut_forbidden'):
                assert words in table, table
            line, = command(node, 'add', f'127.0.0.1:{port}', '127.0.0.1:9', code=1).splitlines()
            assert line.startswith(f'ipc-bypass: {node.name} refuses: listen on 127.0.0.1:{port}')
            assert command(node, 'remove', '2', '--close-connections') == 'forward 2 is gone\n'
            assert ended(sock)
        assert refused(port)
        assert node.errors() == []


def test_without_a_node(capsys):
    assert main(['proxy', 'status', '--timeout', '0.5', '--node', '/n7_nobody']) == 1
    line, = capsys.readouterr().err.splitlines()
    assert '/n7_nobody' in line
    assert 'sockmap_helper.launch.py' in line


@pytest.mark.parametrize('words', [
    ('remove', '-1'), ('remove', 'x'), ('status', '4294967296'), ('status', '--connections', '-1'),
    ('add', ':1', '127.0.0.1:9', '--max-connections', '-1'),
    ('add', ':1', '127.0.0.1:9', '--path', 'fast'), ('run',),
    ('run', ':1 -> :2', '--metrics-port', '65536'), ('run', ':1 -> :2', '--kernel-path', 'x')],
    ids=str)
def test_wrong_arguments(capsys, words):
    with pytest.raises(SystemExit, match='2'):
        main(['proxy', *words])
    assert 'error: ' in capsys.readouterr().err
