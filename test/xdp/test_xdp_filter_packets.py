"""The filter on a real interface, with sockets of both families at its far end."""

from contextlib import contextmanager, ExitStack
import errno
import socket

from filter_tools import needs_privileges, TEMPLATES
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
import pytest
from support.frames import FAR, FAR_V6, NEAR, NEAR_V6
from support.waiting import wait_until
from support.xdp import veth_lab

# uapi/linux/in.h, uapi/linux/in6.h: path MTU discovery on, and what it found.
IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DO = 10, 14, 2
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
PACKETS = 40


@contextmanager
def filtered():
    """Yield (near, far, Filter): the filter is on far0, native."""
    needs_privileges()
    with veth_lab() as (near, far), ExitStack() as stack:
        # A veth hands on at once what XDP_TX sends only where its other end has a program.
        stack.enter_context(attached(near, 'near0'))
        array = stack.enter_context(attached(far, 'far0'))
        yield near, far, Filter(array.load(2, slot_program('filter')).maps)


@contextmanager
def attached(space, name):
    """Yield a RootArray that is attached in a namespace."""
    with space.entered():
        array = RootArray(find(name), RootSettings(pin_directory=''), templates=TEMPLATES)
        try:
            array.attach('native')
            yield array
        finally:
            array.close()


@pytest.fixture(scope='module')
def lab():
    """Give the lab."""
    with filtered() as made:
        yield made


def receiver(space, family, address, port=0):
    """Return a UDP socket in a namespace."""
    with space.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(5)
    return made


def drained(sockets):
    """Return how many datagrams each has."""
    counts = []
    for one in sockets:
        one.setblocking(False)
        count = 0
        try:
            while True:
                one.recv(2000)
                count += 1
        except BlockingIOError:
            counts.append(count)
    return counts


@pytest.mark.parametrize('family, near_address, far_address', [
    (socket.AF_INET, NEAR, FAR), (socket.AF_INET6, NEAR_V6, FAR_V6)], ids=['v4', 'v6'])
def test_sockets_get_what_passes_and_nothing_else(lab, family, near_address, far_address):
    near, far, filter_ = lab
    with receiver(far, family, far_address) as denied, \
            receiver(far, family, far_address) as allowed, \
            receiver(near, family, near_address) as sender:
        shut, opened = denied.getsockname()[1], allowed.getsockname()[1]
        filter_.apply(FilterSettings(rules=[f'deny udp {shut}', f'deny udp {opened} not-rtps']))
        before = filter_.status()
        for _ in range(PACKETS):
            for port, payload in ((shut, b'RTPS'), (opened, b'RTPS-'), (opened, b'else')):
                sender.sendto(payload, (far_address, port))
        dropped = 'ip_drop_count' if family == socket.AF_INET else 'ip6_drop_count'

        def outcomes():
            now = filter_.status().outcomes
            return {name: now[name] - before.outcomes[name] for name in (dropped, 'not_rtps')}
        wait_until(lambda: outcomes() == {dropped: PACKETS, 'not_rtps': PACKETS}, 'drops')
        assert [rule.packets for rule in filter_.status().rules] == [PACKETS, PACKETS]
        wait_until(lambda: allowed.recv(100, socket.MSG_PEEK), 'a datagram')
        assert drained([denied, allowed]) == [0, PACKETS]
        # What was dropped passes once its rule is gone, without a reload.
        filter_.remove(f'deny udp {shut}')
        sender.sendto(b'late', (far_address, shut))
        denied.settimeout(5)
        assert denied.recv(100) == b'late'


def test_only_a_domain_and_its_peers(lab):
    """Default deny: neighbours are found by ARP and ICMPv6, and the graph has its ports."""
    near, far, filter_ = lab
    filter_.apply(FilterSettings(default_action='deny', rules=[
        'allow icmp6', f'allow domain 7 from {NEAR}/24'.replace('.1/', '.0/').replace(
            '.2/', '.0/'), f'allow domain 7 from {NEAR_V6.rsplit("::")[0]}::/64']))
    near.ip('neigh', 'flush', 'all')
    for family, near_address, far_address in ((socket.AF_INET, NEAR, FAR),
                                              (socket.AF_INET6, NEAR_V6, FAR_V6)):
        with receiver(far, family, far_address, 9160) as inside, \
                receiver(far, family, far_address, 9500) as outside, \
                receiver(near, family, near_address) as sender:
            sender.sendto(b'out', (far_address, 9500))
            sender.sendto(b'in', (far_address, 9160))
            assert inside.recv(100) == b'in'
            assert drained([outside]) == [0]
    filter_.apply(FilterSettings())


@pytest.mark.parametrize('family, discover, do, mtu, near_address, far_address', [
    (socket.AF_INET, (socket.IPPROTO_IP, IP_MTU_DISCOVER), IP_PMTUDISC_DO,
     (socket.IPPROTO_IP, IP_MTU), NEAR, FAR),
    (socket.AF_INET6, (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER), IP_PMTUDISC_DO,
     (socket.IPPROTO_IPV6, IPV6_MTU), NEAR_V6, FAR_V6)], ids=['v4', 'v6'])
def test_a_kernel_takes_the_answer(lab, family, discover, do, mtu, near_address, far_address):
    """The sender's path MTU is what the answer says."""
    near, far, filter_ = lab
    filter_.apply(FilterSettings(ptb_send=True, ptb_mtu=1310, ptb_max_pps=1000))
    with receiver(far, family, far_address) as there, \
            receiver(near, family, near_address) as sender:
        sender.setsockopt(*discover, do)
        sender.connect(there.getsockname()[:2])

        def sent(size):
            try:
                return sender.send(bytes(size)) == size
            except OSError as error:  # the answer to an earlier one
                assert error.errno == errno.EMSGSIZE
                return False
        wait_until(lambda: not sent(1400) and sender.getsockopt(*mtu) == 1310, 'the path MTU')
        wait_until(lambda: filter_.status().outcomes['ptb_sent_count'] >= 1, 'the count')
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(2000)
        wait_until(lambda: sent(1200), 'a datagram that fits')
        there.settimeout(5)
        assert len(there.recv(2000)) == 1200
    filter_.apply(FilterSettings())
