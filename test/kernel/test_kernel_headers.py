"""Kernel headers: those of this machine, and the ways that distributions lay them out."""

from concurrent.futures import ThreadPoolExecutor
import os
import platform
import tarfile

from ipc_bypass.kernel.errors import HeadersError
from ipc_bypass.kernel.headers import cache_folder, find_headers
import pytest

ARCH = {'x86_64': 'x86', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine())
COMMON = ('include/linux/kconfig.h', 'include/uapi/linux/bpf.h', f'arch/{ARCH}/include/uapi/asm.h',
          f'arch/{ARCH}/include/asm/types.h')
GENERATED = ('include/generated/autoconf.h', 'include/generated/utsrelease.h',
             f'arch/{ARCH}/include/generated/asm.h')
RELEASE = '9.9.0-test'


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    """Keep a choice of this process's user out of the tests."""
    monkeypatch.delenv('BCC_KERNEL_SOURCE', raising=False)


def fill(folder, names, release=RELEASE):
    """Make files with these names in a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#define UTS_RELEASE "{release}"\n' if 'uts' in name else name)
    return folder


def is_whole(tree):
    """Return whether every file can be read through a tree."""
    return all((tree.path / name).read_text() for name in COMMON + GENERATED)


def test_this_machine_has_headers(tmp_path):
    tree = find_headers(cache=tmp_path)
    assert (tree.path / 'include/uapi/linux/bpf.h').is_file()
    assert (tree.path / 'include/generated/autoconf.h').is_file()


def test_the_build_tree_of_the_running_kernel_is_taken_as_it_is(tmp_path):
    build = fill(tmp_path / 'lib/modules' / RELEASE / 'build', COMMON + GENERATED)
    fill(tmp_path / 'usr/src/linux-headers-10.0', COMMON + GENERATED, '10.0')
    tree = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert (tree.path, tree.kind, tree.release) == (build, 'build', RELEASE)
    assert not (tmp_path / 'cache').exists()


def test_two_trees_of_the_running_kernel_are_joined(tmp_path):
    modules = tmp_path / 'lib/modules' / RELEASE
    modules.mkdir(parents=True)
    (modules / 'build').symlink_to(fill(tmp_path / 'amd64', GENERATED))
    (modules / 'source').symlink_to(fill(tmp_path / 'common', COMMON))
    tree = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert tree.kind == 'build'
    assert is_whole(tree)
    assert tree.path.parent == tmp_path / 'cache'


def test_a_split_package_without_modules_is_joined_by_its_makefile(tmp_path):
    source = tmp_path / 'usr/src'
    fill(source / 'linux-headers-6.1.0-9-common', COMMON)
    generated = fill(source / 'linux-headers-6.1.0-9-amd64', GENERATED, '6.1.0-9-amd64')
    (generated / 'Makefile').write_text('include /usr/src/linux-headers-6.1.0-9-common/Makefile\n')
    tree = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert (tree.kind, tree.release) == ('installed', '6.1.0-9-amd64')
    assert is_whole(tree)


def test_of_several_the_newest_is_taken(tmp_path):
    for release in ('6.9.1', '6.12.1', '5.10.0'):
        fill(tmp_path / f'usr/src/linux-headers-{release}', COMMON + GENERATED, release)
    fill(tmp_path / 'usr/src/linux-headers-7.0.0', COMMON, '7.0.0')  # not whole
    tree = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert tree.release == '6.12.1'


def test_the_archive_in_the_kernel_comes_before_other_releases(tmp_path):
    fill(tmp_path / 'usr/src/linux-headers-6.12.1', COMMON + GENERATED, '6.12.1')
    files = fill(tmp_path / 'files', COMMON + GENERATED)
    (tmp_path / 'sys/kernel').mkdir(parents=True)
    with tarfile.open(tmp_path / 'sys/kernel/kheaders.tar.xz', 'w:xz') as archive:
        archive.add(files, '.')
    tree = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert (tree.kind, tree.release) == ('kheaders', RELEASE)
    assert is_whole(tree)
    assert find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE) == tree


def test_a_broken_archive_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / 'sys/kernel').mkdir(parents=True)
    (tmp_path / 'sys/kernel/kheaders.tar.xz').write_bytes(b'broken')
    with pytest.raises(HeadersError, match='unpack'):
        find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert os.listdir(tmp_path / 'cache') == []


def test_none_at_all_names_the_package(tmp_path):
    with pytest.raises(HeadersError) as caught:
        find_headers(tmp_path, release=RELEASE)
    assert RELEASE in str(caught.value)
    assert 'apt-get install linux-headers-' in caught.value.next_step


def test_a_named_tree_is_used_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('BCC_KERNEL_SOURCE', str(tmp_path))
    with pytest.raises(HeadersError, match='BCC_KERNEL_SOURCE'):
        find_headers()
    fill(tmp_path, COMMON + GENERATED)
    tree = find_headers()
    assert (tree.path, tree.kind, tree.release) == (tmp_path, 'environment', RELEASE)


def test_a_changed_package_makes_a_new_tree(tmp_path):
    modules = tmp_path / 'lib/modules' / RELEASE
    build, source = fill(modules / 'build', GENERATED), fill(modules / 'source', COMMON)
    first = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    fill(source, ['new/file.h'])
    second = find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)
    assert first.path != second.path
    assert build.is_dir()


def test_many_at_once_make_one_tree(tmp_path):
    modules = tmp_path / 'lib/modules' / RELEASE
    fill(modules / 'build', GENERATED)
    fill(modules / 'source', COMMON)
    with ThreadPoolExecutor(8) as pool:
        trees = set(pool.map(lambda _: find_headers(tmp_path, cache=tmp_path / 'cache',
                                                    release=RELEASE), range(32)))
    assert len(trees) == 1
    assert is_whole(trees.pop())
    assert len(os.listdir(tmp_path / 'cache')) == 1


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path):
    modules = tmp_path / 'lib/modules' / RELEASE
    fill(modules / 'build', GENERATED)
    fill(modules / 'source', COMMON)
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(HeadersError, match='XDG_CACHE_HOME'):
        find_headers(tmp_path, cache=tmp_path / 'cache', release=RELEASE)


@pytest.mark.parametrize('value, expected', [('/somewhere', '/somewhere/ipc_bypass'),
                                             ('', '/home/of/.cache/ipc_bypass'),
                                             ('relative', '/home/of/.cache/ipc_bypass')])
def test_the_cache_folder(monkeypatch, value, expected):
    monkeypatch.setenv('HOME', '/home/of')
    monkeypatch.setenv('XDG_CACHE_HOME', value)
    assert str(cache_folder()) == expected
