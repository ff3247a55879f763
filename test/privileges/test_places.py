"""Files, pins and sockets: whose they are, and what is refused in their place."""

import contextlib
import os
from pathlib import Path
import shutil
import socket
import stat
import subprocess
import sys

from ipc_bypass.compare.page import save
from ipc_bypass.kernel.bpffs import PinDirectory
from ipc_bypass.kernel.errors import BypassError, HeadersError, PinError
from ipc_bypass.kernel.headers import cache_folder, find_headers
from ipc_bypass.kernel.trusted_paths import distrust
from ipc_bypass.profiles import folder as profile_folder
from ipc_bypass.profiles.settings import ProfileError, settings
import pytest
from support.waiting import PATIENCE
from unit_tools import FOLDER, GROUP, limited, USER

RELEASE = os.uname().release
MARK = 4242  # a group that nobody is in


def mode(path):
    """Return (mode, owner, group) of what is at a path itself."""
    state = os.lstat(path)
    return stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid


# Which folders are trusted

def test_trusted(folder):
    (folder / 'own').mkdir(mode=0o755)
    (folder / 'link').symlink_to(folder / 'own')
    for path in (folder, folder / 'own', folder / 'own/not/there', folder / 'link/x', '/tmp',
                 '/tmp/not/there', '/'):
        assert distrust(path) == '', path


@pytest.mark.parametrize('fault', ['owner', 'mode', 'group', 'link', 'into', 'file'])
def test_distrusted(folder, foreign, fault):
    place = folder / 'place'
    if fault in ('owner', 'file'):
        place = foreign / 'deeper'
    elif fault in ('mode', 'group'):
        place.mkdir()
        os.chown(place, 0, 0 if fault == 'mode' else MARK)
        place.chmod(0o757 if fault == 'mode' else 0o775)
    elif fault == 'link':
        place.symlink_to(folder)
        os.lchown(place, 65534, 65534)
    else:
        place.symlink_to(foreign)
    if fault == 'file':
        place.write_text('')
    assert distrust(place / 'x') and '\n' not in distrust(place / 'x')


def test_owners_outside_of_a_user_namespace(folder, foreign):
    """In a container without root the host's folders show as the overflow user's."""
    code = ('from ipc_bypass.kernel.trusted_paths import distrust; import sys; '
            'print(repr(distrust(sys.argv[1])))')
    asked = [sys.executable, '-c', code, str(foreign / 'x')]
    outside = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE)
    inside = subprocess.run(['unshare', '--user', '--map-root-user', *asked],
                            capture_output=True, text=True, timeout=PATIENCE)
    assert 'belongs to user 65534' in outside.stdout
    assert inside.stdout == "''\n", inside.stderr


# The cache

@pytest.mark.parametrize('planted', ['foreign folder', 'link', 'open folder'])
def test_a_planted_header_cache_is_refused(folder, foreign, planted):
    """Headers are compiled into programs of root's: what others could have written is not."""
    cache = folder / 'cache'
    if planted == 'foreign folder':
        cache = foreign / 'cache'
    elif planted == 'link':
        (foreign / 'cache').mkdir()
        cache.symlink_to(foreign / 'cache')
    else:
        cache.mkdir()
        cache.chmod(0o777)
    generated, common = folder / 'build', folder / 'source'
    modules = folder / 'lib/modules' / RELEASE
    modules.mkdir(parents=True)
    for root, name in ((common, 'include/linux/kconfig.h'), (common, 'include/uapi/linux/bpf.h'),
                       (generated, 'include/generated/autoconf.h'),
                       (generated, 'arch/x86/include/generated/x.h'),
                       (common, 'arch/x86/include/uapi/x.h'),
                       (generated, 'arch/arm64/include/generated/x.h'),
                       (common, 'arch/arm64/include/uapi/x.h')):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('')
    (modules / 'build').symlink_to(generated)
    (modules / 'source').symlink_to(common)
    with pytest.raises(HeadersError, match='XDG_CACHE_HOME') as refused:
        find_headers(folder, cache=cache, release=RELEASE)
    assert '\n' not in str(refused.value)
    assert list(foreign.rglob('headers-*')) == []
    tree = find_headers(folder, cache=folder / 'mine', release=RELEASE)
    assert mode(tree.path.parent)[0] == 0o700
    assert stat.S_IMODE(tree.path.stat().st_mode) == 0o755


def test_root_does_not_use_a_users_cache(foreign, folder, monkeypatch):
    """As after `sudo -E`."""
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setenv('HOME', str(foreign))
    assert str(cache_folder()) == '/var/cache/ipc_bypass'
    monkeypatch.setenv('HOME', str(folder))
    assert cache_folder() == folder / '.cache/ipc_bypass'


# What people have written

def test_profiles(folder, foreign):
    written = profile_folder.write('cyclonedds', settings(3), folder / 'profile')
    assert {mode(written.folder / name)[:2] for name in written.files} == {(0o644, 0)}
    with pytest.raises(ProfileError, match='belongs to user 65534'):
        profile_folder.write('cyclonedds', settings(3), foreign)
    assert os.listdir(foreign) == []
    # A link in the place of a file is replaced, and what it points to stays.
    (folder / 'precious').write_text('precious')
    written.file.unlink()
    written.file.symlink_to(folder / 'precious')
    profile_folder.write('cyclonedds', settings(3), folder / 'profile')
    assert not written.file.is_symlink() and written.file.read_text().startswith('<?xml')
    assert (folder / 'precious').read_text() == 'precious'


def test_pages(folder):
    (folder / 'precious').write_text('precious')
    (folder / f'.page.html.{os.getpid()}').symlink_to(folder / 'precious')
    with contextlib.suppress(BypassError):
        save(folder / 'page.html', 'text')
    assert (folder / 'precious').read_text() == 'precious'


# Pins

@pytest.mark.parametrize('name', [
    '/sys/fs/bpf/../fs/bpf/x', '/sys/fs/bpf/x/../y', 'sys/fs/bpf/x', '/sys/fs/bpf/a.b',
    '/sys/fs/bpf/', '/sys/fs/bpf/a b', '/sys/fs/bpf/' + 65 * 'x', '/sys/fs/bpf/a\nb'])
def test_names_of_pins(name):
    if name == '/sys/fs/bpf/':
        assert PinDirectory(name).path == Path('/sys/fs/bpf')
        return
    with pytest.raises(PinError) as refused:
        PinDirectory(name)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('name', ['../x', 'a/b', '', '.', '..', 'a\0b'])
def test_names_of_a_pin(name, pin_directory, privileged):
    with pytest.raises(PinError):
        PinDirectory(pin_directory).publish({name: 0})
    shutil.rmtree(pin_directory, ignore_errors=True)


@pytest.mark.parametrize('arguments', [
    ('/ipcb_no_place',), ('/sys/fs/bpf',), ('/sys/fs/bpf/',), ('/sys/fs/bpf/.',),
    ('/sys/fs/bpf/x/',), ('/sys/fs/bpf/../../../ipcb_no_place',), ('ipcb_no_place',),
    ('/sys/fs/bpf//x',), ('/sys/fs/bpf/x/..',)])
def test_the_tool_for_pins_takes_nothing_else(arguments):
    done = subprocess.run([str(FOLDER / 'ipc-bypass-pins'), USER, *arguments],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.startswith('ipc-bypass-pins: ') and done.stderr.count('\n') == 1


def test_the_tool_for_pins(pin_directory, privileged, folder):
    link = f'{pin_directory}_link'
    try:
        subprocess.run([str(FOLDER / 'ipc-bypass-pins'), USER, pin_directory], check=True,
                       timeout=PATIENCE)
        assert mode(pin_directory)[:2] == (0o700, 65534)
        os.symlink(folder, link)
        done = subprocess.run([str(FOLDER / 'ipc-bypass-pins'), USER, link], timeout=PATIENCE,
                              capture_output=True)
        assert done.returncode == 1 and mode(folder)[:2] == (0o755, 0)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.rmdir(pin_directory)


# The node

def test_the_nodes_own(start, folder, pin_directory):
    """What an active node has made belongs to root and to the group that it was given."""
    control = folder / 'run' / 'pool.sock'
    node = start(tcp_path='auto', udp_path='cgroup_skb', pool_size=1 << 20,
                 control_socket=str(control), pool_group=str(MARK))
    node.bring_up()
    assert mode(control) == (0o660, 0, MARK) and stat.S_ISSOCK(os.lstat(control).st_mode)
    assert mode(control.parent)[:2] == (0o755, 0)
    pins = Path(pin_directory)
    assert mode(pins)[0] & 0o027 == 0 and mode(pins)[1] == 0
    found = {path.relative_to(pins): mode(path) for path in pins.rglob('*')}
    assert found
    for path, (bits, owner, group) in found.items():
        assert owner == 0 and not bits & 0o007, path
        assert group == MARK if bits & 0o070 else True, path
    assert any(group == MARK for _, _, group in found.values())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(control))
    done = subprocess.run([*limited(()), 'python3', '-c', 'import socket, sys; '
                           'socket.socket(1, 5).connect(sys.argv[1])', str(control)],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert 'PermissionError' in done.stderr
    assert node.end() == 0, node.output()
    assert not control.exists()


@pytest.mark.parametrize('fault', ['foreign folder', 'link', 'file', 'linked pins', 'dots'])
def test_what_is_planted_is_refused(start, folder, foreign, pin_directory, fault):
    """The node says so in one line, and leaves what is there."""
    control, precious = folder / 'pool.sock', folder / 'precious'
    precious.write_text('precious')
    how = {'control_socket': str(control), 'udp_path': 'cgroup_skb', 'tcp_path': 'loopback',
           'pool_size': 1 << 20}
    if fault == 'foreign folder':
        how['control_socket'], says = str(foreign / 'pool.sock'), 'belongs to user 65534'
    elif fault in ('link', 'file'):
        if fault == 'link':
            control.symlink_to(precious)
        else:
            control.write_text('precious')
        says = f'listen at {control}: the file there is no socket'
    elif fault == 'linked pins':
        os.symlink(folder, pin_directory)
        how.update(tcp_path='sk_msg', udp_path='loopback')
        says = f'use {pin_directory} for pins: it is a symbolic link'
    else:
        how.update(tcp_path='sk_msg', udp_path='loopback',
                   pin_directory='/sys/fs/bpf/x/../../../../etc/x')
        says = 'use /sys/fs/bpf/x/../../../../etc/x'
    node = start(**how)
    try:
        assert not node.change('configure')
    finally:
        if fault == 'linked pins':
            os.unlink(pin_directory)
    line, = node.errors()
    assert says in line, line
    assert precious.read_text() == 'precious'
    assert os.listdir(foreign) == []
    assert GROUP  # the other user of these tests
