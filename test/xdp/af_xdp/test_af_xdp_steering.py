"""The steering slot: frame by frame, by real packets, and what its Python class says of it."""

from contextlib import contextmanager
import socket

from af_xdp_tools import SMALL
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.opening import open_sockets
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings
import pytest
from support.frames import (
    ethernet,
    extension,
    fragment6,
    ICMP,
    ICMP6,
    icmp_echo,
    ip4,
    ip6,
    MORE_FRAGMENTS,
    TCP,
    tcp,
    UDP,
    udp,
    udp4_frame,
    udp6_frame,
)
from support.xdp import PASS, REDIRECT, run_on

SLOT = 4
ARP_REQUEST, ARP_ANSWER = (ethernet(
    b'\0\1\x08\0\6\4\0' + bytes([operation]) + bytes(20), ethertype=0x0806)
    for operation in (1, 2))
PING = ethernet(ip4(icmp_echo(), protocol=ICMP))


def icmp6(kind):
    """Return an ICMPv6 message of a type in a frame; its checksum does not count here."""
    return ethernet(ip6(bytes([kind]) + bytes(23), protocol=ICMP6), ethertype=0x86dd)


@contextmanager
def steered(lab, templates):
    """Yield (RootArray, Steering) on near0, attached to nothing."""
    with lab[0].entered():
        array = RootArray(find('near0'), RootSettings(pin_directory=''), templates=templates)
    with array:
        yield array, Steering(array.load(SLOT, slot_program('af_xdp')).maps)


def outcomes(array, steering, frames):
    """Return (answer, outcome) of each frame."""
    found = []
    for data in frames:
        before = steering.counters()
        answer, _ = run_on(array.root_program, data)
        changed = [name for name, count in steering.counters().items() if count != before[name]]
        assert len(changed) == 1
        found.append((answer, changed[0]))
    return found


def test_each_frame_is_counted_under_one_outcome(lab, templates):
    enrolled = [
        udp4_frame(destination_port=4242), udp6_frame(destination_port=4242),
        udp4_frame(destination_port=4242, vlans=((0x8100, 7),)),
        udp4_frame(destination_port=4242, vlans=((0x88a8, 7), (0x8100, 8))),
        ethernet(ip4(udp(destination_port=4242), options=bytes(8))),
        ethernet(ip6(extension(udp(destination_port=4242), UDP), protocol=0), ethertype=0x86dd),
        ethernet(ip4(tcp(destination_port=5000), protocol=TCP)), PING, icmp6(128), icmp6(135),
        ARP_REQUEST]
    fragments = [
        ethernet(ip4(udp(destination_port=4242), fragment=MORE_FRAGMENTS)),
        ethernet(ip4(b'x' * 32, fragment=3)),
        ethernet(ip4(icmp_echo(), protocol=ICMP, fragment=3)),
        ethernet(ip6(fragment6(udp(destination_port=4242), UDP, more=True), protocol=44),
                 ethertype=0x86dd)]
    others = [
        udp4_frame(destination_port=4243), udp4_frame(destination_port=5000),
        ethernet(ip4(tcp(destination_port=4242), protocol=TCP)), ARP_ANSWER, icmp6(136),
        icmp6(129), ethernet(b'x' * 60, ethertype=0x88b5), udp4_frame(source_port=4242)]
    with steered(lab, templates) as (array, steering):
        steering.apply(SteeringSettings((4242,), (5000,), neighbours=True, echo=True))
        for frames, outcome in ((enrolled, 'no_socket'), (fragments, 'fragment'),
                                (others, 'not_enrolled')):
            assert outcomes(array, steering, frames) == [(PASS, outcome)] * len(frames)
        with lab[0].entered():
            sock, = open_sockets([('near0', 0)], SMALL)
        with sock:
            steering.set_socket(0, sock.fileno())
            # A test run names queue 0.
            assert set(outcomes(array, steering, enrolled)) == {(REDIRECT, 'redirected')}
            assert outcomes(array, steering, fragments[:1] + others[:1]) == [
                (PASS, 'fragment'), (PASS, 'not_enrolled')]
            steering.apply(SteeringSettings(everything=True))
            assert {outcome for _, outcome in outcomes(
                array, steering, enrolled + fragments + others)} == {'redirected'}
        assert array.counters()[SLOT]['redirect'] == steering.counters()['redirected']


def test_frames_that_are_cut_anywhere_are_counted_and_pass(lab, templates):
    with steered(lab, templates) as (array, steering):
        steering.apply(SteeringSettings((4242,), neighbours=True, echo=True))
        for data in (udp4_frame(b'', destination_port=4242),
                     udp6_frame(b'', destination_port=4242), PING, icmp6(135), ARP_REQUEST):
            for length in range(14, len(data)):
                answer, _ = run_on(array.root_program, data[:length])
                assert answer == PASS
        counters = steering.counters()
        assert sum(counters.values()) == array.counters()[SLOT]['pass']
        assert counters['redirected'] == 0


def test_nothing_is_steered_before_it_is_asked_for(lab, templates):
    with steered(lab, templates) as (array, steering):
        assert outcomes(array, steering, [udp4_frame(), PING, ARP_REQUEST]) == [
            (PASS, 'not_enrolled')] * 3


def test_settings_change_and_are_read_back(lab, templates):
    with steered(lab, templates) as (array, steering):
        first = SteeringSettings((4242, 7400), (4242,), neighbours=True)
        steering.apply(first)
        assert steering.read() == steering.settings == first
        # Another one on the same maps, as after a program was replaced, knows what is there.
        other = Steering(array.load(SLOT, slot_program('af_xdp')).maps)
        assert other.read() == first
        second = SteeringSettings((7400,), echo=True)
        other.apply(second)
        assert other.read() == second
        assert other.status().settings == second
        assert outcomes(array, other, [udp4_frame(destination_port=4242), udp4_frame()]) == [
            (PASS, 'not_enrolled'), (PASS, 'no_socket')]


def test_the_node_and_pipelines_do_not_touch_each_other(lab, templates):
    with steered(lab, templates) as (array, _):
        maps = array.load(SLOT, slot_program('af_xdp')).maps
        node, pipeline = Steering(maps), Steering(maps, holder='pipeline')
        node.apply(SteeringSettings((7400, 7401), neighbours=True))
        pipeline.apply(SteeringSettings((7401, 4242), echo=True))
        wanted = [udp4_frame(destination_port=port) for port in (7400, 7401, 4242)]
        wanted += [ARP_REQUEST, PING]
        assert outcomes(array, node, wanted) == [(PASS, 'no_socket')] * 5
        # The node replaces the slot, as a new program does, and then has other settings.
        Steering(maps).apply(SteeringSettings())
        assert pipeline.read() == SteeringSettings((4242, 7401), echo=True)
        assert outcomes(array, node, wanted) == [
            (PASS, outcome) for outcome in ('not_enrolled', 'no_socket', 'no_socket',
                                            'not_enrolled', 'no_socket')]
        node.apply(SteeringSettings((7400,), everything=True))
        pipeline.apply(SteeringSettings())
        assert node.read() == SteeringSettings((7400,), everything=True)
        assert outcomes(array, node, wanted) == [(PASS, 'no_socket')] * 5


def test_frames_of_several_buffers(lab, templates):
    with lab[0].entered():
        array = RootArray(find('near0'), RootSettings(frags='on', pin_directory=''),
                          templates=templates)
        sock, = open_sockets([('near0', 0)], SMALL)
    with array, sock:
        steering = Steering(array.load(SLOT, slot_program('af_xdp')).maps)
        steering.apply(SteeringSettings((4242,)))
        large = [udp4_frame(bytes(8900), destination_port=4242),
                 udp6_frame(bytes(8900), destination_port=4242)]
        assert outcomes(array, steering, [*large, udp4_frame(bytes(8900))]) == [
            (PASS, 'no_socket')] * 2 + [(PASS, 'not_enrolled')]
        steering.set_socket(0, sock.fileno())
        assert outcomes(array, steering, large) == [(REDIRECT, 'redirected')] * 2


def test_a_port_that_is_none_is_refused():
    for port in (0, 65536, 'http'):
        with pytest.raises(BypassError, match='it is no port; use 1 to 65535'):
            SteeringSettings(tcp_ports=(port,))


def test_entries_are_seen_and_guarded(lab, templates):
    with steered(lab, templates) as (_, steering), lab[0].entered():
        assert steering.sockets() == {}
        with open_sockets([('near0', 0)], SMALL)[0] as sock, socket.socket() as stranger:
            steering.set_socket(0, sock.fileno())
            assert steering.sockets() == {0: 0}
            steering.set_socket(0, sock.fileno())
            with pytest.raises(BypassError, match='that is no AF_XDP socket'):
                steering.set_socket(1, stranger.fileno())
            with pytest.raises(BypassError, match='the map has 64 entries'):
                steering.set_socket(64, sock.fileno())
            steering.set_socket(3, sock.fileno())
            assert steering.sockets() == {0: 0, 3: 0}
            steering.clear_socket(3)
            assert steering.sockets() == {0: 0}
        # The kernel takes the entry of a closed socket out.
        assert steering.sockets() == {}


def test_another_socket_is_never_put_out(lab, templates):
    with steered(lab, templates) as (_, steering), lab[0].entered():
        with open_sockets([('near0', 0)], SMALL)[0] as sock, \
                socket.socket(44, socket.SOCK_RAW, 0) as other:
            steering.set_socket(0, sock.fileno())
            with pytest.raises(BypassError, match='another socket stands there'):
                steering.set_socket(0, other.fileno())
