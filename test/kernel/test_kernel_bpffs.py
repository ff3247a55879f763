"""Pins in a real bpffs."""

import fcntl
import os
import subprocess

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import find_bpffs, is_bpffs, PinDirectory
from ipc_bypass.kernel.errors import PinError
import pytest

pytestmark = pytest.mark.usefixtures('privileged')

# In a mount namespace of its own: what is mounted there is gone with the process.
PRIVATE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0
assert libc.mount(b'none', b'/', None, 0x4000 | 0x40000, None) == 0
while libc.umount2(b'/sys/fs/bpf', 2) == 0:
    pass
from ipc_bypass.kernel.bpffs import ensure_bpffs, find_bpffs, is_bpffs
from ipc_bypass.kernel.errors import BypassError
"""


@pytest.fixture
def maps():
    """Yield the descriptors of two maps."""
    made = [syscall.map_create(syscall.MapType.ARRAY, 4, size, 1, name='k7_pin')
            for size in (4, 8)]
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def pins(bpffs_folder):
    """Return a folder of pins that is not there yet."""
    return PinDirectory(bpffs_folder / 'k7' / 'tcp', timeout=0.2)


def value_size(fd):
    size = syscall.map_info(fd).value_size
    os.close(fd)
    return size


def test_all_appear_and_can_be_opened(pins, maps):
    assert pins.list() == []
    pins.publish({'four': maps[0], 'eight': maps[1]})
    assert pins.list() == ['eight', 'four']
    assert (value_size(pins.open('four')), value_size(pins.open('eight'))) == (4, 8)
    assert os.stat(pins.path).st_mode & 0o777 == 0o700
    assert os.stat(pins.path.parent).st_mode & 0o777 == 0o700


def test_pins_of_an_earlier_run_are_replaced_only_if_asked(pins, maps):
    pins.publish({'one': maps[0]})
    with pytest.raises(PinError, match='earlier run'):
        pins.publish({'two': maps[1]})
    assert pins.list() == ['one']
    pins.publish({'two': maps[1]}, replace=True)
    assert pins.list() == ['two']
    assert os.listdir(pins.path.parent) == ['tcp']


@pytest.mark.parametrize('name', ['a.b', '../x', '', 'x' * 65])
def test_a_bad_name_changes_nothing(pins, maps, name):
    pins.publish({'one': maps[0]})
    with pytest.raises(PinError):
        pins.publish({'two': maps[1], name: maps[0]}, replace=True)
    assert pins.list() == ['one']
    assert os.listdir(pins.path.parent) == ['tcp']


def test_what_cannot_be_pinned_changes_nothing(pins, maps):
    pins.publish({'one': maps[0]})
    with open('/dev/null') as other, pytest.raises(PinError):
        pins.publish({'two': maps[1], 'three': other.fileno()}, replace=True)
    assert pins.list() == ['one']
    assert os.listdir(pins.path.parent) == ['tcp']


def test_remove(pins, maps):
    pins.remove()
    pins.publish({'one': maps[0], 'two': maps[1]})
    pins.remove('one')
    pins.remove('one')
    assert pins.list() == ['two']
    pins.remove()
    assert not pins.path.exists()
    with pytest.raises(PinError):
        pins.open('two')


def test_what_a_killed_process_left_goes_with_the_next(pins, maps):
    pins.publish({'one': maps[0]})
    (pins.path.parent / 'tcp_new_99999').mkdir()
    syscall.obj_pin(maps[1], pins.path.parent / 'tcp_new_99999' / 'half')
    pins.publish({'one': maps[0]}, replace=True)
    assert os.listdir(pins.path.parent) == ['tcp']


def test_another_process_that_holds_the_lock_is_waited_for(pins, maps):
    pins.publish({'one': maps[0]})
    held = os.open(pins.path.parent, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(PinError, match='Device or resource busy'):
        pins.publish({'one': maps[0]}, replace=True)
    os.close(held)
    pins.publish({'one': maps[0]}, replace=True)


def test_a_symbolic_link_is_refused(pins, maps, bpffs_folder):
    pins.publish({'one': maps[0]})
    (bpffs_folder / 'k7' / 'link').symlink_to(pins.path)
    with pytest.raises(PinError, match='symbolic link'):
        PinDirectory(bpffs_folder / 'k7' / 'link').open('one')
    (bpffs_folder / 'above').symlink_to(pins.path.parent)
    with pytest.raises(PinError, match='symbolic link'):
        PinDirectory(bpffs_folder / 'above' / 'tcp').publish({'one': maps[0]}, replace=True)


def test_a_folder_of_others_is_refused(pins, maps):
    pins.publish({'one': maps[0]})
    pins.path.chmod(0o777)
    with pytest.raises(PinError, match='others may write'):
        pins.open('one')
    pins.path.chmod(0o700)
    os.chown(pins.path, 65534, 65534)
    with pytest.raises(PinError, match='belongs to user 65534'):
        pins.list()
    os.chown(pins.path, 0, 0)


def test_a_place_outside_a_bpffs_is_refused(tmp_path, maps):
    (tmp_path / 'k7').mkdir(mode=0o700)
    (tmp_path / 'k7' / 'tcp').mkdir(mode=0o700)
    for path in (tmp_path / 'k7' / 'tcp', tmp_path / 'nothing' / 'tcp'):
        with pytest.raises(PinError):
            PinDirectory(path).publish({'one': maps[0]}, replace=True)
    assert not (tmp_path / 'nothing').exists()


@pytest.mark.parametrize('path', ['relative', '/sys/fs/bpf/../x', '/sys/fs/bpf/a.b'])
def test_a_path_that_cannot_be_a_folder_of_pins(path):
    with pytest.raises(PinError):
        PinDirectory(path)


def test_a_bpffs_that_cannot_be_written(pins, maps, bpffs_folder):
    pins.publish({'one': maps[0]})
    subprocess.run(['mount', '-o', 'remount,ro', bpffs_folder], check=True)
    with pytest.raises(PinError, match='Read-only file system'):
        pins.publish({'one': maps[0]}, replace=True)
    assert pins.list() == ['one']
    subprocess.run(['mount', '-o', 'remount,rw', bpffs_folder], check=True)


def test_mounting_only_when_asked(run_python):
    result = run_python(PRIVATE + """
try:
    ensure_bpffs()
except BypassError as error:
    print(error)
print(is_bpffs('/sys/fs/bpf'), ensure_bpffs(mount=True), is_bpffs('/sys/fs/bpf'))
print(find_bpffs() and ensure_bpffs())
""")
    assert result.stdout.splitlines()[-2:] == ['False /sys/fs/bpf True', '/sys/fs/bpf'], \
        result.stdout + result.stderr
    if len(result.stdout.splitlines()) == 3:  # unless a bpffs is mounted elsewhere, too
        assert 'mount -t bpf bpf /sys/fs/bpf' in result.stdout


def test_mounting_without_the_capability(run_python):
    result = run_python("""
from ipc_bypass.kernel import bpffs
from ipc_bypass.kernel.errors import PinError, PrivilegeError
def none():
    raise PinError('none')
bpffs.find_bpffs = none
try:
    bpffs.ensure_bpffs(mount=True)
except PrivilegeError as error:
    print(error)
""", without=['sys_admin'])
    assert 'needs CAP_SYS_ADMIN' in result.stdout, result.stderr


def test_find(tmp_path, bpffs_folder):
    assert is_bpffs(bpffs_folder)
    assert not is_bpffs(tmp_path)
    assert not is_bpffs(tmp_path / 'nothing')
    text = ('30 22 0:26 / /else rw - bpf bpf rw\n31 22 0:26 / /sys/fs/bpf rw - bpf none rw\n')
    (tmp_path / 'mountinfo').write_text(text)
    assert find_bpffs(str(tmp_path / 'mountinfo')) == '/sys/fs/bpf'
    (tmp_path / 'mountinfo').write_text('30 22 0:26 / /bpf rw - tmpfs bpf rw\n')
    with pytest.raises(PinError, match='not mounted'):
        find_bpffs(str(tmp_path / 'mountinfo'))
