"""The systemd units: that systemd takes them, and that what they run works as they allow it."""

import contextlib
import os
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

from ipc_bypass.cli.notify import notify
from ipc_bypass_interfaces.msg import FlowArray
from node_tools import attached, inside, new_name, write_parameters
import pytest
from support.namespaces import Namespace
from support.streams import read_exactly
from support.waiting import PATIENCE, wait_until
from support.xdp import veth_lab
from unit_tools import (
    FOLDER,
    GROUP,
    Home,
    limited,
    Traced,
    Unit,
    UNITS,
    USER,
    verify,
    with_pins,
    with_tun,
)

#: What the kernel calls the processes of these tests.
COMM = Path(sys.executable).name[:15]
FORBIDDEN = {'CAP_SYS_MODULE', 'CAP_SYS_RAWIO', 'CAP_SYS_BOOT', 'CAP_SETUID', 'CAP_SETGID',
             'CAP_DAC_OVERRIDE', 'CAP_SYS_PTRACE'}
CONNECTION = """
import socket, sys
port, role = int(sys.argv[1]), sys.argv[2]
if role == 'server':
    listener = socket.create_server(('127.0.0.1', port))
    print('ready', flush=True)
    end, _ = listener.accept()
else:
    end = socket.create_connection(('127.0.0.1', port))
print('connected', flush=True)
for line in sys.stdin:
    if role == 'client':
        end.sendall(bytes(100_000))
    left = 100_000
    while left:
        left -= len(end.recv(left))
    if role == 'server':
        end.sendall(bytes(100_000))
    print('done', flush=True)
"""


@pytest.fixture(scope='module')
def home():
    """Yield a Home, whose cache spares all but the first one what they share."""
    made = Home()
    yield made
    made.close()


@pytest.fixture
def traced(tmp_path):
    """Return a Traced."""
    return Traced(tmp_path)


@pytest.fixture
def pins(pin_directory):
    """Yield the name of a folder for pins, which is removed after the test."""
    yield pin_directory
    shutil.rmtree(pin_directory, ignore_errors=True)


@contextlib.contextmanager
def running(command, home, folder, **environment):
    """Yield (process, its output so far) of a service."""
    log = Path(folder) / 'service.log'
    with open(log, 'w') as stream, subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=home.environment(**environment)) as process:
        try:
            yield process, log.read_text
        finally:
            process.kill()


def said(output, text, process):
    """Wait until a service says something."""
    def there():
        assert process.poll() is None, output()
        return text in output()
    try:
        wait_until(there, f'the service says {text!r}')
    except AssertionError as error:
        raise AssertionError(f'{error}:\n{output()}') from None


@pytest.mark.parametrize('path', UNITS, ids=lambda path: path.name)
def test_unit(path, tmp_path):
    """The user is not root, nothing dangerous is granted, and systemd reads all of it."""
    unit = Unit(path)
    assert unit['User'] == unit['Group'] == 'ipc-bypass'
    assert unit['Restart'] == 'on-failure'
    assert unit['EnvironmentFile'] == '/etc/ipc_bypass/environment'
    assert unit['AmbientCapabilities'] == unit['CapabilityBoundingSet']
    assert not FORBIDDEN & set(unit.capabilities)
    assert unit['NoNewPrivileges'] == 'yes' and unit['ProtectSystem'] == 'strict'
    if any(folder.startswith('/sys/fs/bpf') for folder in unit.settings.get(
            'TemporaryFileSystem', ())):
        # It mounts /sys/fs/bpf as well, read-only, and of two mounts the stricter one wins.
        assert unit['ProtectKernelTunables'] != 'yes'
        assert unit['ReadOnlyPaths'].split()[0] == '/sys'
    changed = unit.text.replace('/usr/local/lib/ipc_bypass/', f'{FOLDER}/').replace(
        '=ipc-bypass\n', '=daemon\n')
    for other in UNITS:
        copied = other.read_text().replace('/usr/local/lib/ipc_bypass/', f'{FOLDER}/')
        (tmp_path / other.name).write_text(copied.replace('=ipc-bypass\n', '=daemon\n'))
    (tmp_path / path.name).write_text(changed)
    assert shutil.which('systemd-analyze'), 'apt-get install systemd'
    assert verify(tmp_path / path.name) == (0, '')


def test_environment_has_every_variable():
    text = (FOLDER / 'environment').read_text()
    for path in UNITS:
        for name in re.findall(r'\$(IPC_BYPASS_\w+)', path.read_text()):
            assert re.search(f'^{name}=', text, re.MULTILINE), name


def ended(process, traced, unit):
    """End a service, which did nothing that its unit does not allow."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    traced.check(unit, process.pid)


def test_node_as_its_user(client, cgroup, home, pins, ports, tmp_path, traced):
    """
    The node's ExecStart with the unit's user, capabilities, system calls, and view of /sys.

    It becomes active, tells systemd, redirects between a process of root and one of its user,
    says in one line what it lacks, and leaves nothing.
    """
    unit, port, name = Unit(FOLDER / 'ipc-bypass.service'), next(ports), new_name()
    cgroup.chmod(0o755)  # as the root of the hierarchy is
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(home.path / 'notify'))
    listener.settimeout(PATIENCE)
    (home.path / 'notify').chmod(0o777)
    parameters = write_parameters(home.path, {
        'rules': [f'tcp:{port}'], 'cgroup_path': str(cgroup), 'pin_directory': pins,
        'control_socket': str(home.path / 'run' / 'pool.sock'), 'statistics_period_s': 0.3})
    command = [*inside(cgroup), *with_pins(pins, home), *traced.words,
               *limited(unit.capabilities),
               *unit.command(IPC_BYPASS_OPTIONS=['--params-file', str(parameters)]),
               '--ros-args', '-r', f"__ns:={name.rpartition('/')[0]}"]
    with running(command, home, tmp_path, NOTIFY_SOCKET=str(home.path / 'notify')) as (
            process, output):
        said(output, 'active: tcp by sk_msg', process)
        assert listener.recv(100) == b'READY=1'
        listener.close()
        status = Path(f'/proc/{process.pid}/status').read_text()
        assert re.search(r'^Uid:\s+65534\s', status, re.MULTILINE)
        assert len(attached(cgroup)) == 1
        with Ends(cgroup, port) as ends:
            ends.exchange(20)
            flows = client.listen(FlowArray, f'{name}/flows', 1)

            def shown():
                found = flows[-1].flows if flows else []
                return found if len(found) == 2 and all(each.bytes for each in found) else None
            found = client.spin_until(shown, 'both flows are shown')
            assert all(each.path == 'sk_msg' and each.redirected_bytes for each in found), found
            assert {each.local_comm for each in found} == {COMM}
        for line in output().splitlines():
            assert 'Traceback' not in line
            # What the user lacks is a reason in one line, and no fault to be reported.
            assert not line.startswith('[ERROR]') and 'report this' not in line, line
        ended(process, traced, unit)
    assert attached(cgroup) == []


class Ends:
    """A connection between a process of root and one of USER, both in a cgroup."""

    def __init__(self, cgroup, port):
        """Open it."""
        self._processes = []
        for role, prefix, first in (('server', (), 'ready'),
                                    ('client', limited(()), 'connected')):
            process = subprocess.Popen(
                [*inside(cgroup), *prefix, sys.executable, '-c', CONNECTION, str(port), role],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            self._processes.append(process)
            assert process.stdout.readline() == f'{first}\n'
        assert self._processes[0].stdout.readline() == 'connected\n'

    def exchange(self, times):
        """Send 100,000 bytes there and back."""
        for _ in range(times):
            for process in self._processes:
                process.stdin.write('go\n')
            for process in self._processes:
                assert process.stdout.readline() == 'done\n'

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Close it."""
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def test_proxy_as_its_user(home, ports, tmp_path, traced, forward):
    """sockmap_helper binds a port below 1,024 and forwards, with the unit's capabilities."""
    _, text = forward
    unit, port = Unit(FOLDER / 'ipc-bypass-sockmap.service'), 889
    parameters = write_parameters(home.path, {
        'forwards': [text.replace(text.split(' ')[0], f'127.0.0.1:{port}')]})
    name = new_name().rpartition('/')[0]
    command = [*traced.words, *limited(unit.capabilities), *unit.command(
        IPC_BYPASS_SOCKMAP_OPTIONS=['--params-file', str(parameters), '-r', f'__ns:={name}'])]
    with running(command, home, tmp_path) as (process, output):
        said(output, 'active: ', process)
        assert 'short cut: yes' in output(), output()
        with socket.create_connection(('127.0.0.1', port)) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(bytes(1000))
            assert read_exactly(sock, 1000) == bytes(1000)
        ended(process, traced, unit)


def test_xdp_as_its_user(home, pins, privileged, tmp_path, traced):
    """xdp_helper attaches in native mode and loads its slots, in another network namespace."""
    unit = Unit(FOLDER / 'ipc-bypass-xdp.service')
    parameters = write_parameters(home.path, {
        'interfaces': ['near0'], 'slots': ['filter', *7 * ['']], 'pin_directory': pins})
    with veth_lab() as (near, _far):
        command = ['nsenter', f'--net=/run/netns/{near.name}', *with_pins(pins, home),
                   *traced.words, *limited(unit.capabilities), *unit.command(
                       IPC_BYPASS_XDP_OPTIONS=['--params-file', str(parameters)])]
        with running(command, home, tmp_path) as (process, output):
            said(output, 'active: ', process)
            assert 'near0 in native mode' in output(), output()
            assert 'failed' not in output() and 'report this' not in output()
            assert os.listdir(pins)
            ended(process, traced, unit)


def test_bridge_as_its_user(home, privileged, tmp_path, traced):
    """tun_bridge makes its device in another network namespace; here is no pool to activate by."""
    unit = Unit(FOLDER / 'ipc-bypass-tun.service')
    with Namespace('f') as far:
        parameters = write_parameters(home.path, {
            'prefixes': ['10.214.0.0/24'], 'addresses': ['10.214.0.2/24'], 'namespace': far.name,
            'local_device': '', 'control_socket': str(home.path / 'none.sock')})
        command = [*with_tun(home), *traced.words, *limited(unit.capabilities), *unit.command(
            IPC_BYPASS_TUN_OPTIONS=['--params-file', str(parameters)])]
        with running(command, home, tmp_path) as (process, output):
            said(output, 'configured: ', process)
            said(output, 'activate failed: ', process)
            assert 'Traceback' not in output() and 'CAP_' not in output()
            shown = subprocess.run(['ip', '-n', far.name, 'link', 'show', 'type', 'tun'],
                                   capture_output=True, text=True).stdout
            assert shown
            ended(process, traced, unit)


def test_exporter_as_its_user(home, privileged, ros_logs, tmp_path, traced):
    """It answers, and nothing of it wants memory that is written to and run."""
    unit = Unit(FOLDER / 'ipc-bypass-export.service')
    command = [*traced.words, *limited(unit.capabilities), *unit.command(
        IPC_BYPASS_EXPORT_OPTIONS=['--port', '0'])]
    with running(command, home, tmp_path) as (process, output):
        said(output, '/metrics', process)
        address = re.search('http://.*/metrics', output()).group()
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert b'\nipc_bypass_up ' in answer.read()
        ended(process, traced, unit)


@pytest.mark.parametrize(('setup', 'words', 'says'), [
    ('/no/such/setup.bash', ['ipc-bypass', 'doctor'], 'source /no/such/setup.bash'),
    (None, ['no_such_node'], 'find no_such_node'),
    (None, [], 'no command')])
def test_launcher_refuses_in_one_line(home, setup, words, says):
    environment = home.environment(**({'IPC_BYPASS_SETUP': setup} if setup else {}))
    done = subprocess.run([str(FOLDER / 'ipc-bypass-launch'), *words], env=environment,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    line, = done.stderr.splitlines()
    assert line.startswith('ipc-bypass-launch: ') and says in line


def test_notify(monkeypatch, tmp_path):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    assert not notify('READY=1')
    monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'nobody'))
    assert not notify('READY=1')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f'\0ipc_bypass_notify_{os.getpid()}')
        monkeypatch.setenv('NOTIFY_SOCKET', f'@ipc_bypass_notify_{os.getpid()}')
        assert notify('READY=1')
        assert sock.recv(100) == b'READY=1'


def test_user_is_there():
    """Who stands for ipc-bypass in these tests is not root."""
    import grp
    import pwd
    assert pwd.getpwnam(USER).pw_uid and grp.getgrnam(GROUP).gr_gid
