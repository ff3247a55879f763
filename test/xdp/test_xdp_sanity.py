"""What is found before attaching: reasons, next steps, refusals; and that attaching agrees."""

import os

from interface_tools import ethtool, needs_privilege, pair, program
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.xdp.attach import XdpAttachment
from ipc_bypass.xdp.errors import InterfaceError, SanityError
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.sanity import check, NOTE, PEER_MTU_LIMIT, REFUSAL, WARNING
import pytest
from support.capability import need_xdp_features
from support.namespaces import Namespace

pytestmark = needs_privilege


def words(found):
    return {finding.word: finding.level for finding in found}


def test_nothing_to_say():
    with pair() as (_, far, near):
        ethtool(far, '-K', 'far0', 'gro', 'on')
        assert [str(finding) for finding in check(near)] == []
        assert check(near, 'native') == () and check(near, 'generic') == ()


def test_down_and_partial_checksums():
    with pair(plain_checksums=False) as (space, far, near):
        far.ip('link', 'set', 'far0', 'down')
        space.ip('link', 'set', 'near0', 'down')
        found = words(check(near, 'native'))
        assert found['down'] == found['peer_down'] == found['peer_checksums'] == WARNING
        for finding in check(near):
            assert '\n' not in str(finding) and finding.next_step


@pytest.mark.parametrize('own, other, frags, native', [
    (1500, PEER_MTU_LIMIT, False, True),
    (1500, PEER_MTU_LIMIT + 1, False, False),
    (9000, 1500, False, True),
    (1500, 9000, False, False),
    (9000, 9000, True, True),
    (65535, 65535, True, True),
    (65535, 65535, False, False),
])
def test_mtu_as_the_kernel_sees_it(own, other, frags, native):
    """What the check says of native mode is what attaching finds."""
    with pair() as (space, far, near), program(frags=frags) as fd:
        space.ip('link', 'set', 'near0', 'mtu', str(own))
        far.ip('link', 'set', 'far0', 'mtu', str(other))
        taken = XdpAttachment(near)
        taken.attach(fd, 'auto')
        assert taken.mode == ('native' if native else 'generic')
        assert ('Peer MTU' in ' '.join(taken.notes)) is not native
        taken.detach()
        found = words(check(near, 'auto', frags=frags))
        assert ('peer_mtu' in found) is not native
        if native:
            check(near, 'native', frags=frags)
            return
        assert found['peer_mtu'] == WARNING
        with pytest.raises(SanityError, match=f'MTU.*far0 is {other}.*mtu 1500') as refused:
            check(near, 'native', frags=frags)
        assert words(refused.value.findings)['peer_mtu'] == REFUSAL
        assert 'peer_mtu' not in words(check(near, 'generic'))


def test_queues():
    with Namespace() as space, space.entered(), program() as fd:
        space.ip('link', 'add', 'v0', 'numrxqueues', '1', 'numtxqueues', '1', 'type', 'veth',
                 'peer', 'name', 'v1', 'numrxqueues', '1', 'numtxqueues', '4')
        v0 = find('v0')
        assert words(check(v0))['queues'] == WARNING
        with pytest.raises(SanityError, match='1 receive queues, fewer than the 4'):
            check(v0, 'native')
        taken = XdpAttachment(v0)
        taken.attach(fd)
        assert taken.mode == 'generic' and 'rx queues' in taken.notes[0]
        taken.detach()
        ethtool(space, '-L', 'v1', 'tx', '1')
        assert 'queues' not in words(check(v0, 'native'))


def test_modes_that_a_driver_has_not():
    with Namespace() as space, space.entered():
        space.ip('link', 'add', 'br0', 'type', 'bridge')
        for name in ('lo', 'br0'):
            assert words(check(find(name)))['native'] == NOTE
            with pytest.raises(SanityError, match='has no native XDP; use mode auto'):
                check(find(name), 'native')
            assert 'native' not in words(check(find(name), 'generic'))


def test_offload():
    need_xdp_features()
    with pair() as (_, _, near):
        with pytest.raises(SanityError, match='runs no XDP in hardware; use mode auto'):
            check(near, 'offload')


def test_redirect_to_a_veth_needs_napi_at_its_peer():
    need_xdp_features()
    with pair() as (_, far, near):
        assert words(check(near))['peer_napi'] == NOTE
        with far.entered(), program() as fd:
            link = syscall.link_create(fd, find('far0').index, AttachType.XDP, 1 << 2)
        assert 'peer_napi' not in words(check(near))
        os.close(link)
        assert 'peer_napi' in words(check(near))
        ethtool(far, '-K', 'far0', 'gro', 'on')
        assert 'peer_napi' not in words(check(near))


def test_taken_by_another():
    with pair() as (_, _, near), program('somebody') as fd:
        link = syscall.link_create(fd, near.index, AttachType.XDP, 1 << 2)
        number = syscall.prog_info(fd).id
        with pytest.raises(SanityError, match=f"program {number} 'somebody' is attached in native "
                           f'mode by link .* of process {os.getpid()} .*is not replaced'):
            check(find('near0'))
        os.close(link)


def test_a_dispatcher_is_no_refusal():
    with pair() as (_, _, near), program('xdp_dispatcher') as fd:
        link = syscall.link_create(fd, near.index, AttachType.XDP, 1 << 2)
        assert words(check(near))['dispatcher'] == NOTE
        os.close(link)


def test_a_port_of_a_bridge():
    with pair() as (space, _, near):
        space.ip('link', 'add', 'br0', 'type', 'bridge')
        space.ip('link', 'set', 'near0', 'master', 'br0')
        assert words(check(near))['master'] == NOTE


def test_gone():
    with pair() as (space, _, near):
        space.ip('link', 'del', 'near0')
        with pytest.raises(InterfaceError):
            check(near)
