"""What the tests of interfaces share: programs without a compiler, and a veth pair."""

from contextlib import contextmanager
import errno
import os
import subprocess

from ipc_bypass.kernel import capabilities, instructions, syscall
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.uapi import AttachType, ProgFlag, ProgType
from ipc_bypass.xdp.interfaces import find
import pytest
from support.namespaces import ip
from support.xdp import PASS, veth_lab

needs_privilege = pytest.mark.skipif(
    bool(capabilities.missing(['CAP_BPF', 'CAP_NET_ADMIN', 'CAP_SYS_ADMIN'])),
    reason='needs CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN')


@contextmanager
def program(name='xdp_try', *, frags=False, answer=PASS, attach_type=AttachType.XDP):
    """Yield the descriptor of an XDP program that answers always the same."""
    try:
        fd = syscall.prog_load(ProgType.XDP, instructions.leave(answer), name=name,
                               attach_type=attach_type,
                               flags=ProgFlag.XDP_HAS_FRAGS if frags else 0)
    except syscall.ProgLoadError as error:
        if frags and error.errno == errno.EINVAL:  # in the product's words: before 5.18
            raise UnsupportedError(f'load program {name}', 'the kernel does not know this kind '
                                   'of program, or this flag') from error
        raise
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def pair(mtu=1500, **options):
    """Yield (near, far, near's Interface), this thread being in near; see support.xdp.veth_lab."""
    with veth_lab(mtu, **options) as (near, far), near.entered():
        yield near, far, find('near0')


def ethtool(space, *arguments):
    """Run ethtool in a namespace and return what it said."""
    return subprocess.run(space.command('ethtool', *arguments), capture_output=True, text=True,
                          check=True).stdout


def feature(space, interface, name):
    """Return whether ethtool shows a feature as on."""
    lines = [line.split() for line in ethtool(space, '-k', interface).splitlines()]
    return next(words[1] for words in lines if words and words[0] == f'{name}:') == 'on'


def end(space):
    """Have a namespace end; another one has its name then, for its owner to close."""
    space.close()
    ip('netns', 'add', space.name)
