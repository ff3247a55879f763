"""Network namespaces: found by process and by name, and read without being entered."""

import os
from pathlib import Path

from ipc_bypass.kernel.namespaces import enter, Namespaces, network_namespaces
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures('privileged')


def inode(space):
    return os.stat(f'/run/netns/{space.name}').st_ino


def inhabitant(found, space):
    """Return what was found of a namespace when it has a process, else None."""
    found = found[inode(space)]
    return found if found.pid else None


def ours():
    return os.stat('/proc/thread-self/ns/net').st_ino


def test_our_own_is_the_first():
    found = network_namespaces()
    assert next(iter(found)) == ours()
    assert found[ours()].pid == os.getpid()


def test_by_name_and_by_process():
    with Namespace() as space:
        found = network_namespaces()[inode(space)]
        assert (found.path, found.pid) == (f'/run/netns/{space.name}', 0)
        with space.inhabited():
            found = wait_until(lambda: inhabitant(network_namespaces(), space), 'it lives there')
            assert found.path == f'/run/netns/{space.name}'
            assert os.stat(f'/proc/{found.pid}/ns/net').st_ino == inode(space)
        number = inode(space)
    assert number not in network_namespaces()


def test_a_name_without_a_namespace():
    with Namespace() as space:
        left = Path(f'/run/netns/{space.name}-left')
        left.touch()
        try:
            assert left.stat().st_ino not in network_namespaces()
        finally:
            left.unlink()


def test_reading_with_a_process_and_without():
    before = ours()
    with Namespace() as space:
        space.ip('address', 'add', '198.51.100.7/32', 'dev', 'lo')
        texts = Namespaces().read('fib_trie', 'no_such')
        assert b'198.51.100.7' in texts[inode(space)][0]
        assert b'198.51.100.7' not in texts[before][0] and b'127.0.0.1' in texts[before][0]
        assert {second for _, second in texts.values()} == {b''}
        with space.inhabited():
            assert b'198.51.100.7' in Namespaces().read('fib_trie')[inode(space)][0]
    assert ours() == before


def test_a_process_that_ends_between_finding_and_reading():
    with Namespace() as space:
        namespaces = Namespaces()
        with space.inhabited():
            wait_until(lambda: inhabitant(namespaces.find(), space), 'it lives there')
        assert inode(space) in namespaces.read('fib_trie', max_age=1000.0)  # by its name
        number = inode(space)
    assert number not in namespaces.read('fib_trie', max_age=1000.0)


def test_what_was_found_is_shared_for_a_while():
    namespaces = Namespaces()
    before = namespaces.find()
    with Namespace() as space:
        assert namespaces.find(max_age=1000.0) is before
        assert inode(space) in namespaces.find()


def test_entering():
    with Namespace() as one, Namespace() as other, one.entered():
        assert ours() == inode(one)
        enter(f'/run/netns/{other.name}')
        assert ours() == inode(other)
        with pytest.raises(FileNotFoundError):
            enter('/run/netns/no_such')
        with pytest.raises(OSError, match='Invalid argument'):
            enter('/proc/self/ns/uts')
        assert ours() == inode(other)
