"""Interfaces by name, glob and bridge; what is told of them; the far end of a veth."""

import os
import socket
import threading

from interface_tools import needs_privilege, pair, program
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.features import xdp_features, XdpFeature
from ipc_bypass.xdp.interfaces import find, find_index, interfaces, select
from ipc_bypass.xdp.netlink import attribute, attributes, nested, NetlinkError, NetlinkSocket
from ipc_bypass.xdp.peer import inside, peer, peer_namespace
import pytest
from support.capability import need_xdp_features
from support.frames import FAR_MAC, NEAR_MAC
from support.namespaces import ip, Namespace

pytestmark = needs_privilege


def names(found):
    return [interface.name for interface in found]


def test_one_interface():
    with pair(1400) as (_near, _far, near):
        assert (near.name, near.kind, near.driver, near.mtu) == ('near0', 'veth', 'veth', 1400)
        assert (near.index, near.mac, near.up) == (socket.if_nametoindex('near0'), NEAR_MAC, True)
        assert (near.rx_queues, near.tx_queues, near.master) == (1, 1, 0)
        assert (near.xdp_program_id, near.xdp_mode) == (0, '')
        loopback = find('lo')
        assert (loopback.kind, loopback.peer_index, loopback.peer_namespace_id) \
            == ('loopback', 0, -1)
        assert find_index(near.index) == near
        assert interfaces() == [loopback, near]


def test_queues_are_those_in_use():
    with Namespace() as space, space.entered():
        space.ip('link', 'add', 'v0', 'numrxqueues', '4', 'numtxqueues', '2', 'type', 'veth',
                 'peer', 'name', 'v1')
        assert (find('v0').rx_queues, find('v0').tx_queues) == (4, 2)


@pytest.mark.parametrize('flag, mode', [(1 << 1, 'generic'), (1 << 2, 'native')])
def test_the_program_and_its_mode(flag, mode):
    with pair() as (_, _, near), program() as fd:
        link = syscall.link_create(fd, near.index, AttachType.XDP, flag)
        now = find('near0')
        assert (now.xdp_program_id, now.xdp_mode) == (syscall.prog_info(fd).id, mode)
        os.close(link)
        assert find('near0') == near


def test_the_far_end_in_another_namespace():
    with pair() as (_, far, near):
        assert near.peer_index and near.peer_namespace_id >= 0
        other = peer(near)
        assert (other.name, other.mac, other.kind) == ('far0', FAR_MAC, 'veth')
        namespace = peer_namespace(near)
        assert namespace.path == f'/run/netns/{far.name}'
        before = os.stat('/proc/thread-self/ns/net').st_ino
        assert inside(namespace, lambda: find('far0')).index == other.index
        assert os.stat('/proc/thread-self/ns/net').st_ino == before
        with pytest.raises(InterfaceError):
            inside(namespace, lambda: find('near0'))


def test_the_far_end_in_this_namespace():
    with Namespace() as space, space.entered():
        space.ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1')
        v0 = find('v0')
        assert v0.peer_namespace_id == -1
        assert peer(v0).name == 'v1'
        assert peer_namespace(v0).inode == os.stat('/proc/thread-self/ns/net').st_ino
        assert peer(find('lo')) is None and peer_namespace(find('lo')) is None


def test_a_namespace_that_is_gone():
    with pair() as (_, far, near):
        namespace = peer_namespace(near)
        far.close()
        with pytest.raises(FileNotFoundError):
            inside(namespace, interfaces)
        ip('netns', 'add', far.name)  # for its owner to close


@pytest.fixture
def bridged():
    """Have this thread in a namespace with bridges and what hangs on them."""
    with Namespace() as space, space.entered():
        for name in ('br0', 'br1'):
            space.ip('link', 'add', name, 'type', 'bridge')
        for name, master in (('veth0', 'br0'), ('veth1', 'br0'), ('other0', None)):
            space.ip('link', 'add', name, 'type', 'veth', 'peer', 'name', f'p{name}')
            if master:
                space.ip('link', 'set', name, 'master', master)
        yield space


@pytest.mark.parametrize('patterns, expected', [
    (['veth1'], ['veth1']),
    (['veth*'], ['veth0', 'veth1']),
    (['veth1', 'veth*', 'veth0'], ['veth0', 'veth1']),
    (['veth[1-9]', 'lo'], ['lo', 'veth1']),
    (['bridge:br0'], ['veth0', 'veth1']),
    (['bridge:br*'], ['veth0', 'veth1']),
    (['br0'], ['br0']),
    (['?0'], []),
], ids=str)
def test_patterns(bridged, patterns, expected):
    assert sorted(names(select(patterns, allow_none=True))) == expected
    if expected:
        assert sorted(names(select(patterns))) == expected


def test_a_star_leaves_the_loopback_out(bridged):
    assert 'lo' not in names(select(['*'])) and len(select(['*'])) == 8


@pytest.mark.parametrize('patterns, reason', [
    (['nothere'], 'there is none in this network namespace'),
    (['nothere*'], 'there is none in this network namespace'),
    (['veth0', 'nothere'], 'there is none'),
    (['bridge:br7'], 'there is no such bridge'),
    (['bridge:veth0'], 'veth0 is no bridge'),
    (['bridge:br1'], 'the bridge has no veth among its ports'),
    (['bridge:'], 'it names no bridge'),
    (['port:veth0'], 'only bridge: can stand before a name'),
    (['a/b'], 'no slash and no white space'),
    (['a b'], 'no slash and no white space'),
    (['muchtoolonganame'], 'at most 15 bytes'),
    ([''], 'it is empty'),
    ([], 'no name is given'),
    ('veth0', 'no name is given'),
    ([7], 'it is empty'),
], ids=str)
def test_refused_patterns(bridged, patterns, reason):
    with pytest.raises(InterfaceError, match=reason) as refused:
        select(patterns)
    assert '\n' not in str(refused.value) and refused.value.next_step


@pytest.mark.parametrize('name', ['nothere', 'veth*', '', 'a/b'])
def test_nothing_found(bridged, name):
    with pytest.raises(InterfaceError, match='; '):
        find(name)


def test_nothing_found_by_index(bridged):
    with pytest.raises(InterfaceError, match='there is none'):
        find_index(9999)
    with pytest.raises(InterfaceError, match='neighbouring namespace 77'):
        find_index(1, 77)


def test_every_thread_sees_its_own_namespace(bridged):
    seen = []
    elsewhere = threading.Thread(target=lambda: seen.append(names(interfaces())))
    elsewhere.start()  # it begins where this one is
    elsewhere.join()
    assert seen == [names(interfaces())]


def test_many_interfaces():
    with Namespace() as space, space.entered():
        for number in range(60):  # more than fit into one answer
            space.ip('link', 'add', f'v{number}', 'type', 'veth', 'peer', 'name', f'w{number}')
        assert len(interfaces()) == 121 and len(select(['v*'])) == 60


def test_what_the_kernel_says_of_xdp():
    need_xdp_features()
    with pair() as (_, far, near), far.entered():
        assert XdpFeature.BASIC in xdp_features(find('far0').index)
        assert xdp_features(9999) is None


def test_the_kernel_s_own_words():
    with Namespace() as space, space.entered(), NetlinkSocket() as route:
        with pytest.raises(NetlinkError) as refused:  # a new interface of no kind
            route.ask(16, bytes(16) + nested(18, attribute(1, b'nokind\0')))
        assert refused.value.errno and refused.value.strerror
        assert len(route.ask(18, bytes(16), dump=True)) == 1  # the socket works on


def test_attributes_that_are_cut():
    whole = attribute(3, b'name\0') + attribute(4, 1500)
    assert attributes(whole) == {3: b'name\0', 4: (1500).to_bytes(4, 'little')}
    for length in range(len(whole)):
        assert set(attributes(whole[:length])) <= {3, 4}
