"""Attaching: by link and by netlink, mode by mode, beside others, and what a killed one leaves."""

from dataclasses import replace
import os
import subprocess
import sys
import threading

from interface_tools import needs_privilege, pair, program
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import PrivilegeError
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.xdp.attach import remove_leftover, XdpAttachment
from ipc_bypass.xdp.errors import AttachError, InterfaceError, OccupiedError
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.occupant import occupant
from ipc_bypass.xdp.route import attach_by_route, detach_by_route
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

pytestmark = needs_privilege

WAYS = pytest.mark.parametrize('links', [True, False], ids=['link', 'netlink'])
FLAGS = {'generic': 1 << 1, 'native': 1 << 2}

CHILD = """
import os, sys, threading
from ipc_bypass.kernel import instructions, syscall
from ipc_bypass.xdp.attach import XdpAttachment
from ipc_bypass.xdp.interfaces import find
fd = syscall.prog_load(6, instructions.leave(2), name='xdp_root', attach_type=37)
XdpAttachment(find('near0'), links=sys.argv[1] == 'link').attach(fd)
print('attached', flush=True)
threading.Event().wait()
"""


def attached_program():
    return find('near0').xdp_program_id


@WAYS
@pytest.mark.parametrize('mode, taken', [
    ('auto', 'native'), ('native', 'native'), ('generic', 'generic')])
def test_attach_replace_detach(links, mode, taken):
    with pair() as (_, _, near), program() as first, program() as second:
        place = XdpAttachment(near, links=links)
        assert not place.attached and place.mode == ''
        place.attach(first, mode)
        assert (place.mode, place.way) == (taken, 'link' if links else 'netlink')
        assert place.attached and find('near0').xdp_mode == taken
        assert attached_program() == syscall.prog_info(first).id
        place.replace(second)
        assert place.attached and attached_program() == syscall.prog_info(second).id
        place.detach()
        assert not place.attached and attached_program() == 0 and place.mode == ''
        place.detach()
        place.attach(first, mode)
        place.detach()


@WAYS
def test_auto_says_why_not_native(links):
    with program() as fd:
        place = XdpAttachment(find('lo'), links=links)
        with Namespace() as space, space.entered():
            place = XdpAttachment(find('lo'), links=links)
            place.attach(fd)
            assert place.mode == 'generic'
            assert place.notes[-1].startswith("native: the driver 'loopback' has no native XDP")
            place.detach()
            with pytest.raises(AttachError, match='has no native XDP.*; use mode auto or gen'):
                place.attach(fd, 'native')
            assert place.mode == '' and find('lo').xdp_program_id == 0


@WAYS
@pytest.mark.parametrize('mtu, frags, taken', [
    (1500, False, 'native'), (3500, False, 'native'), (9000, False, 'generic'),
    (65535, False, 'generic'), (9000, True, 'native'), (65535, True, 'native')])
def test_mtu(links, mtu, frags, taken):
    with pair(mtu) as (_, _, near), program(frags=frags) as fd:
        place = XdpAttachment(near, links=links)
        place.attach(fd)
        assert place.mode == taken
        assert ('Peer MTU is too large' in ' '.join(place.notes)) is (taken == 'generic')
        place.detach()
        if taken == 'generic':
            with pytest.raises(AttachError, match="lower the peer's MTU.*mode generic"):
                place.attach(fd, 'native')


@WAYS
def test_replaced_only_by_what_fits(links):
    with pair(9000) as (_, _, near), program(frags=True) as large, program() as small:
        place = XdpAttachment(near, links=links)
        place.attach(large)
        with pytest.raises(AttachError, match='above what the driver takes'):
            place.replace(small)
        assert place.attached and attached_program() == syscall.prog_info(large).id
        place.detach()


@WAYS
@pytest.mark.parametrize('theirs', ['native', 'generic'])
@pytest.mark.parametrize('by_link', [True, False], ids=['their_link', 'their_netlink'])
@pytest.mark.parametrize('mode', ['auto', 'native', 'generic'])
def test_another_s_program_stays(links, theirs, by_link, mode):
    with pair() as (_, _, near), program('somebody') as other, program() as ours:
        number = syscall.prog_info(other).id
        if by_link:
            link = syscall.link_create(other, near.index, AttachType.XDP, FLAGS[theirs])
        else:
            attach_by_route(near.index, other, theirs)
        place = XdpAttachment(near, links=links)
        with pytest.raises(OccupiedError, match=f"program {number} 'somebody' is attached in "
                           f'{theirs} mode.*and is not replaced; ') as refused:
            place.attach(ours, mode)
        assert refused.value.occupant.program_id == number and '\n' not in str(refused.value)
        assert refused.value.occupant.pids == ((os.getpid(),) if by_link else ())
        assert ('ip link set dev near0 xdp' in str(refused.value)) is not by_link
        assert attached_program() == number and not place.attached
        if by_link:
            os.close(link)
        else:
            detach_by_route(near.index, other, theirs)
        place.attach(ours, mode)
        place.detach()


def test_ours_stays_when_another_comes():
    with pair() as (_, _, near), program() as ours, program() as other:
        place = XdpAttachment(near)
        place.attach(ours)
        for command in (['xdp', 'off'], ['xdpgeneric', 'off'], ['xdpdrv', 'off']):
            subprocess.run(['ip', 'link', 'set', 'dev', 'near0', *command], capture_output=True)
        with pytest.raises(OSError):
            attach_by_route(near.index, other, 'native')
        with pytest.raises(OSError):
            detach_by_route(near.index, other, 'native')
        assert place.attached and attached_program() == syscall.prog_info(ours).id
        with pytest.raises(AttachError, match='attached by this one already'):
            place.attach(other)
        place.detach()


def test_netlink_detaches_only_its_own():
    with pair() as (_, _, near), program() as ours, program() as other:
        place = XdpAttachment(near, links=False)
        place.attach(ours)
        detach_by_route(near.index, ours, 'native')
        attach_by_route(near.index, other, 'native')
        assert not place.attached
        with pytest.raises(AttachError):
            place.replace(ours)
        place.detach()
        assert attached_program() == syscall.prog_info(other).id
        detach_by_route(near.index, other, 'native')


@WAYS
def test_the_interface_goes_and_comes_back(links):
    with pair() as (space, far, near), program() as fd:
        place = XdpAttachment(near, links=links)
        place.attach(fd)
        space.ip('link', 'del', 'near0')
        assert not place.attached and place.mode == 'native'
        with pytest.raises(AttachError, match='gone, or somebody detached us|; attach again'):
            place.replace(fd)
        place.detach()
        with pytest.raises(InterfaceError, match='the interface is gone; attach again'):
            place.attach(fd)
        space.ip('link', 'add', 'near0', 'type', 'veth', 'peer', 'name', 'far0', 'netns',
                 far.name)
        place = XdpAttachment(find('near0'), links=links)
        place.attach(fd)
        assert place.attached
        place.detach()


@WAYS
def test_from_another_thread_elsewhere(links):
    """Replacing and detaching do not depend on where the thread is."""
    with pair() as (_, far, near), program() as first, program() as second:
        place = XdpAttachment(near, links=links)
        place.attach(first)

        def elsewhere():
            with far.entered():
                place.replace(second)
                states.append(place.attached)
                place.detach()

        states = []
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert states == [True] and attached_program() == 0


@pytest.mark.parametrize('mode, reason', [
    ('offload', 'was not loaded for that device; use mode auto'),
    ('fast', "there is no mode 'fast'; use one of: auto, native, generic, offload")])
def test_refused_modes(mode, reason):
    with pair() as (_, _, near), program() as fd:
        with pytest.raises(AttachError, match=reason):
            XdpAttachment(near).attach(fd, mode)
        assert attached_program() == 0


def test_other_refusals():
    with pair() as (_, _, near), program() as fd:
        with pytest.raises(AttachError, match='none is attached; attach one'):
            XdpAttachment(near).replace(fd)
        with pytest.raises(InterfaceError, match='the interface is gone'):
            XdpAttachment(replace(near, index=9999)).attach(fd)
        with open('/dev/null') as no_program, pytest.raises(AttachError, match='; see '):
            XdpAttachment(near).attach(no_program.fileno())


def test_without_the_capability():
    """By netlink: a link asks for no capability of who has the program's descriptor."""
    with pair() as (_, _, near), program() as fd:
        code = ('from ipc_bypass.xdp.attach import XdpAttachment; '
                'from ipc_bypass.xdp.interfaces import find\n'
                f"try: XdpAttachment(find('near0'), links=False).attach({fd})\n"
                'except Exception as error: print(type(error).__name__, error)')
        done = subprocess.run(
            ['setpriv', '--bounding-set', '-net_admin,-sys_admin', sys.executable, '-c', code],
            capture_output=True, text=True, pass_fds=[fd])
        assert done.stdout.startswith(PrivilegeError.__name__), done
        assert 'needs CAP_NET_ADMIN' in done.stdout
        assert attached_program() == 0


@pytest.mark.parametrize('way', ['link', 'netlink'])
def test_killed(way):
    """A link ends with its process; what netlink attached stays, and is known by its name."""
    with pair() as (_, _, near):
        process = subprocess.Popen([sys.executable, '-c', CHILD, way], stdout=subprocess.PIPE,
                                   text=True)
        try:
            assert process.stdout.readline() == 'attached\n'
            taken = occupant(near)
            assert taken.pids == ((process.pid,) if way == 'link' else ())
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if way == 'link':
            wait_until(lambda: not attached_program(), 'the link ends')
            assert not remove_leftover(near, 'xdp_root')
            return
        assert attached_program()
        assert not remove_leftover(near, 'xdp_other')
        assert remove_leftover(near, 'xdp_root') and not attached_program()
        assert not remove_leftover(near, 'xdp_root')
