"""scripts/xdp_lab: made, shown, used and taken down; twice is no error, others are let be."""

import os
from pathlib import Path
import subprocess

from interface_tools import needs_privilege
import pytest
from support.namespaces import Namespace, PREFIX

pytestmark = needs_privilege

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'xdp_lab'
NAMES = [f'{PREFIX}{os.getpid()}-lab{number}' for number in (1, 2)]


def lab(*arguments, names=NAMES):
    """Run the script and return (exit code, what it printed)."""
    done = subprocess.run([SCRIPT, '-n', ','.join(names), *arguments], capture_output=True,
                          text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def there():
    return [name for name in NAMES if Path('/run/netns', name).exists()]


@pytest.fixture(autouse=True)
def clean():
    """Take the lab down afterwards."""
    yield
    lab('down')
    assert there() == []


def test_up_twice_used_and_down_twice():
    assert lab('status')[0] == 3
    for _ in range(2):
        status, text = lab('up')
        assert status == 0, text
        assert 'veth0' in text and '192.168.1.20/24' in text
    assert lab('status')[0] == 0
    code = ('import socket; s = socket.socket(2, 2); s.settimeout(30); '
            "s.bind(('192.168.1.20', 4242)); s.sendto(b'x', ('192.168.1.20', 4242)); "
            "s.sendto(b'x', ('192.168.1.10', 9)); print(s.recv(9))")
    assert lab('run-in', '2', 'python3', '-c', code) == (0, "b'x'\n")
    assert lab('run-in', NAMES[0], 'sh', '-c', 'exit 7')[0] == 7
    assert lab('run-in', '1', 'ls', '/sys/fs')[1] == \
        subprocess.run(['ls', '/sys/fs'], capture_output=True, text=True).stdout
    for text in ('is down', 'is no lab'):
        status, said = lab('down')
        assert status == 0 and text in said
    assert lab('run-in', '1', 'true')[0] == 1


def test_names_and_sizes():
    assert lab('-i', 'left0,right0', '-a', '10.5.0.1/24,10.5.0.2/24', '-m', '9000', '-c',
               'up')[0] == 0
    shown = lab('run-in', '1', 'ip', '-d', 'address', 'show', 'left0')[1]
    assert 'mtu 9000' in shown and '10.5.0.1/24' in shown
    assert 'tx-checksumming: off' in lab('run-in', '2', 'ethtool', '-k', 'right0')[1]
    status, text = lab('up')
    assert status == 1 and 'with other interfaces: take it down first' in text
    assert lab('-i', 'left0,right0', 'status')[0] == 0


def test_half_made_goes_again():
    status, text = lab('-m', '99999999', 'up')
    assert status == 1 and 'mtu greater than device maximum' in text and there() == []


def test_mended():
    lab('up')
    lab('run-in', '1', 'ip', 'link', 'del', 'veth0')
    assert lab('status')[0] == 1
    assert lab('up')[0] == 0 and lab('status')[0] == 0


def test_another_s_namespace_is_let_be():
    with Namespace() as other:
        for command in ('up', 'down', 'run-in 1 true'):
            status, text = lab(*command.split(), names=[other.name, NAMES[1]])
            assert status == 1 and text.startswith('error: ')
        assert Path('/run/netns', other.name).exists() and there() == []


@pytest.mark.parametrize('arguments, text', [
    (['flub'], "there is no command 'flub'"),
    (['up', 'more'], "up takes nothing more: 'more'"),
    (['-x', 'up'], 'there is no option -x'),
    (['-n'], '-n takes a value'),
    (['-n', 'one', 'up'], "takes two words with a comma between them, not 'one'"),
    (['-n', 'one,one', 'up'], "both are 'one'"),
    (['-i', 'muchtoolonganame,b', 'up'], 'at most 15 letters'),
    (['run-in', '1'], 'run-in takes a namespace and a command'),
], ids=str)
def test_refused(arguments, text):
    status, said = lab(*arguments)
    assert status == 1 and said.startswith('error: ') and text in said and there() == []


def test_help():
    assert lab('-h')[0] == 0 and 'usage:' in lab('-h')[1]
    assert lab()[0] == 2
