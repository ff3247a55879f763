"""The filter where XDP cannot be had: beside the kernel, and on a program's own sockets."""

import socket

import filter_tools as tools
from ipc_bypass.kernel.errors import BypassError, RuleError
from ipc_bypass.xdp.filter.model import Model
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.socket_filter import filter_socket, release_socket
from ipc_bypass.xdp.filter.user_space import LIMIT, UserSpaceFilter
import pytest
from support.frames import FAR, FAR_V6, NEAR, NEAR_V6
from support.waiting import wait_until
from support.xdp import veth_lab

RTPS = b'RTPS' + bytes(12)


@pytest.fixture(scope='module')
def lab():
    """Give two namespaces."""
    tools.needs_privileges()
    with veth_lab() as made:
        yield made


def udp_socket(space, family, address, port=0):
    with space.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(5)
    return made


def test_frames_are_judged_beside_the_kernel(lab):
    near, far = lab
    seen = []
    with far.entered():
        beside = UserSpaceFilter('far0', FilterSettings(rules=[
            'deny udp 7400', 'deny udp 7401 not-rtps']), deliver=seen.append,
            reason='the driver refused')
    with beside, udp_socket(near, socket.AF_INET, NEAR) as sender, \
            udp_socket(far, socket.AF_INET, FAR, 7400) as receiver:
        beside.start()
        beside.start()
        for port, payload in ((7400, b'a'), (7401, RTPS), (7401, b'b'), (7402, b'c')):
            sender.sendto(payload, (FAR, port))
        # It says so: the kernel's sockets get what is dropped here.
        assert receiver.recv(10) == b'a'

        def counted():
            outcomes = beside.status().outcomes
            return [outcomes[name] for name in ('ip_drop_count', 'not_rtps', 'default_pass')]
        # The kernel sends some of its own meanwhile (router solicitations), which pass.
        wait_until(lambda: counted()[:2] == [1, 1] and counted()[2] >= 2, 'four frames')
        status = beside.status()
        assert status.engine == 'user space'
        assert status.reason == f'the driver refused; {LIMIT}'
        assert [rule.packets for rule in status.rules] == [1, 1]
        assert status.packets == sum(status.verdicts.values())
        assert len([frame for frame in seen if frame[12:14] == b'\x08\x00']) == 2
        assert beside.add('deny udp 7402').id == 3
        sender.sendto(b'd', (FAR, 7402))
        wait_until(lambda: beside.status().rules[2].packets == 1, 'the new rule')
        beside.remove(3)
        assert len(beside.rules()) == 2
        with pytest.raises(RuleError):
            beside.apply(FilterSettings(rules=['nonsense']))
        beside.stop()


def test_tags_that_the_kernel_took_out_are_put_back(lab):
    near, far = lab
    seen = []
    frames = [tools.ip4(tools.udp(1, port), tags=((kind, 7),))
              for port in (7400, 7401) for kind in (0x8100, 0x88a8)]
    with far.entered():
        beside = UserSpaceFilter('far0', FilterSettings(rules=['deny udp 7400']),
                                 deliver=seen.append)
    with near.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(('near0', 0))
    with beside, sender:
        for frame in frames:
            sender.send(frame)
        wait_until(lambda: beside.poll(0.01) is not None and all(
            frame in seen for frame in frames[2:]), 'the tagged frames')
        assert beside.status().outcomes['ip_drop_count'] == 2
    assert not set(frames[:2]) & set(seen)


def test_the_thread_outlives_an_error(lab):
    near, far = lab
    seen = []

    def deliver(frame):
        if b'refuse' in frame:
            raise ValueError('not that one')
        seen.append(frame)
    with far.entered():
        beside = UserSpaceFilter('far0', FilterSettings(), deliver=deliver)
    with beside, udp_socket(near, socket.AF_INET, NEAR) as sender:
        beside.start()
        sender.sendto(b'refuse', (FAR, 7400))
        wait_until(lambda: beside.problem, 'said')
        assert 'the thread failed: ValueError: not that one' in beside.status().reason
        sender.sendto(b'take', (FAR, 7400))
        wait_until(lambda: any(b'take' in frame for frame in seen), 'the next one')


def test_an_interface_that_is_not_there(lab):
    with lab[0].entered(), pytest.raises(BypassError, match='filter nothing0 in user space'):
        UserSpaceFilter('nothing0')


RULES = ['deny udp 7400', 'deny udp sport 7500', 'deny from 10.124.0.1', 'allow udp 7403',
         'deny udp 7401 not-rtps', 'allow udp 7401 from fd00:124::/64', 'deny udp 7402 rtps',
         f'deny udp 7403 from {NEAR_V6}', 'deny to fd00:124::/112', 'deny tcp',
         'allow udp 7404 from 10.124.0.0/31']


@pytest.mark.parametrize('default_action', ['allow', 'deny'])
@pytest.mark.parametrize('family, near_address, far_address', [
    (socket.AF_INET, NEAR, FAR), (socket.AF_INET6, NEAR_V6, FAR_V6)], ids=['v4', 'v6'])
def test_a_socket_drops_what_the_model_drops(lab, family, near_address, far_address,
                                             default_action):
    """Rules by and by; each time, the socket has what the model lets through."""
    near, far = lab
    build = tools.ip4 if family == socket.AF_INET else tools.ip6
    for count in range(len(RULES) + 1):
        settings = FilterSettings(rules=RULES[:count], default_action=default_action)
        table = FilterTable()
        table.replace(settings.rules)
        model = Model(settings, table.rules())
        for port in (7400, 7401, 7402, 7403, 7404):
            with udp_socket(far, family, far_address, port) as receiver:
                filter_socket(receiver, settings)
                expected = []
                for source in (7500, 7501):
                    with udp_socket(near, family, near_address, source) as sender:
                        for payload in (b'', b'RTP', RTPS, bytes(20)):
                            sender.sendto(payload, (far_address, port))
                            frame = build(tools.udp(source, port, payload), 17, near_address,
                                          far_address)
                            if model.judge(frame).outcome in ('rule_pass', 'default_pass'):
                                expected.append(payload)
                release_socket(receiver)
                with udp_socket(near, family, near_address) as sender:
                    sender.sendto(b'end', (far_address, port))
                got = []
                while not got or got[-1] != b'end':
                    got.append(receiver.recv(100))
                assert got[:-1] == expected, (RULES[:count], port)


def test_a_connection_is_refused_by_a_filter_on_the_listener(lab):
    near, far = lab
    with far.entered(), socket.create_server((FAR, 0)) as listener:
        port = listener.getsockname()[1]
        filter_socket(listener, FilterSettings(rules=[f'deny tcp {port} from {NEAR}']))
        with near.entered(), socket.socket() as client:
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.connect((FAR, port))
        release_socket(listener)
        release_socket(listener)
        with near.entered(), socket.create_connection((FAR, port), 5):
            pass


def test_rules_that_do_not_fit_a_socket(lab):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        assert filter_socket(one, FilterSettings(rules=[
            f'deny udp {port}' for port in range(1, 400)])) <= 4096
        with pytest.raises(BypassError, match='instructions'):
            filter_socket(one, FilterSettings(rules=[
                f'deny udp {port}' for port in range(1, 2000)]))
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(BypassError, match='neither'):
        filter_socket(one, FilterSettings())
