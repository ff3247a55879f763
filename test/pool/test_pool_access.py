"""Who may use the pool: real pins, real sockets, and processes of another user."""

import os
from pathlib import Path
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

import ipc_bypass
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import PinDirectory
from ipc_bypass.kernel.errors import PoolError, PrivilegeError
from ipc_bypass.pool.access import Access
import pytest
from support.capability import kernel_version
from support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures('privileged')

ROOT = Path(ipc_bypass.__file__).resolve().parents[1]
NOBODY = pwd.getpwnam('nobody')
# A group that nobody is in, unless a process is started so.
GROUP = 61234

OPEN = """
import mmap, sys
from ipc_bypass.kernel import syscall
try:
    fd = syscall.obj_get(sys.argv[1])
    mapped = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    mapped[:5] = b'hello'
    print('mapped')
except OSError as error:
    print(error.errno)
"""
CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    try:
        sock.connect(sys.argv[1])
        print(sock.recv(1000).decode())
    except OSError as error:
        print(error.errno)
"""
# As the node's user, who may not give files away.
GIVE = """
import sys
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool.access import Access
try:
    Access(sys.argv[2]).give(sys.argv[1])
except BypassError as error:
    print(type(error).__name__, error)
"""


def command(code, *arguments, groups=(), primary=NOBODY.pw_gid):
    """Return the words that run Python code as nobody, in these groups."""
    groups = ['--groups', ','.join(map(str, groups))] if groups else ['--clear-groups']
    return ['setpriv', f'--reuid={NOBODY.pw_uid}', f'--regid={primary}', *groups,
            'env', f"PYTHONPATH={os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}",
            sys.executable, '-c', code, *map(str, arguments)]


def as_nobody(*arguments, **who):
    """Run that code and return what it printed."""
    done = subprocess.run(command(*arguments, **who), capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder():
    """Yield a folder that every user can look into, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix='ipcb_test_'))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pins(folder):
    """Yield a PinDirectory of the group, with one map in it, in a bpffs that all can enter."""
    mount = folder / 'bpffs'
    mount.mkdir()
    subprocess.run(['mount', '-t', 'bpf', '-o', 'mode=0755', 'bpf', mount], check=True)
    fd = syscall.map_create(syscall.MapType.ARRAY, 4, 4096, 1, syscall.MapFlag.MMAPABLE,
                            name='ipcb_test_pins')
    directory = PinDirectory(mount / 'node' / 'pool', group=Access(str(GROUP)).group)
    directory.publish({'data': fd})
    directory.map_fd = fd
    yield directory
    os.close(fd)
    subprocess.run(['umount', mount], check=True)


@pytest.fixture
def listener(folder):
    """Yield a listening socket that was given to the group."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        before = os.umask(0o177)
        try:
            sock.bind(str(folder / 'control'))
        finally:
            os.umask(before)
        Access(str(GROUP)).give(folder / 'control')
        sock.listen()
        sock.settimeout(PATIENCE)
        yield sock


def mode_and_group(path):
    state = os.stat(path)
    return stat.S_IMODE(state.st_mode), state.st_gid


def test_the_pins_are_the_groups(pins):
    assert mode_and_group(pins.path / 'data') == (0o660, GROUP)
    assert mode_and_group(pins.path) == (0o750, GROUP)
    assert mode_and_group(pins.path.parent) == (0o750, GROUP)
    pins.publish({'data': pins.map_fd, 'more': pins.map_fd}, replace=True)
    for name in ('data', 'more'):
        assert mode_and_group(pins.path / name) == (0o660, GROUP)
    assert mode_and_group(pins.path) == (0o750, GROUP)
    os.close(pins.open('more'))  # such a folder is still one to trust


def test_a_process_outside_of_the_group_cannot_open_a_pin(pins):
    assert as_nobody(OPEN, pins.path / 'data') == '13'  # EACCES
    assert as_nobody(OPEN, pins.path / 'data', groups=[GROUP + 1]) == '13'


def test_not_even_where_the_folders_are_open(pins):
    for place in (pins.path, pins.path.parent):
        place.chmod(0o755)
    assert as_nobody(OPEN, pins.path / 'data') == '13'


@pytest.mark.parametrize('who', [{'groups': [GROUP]}, {'primary': GROUP}])
def test_a_process_of_the_group_opens_and_maps_it(pins, who):
    answer = as_nobody(OPEN, pins.path / 'data', **who)
    if answer == '1' and kernel_version() < (5, 19):
        # EPERM: there, kernel.unprivileged_bpf_disabled keeps every call of bpf(2) from ordinary
        # users, not just those that make something; the control socket hands descriptors over.
        pytest.skip('the kernel lets no ordinary user open a pin')
    assert answer == 'mapped'
    assert syscall.map_lookup(pins.map_fd, bytes(4), 5 + 4091)[:5] == b'hello'


def test_without_a_group_pins_are_this_users(pins):
    alone = PinDirectory(pins.path.with_name('alone'))
    alone.publish({'data': pins.map_fd})
    assert mode_and_group(alone.path)[0] == 0o700
    assert mode_and_group(alone.path / 'data')[0] & 0o077 == 0
    assert as_nobody(OPEN, alone.path / 'data', groups=[GROUP]) == '13'


def test_who_can_connect(listener, folder):
    assert mode_and_group(folder / 'control') == (0o660, GROUP)
    assert as_nobody(CONNECT, folder / 'control') == '13'  # EACCES


@pytest.mark.parametrize('who, allowed', [
    ({'groups': [GROUP]}, True), ({'primary': GROUP}, True),
    ({'groups': [5, GROUP, *range(100, 200)]}, True), ({}, False),
    ({'groups': range(100, 356)}, False), ({'groups': [*range(100, 356), GROUP]}, False)])
def test_who_is_let_in(listener, folder, who, allowed):
    """The file is open to all here: only what the kernel says of the peer can refuse it."""
    os.chmod(folder / 'control', 0o666)
    process = subprocess.Popen(command(CONNECT, folder / 'control', **who),
                               stdout=subprocess.PIPE, text=True)
    with listener.accept()[0] as connection:
        refusal = Access(str(GROUP)).refusal(connection)
        connection.send(b'answered')
        assert process.communicate(timeout=PATIENCE)[0].strip() == 'answered'
        assert bool(refusal) != allowed
        if who == {}:
            assert f'process {process.pid} of user {NOBODY.pw_uid}' in refusal
            assert f'group {GROUP}' in refusal
            assert '\n' not in refusal


def test_root_is_let_in_whatever_the_group(listener, folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(folder / 'control'))
        with listener.accept()[0] as connection:
            assert Access(str(GROUP)).refusal(connection) == ''


def test_what_is_no_unix_socket_is_refused():
    with socket.create_server(('127.0.0.1', 0)) as server, \
            socket.create_connection(server.getsockname()) as client:
        assert Access('').refusal(client)


def test_which_group():
    assert Access().group == Access('').group == Access('0').group == 0
    assert Access('root').name == Access('').name == 'root'
    assert Access(str(GROUP)).group == GROUP
    assert Access(str(GROUP)).name == str(GROUP)


@pytest.mark.parametrize('name', ['no_such_group', '-1', '4294967295', '1 2', '٣'])
def test_a_group_that_is_not_there(name):
    with pytest.raises(PoolError, match='there is no such group') as caught:
        Access(name)
    assert name in str(caught.value) and 'pool_group' in caught.value.next_step


def test_give(folder):
    (folder / 'inner').mkdir(mode=0o700)
    Access(str(GROUP)).give(folder / 'inner')
    assert mode_and_group(folder / 'inner') == (0o750, GROUP)
    (folder / 'link').symlink_to(folder / 'inner')
    for name in ('link', 'nothing'):
        with pytest.raises(PoolError, match=name):
            Access('').give(folder / name)
    assert mode_and_group(folder / 'inner') == (0o750, GROUP)


def test_a_node_that_may_not_give(folder):
    (folder / 'file').touch()
    os.chown(folder / 'file', NOBODY.pw_uid, NOBODY.pw_gid)
    said = as_nobody(GIVE, folder / 'file', GROUP)
    assert said.startswith(f'{PrivilegeError.__name__} give {folder}/file to group {GROUP}: ')
    assert as_nobody(GIVE, folder / 'file', GROUP, groups=[GROUP]) == ''
    assert mode_and_group(folder / 'file') == (0o660, GROUP)
