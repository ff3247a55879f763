"""The container fast path on real bridges: what goes past them, and that it arrives."""

import os
import socket
import threading

from fast_path_lab import drain, grown, in_use, Lab, object_ids, OTHER_PORT, PORT, status, total
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings
import pytest
from support.waiting import wait_until

TCP_PORT = 7500


@pytest.fixture(scope='module')
def lab():
    with Lab() as made:
        made.add()
        made.add()
        made.add(mtu=1300)
        yield made


@pytest.fixture(scope='module')
def containers(lab):
    lab.acquaint()
    return tuple(lab.containers[:3])


@pytest.fixture(scope='module', params=['tcx', 'clsact'])
def path(request, lab, containers, leaks):
    with FastPath(FastPathSettings(('br*',), (f'{PORT}-{PORT + 9}',), (f'{TCP_PORT}',),
                                   attach_by=request.param, heartbeat_ms=5000)) as made:
        with lab.switch.entered():
            made.attach()
        leaks.note(object_ids(made))
        in_use(made, *containers)
        yield made


def exchange(sender, receiver, payload, port=PORT, family=socket.AF_INET):
    """Send a datagram, and return it as it arrived."""
    address = receiver.address if family == socket.AF_INET else receiver.address_v6
    with receiver.socket(family=family, bind=port) as server, \
            sender.socket(family=family) as client:
        client.sendto(payload, (address, port))
        return server.recv(65536)


@pytest.mark.parametrize('family', [socket.AF_INET, socket.AF_INET6])
def test_datagrams_are_handed_over(path, containers, family):
    first, second, _ = containers
    assert path.way == path.settings.attach_by and path.problem == ''
    before = path.counters()
    for size in (0, 1, 1400):
        payload = os.urandom(size)
        assert exchange(first, second, payload, family=family) == payload
        assert exchange(second, first, payload, port=PORT + 9, family=family) == payload
    found = grown(path, before)
    assert found['packets'] == 6
    assert found['bytes'] >= 2 * 1401 + 6 * 42


def test_a_connection_is_handed_over_in_both_directions(path, containers):
    first, second, _ = containers
    content, before = os.urandom(3 << 20), path.counters()
    with second.socket(socket.SOCK_STREAM, bind=TCP_PORT) as server, \
            first.socket(socket.SOCK_STREAM) as client:
        server.listen()
        client.connect((second.address, TCP_PORT))
        accepted, _ = server.accept()
        accepted.settimeout(20)
        with accepted:
            thread = threading.Thread(target=client.sendall, args=(content,))
            thread.start()
            received = bytearray()
            while len(received) < len(content):
                received += accepted.recv(1 << 20)
            thread.join()
            accepted.sendall(b'back')
            assert client.recv(10) == b'back'
    assert received == content
    found = grown(path, before)
    assert found['bytes'] > len(content)
    assert 'passed_too_big' not in found, 'segments in one buffer are no matter'


def test_large_segments_of_udp_are_handed_over(path, containers):
    first, second, _ = containers
    before, content = path.counters(), os.urandom(14000)
    with second.socket(bind=PORT) as server, first.socket() as client:
        client.setsockopt(socket.SOL_UDP, 103, 1400)  # UDP_SEGMENT
        client.sendto(content, (second.address, PORT))
        assert b''.join(server.recv(2000) for _ in range(10)) == content
    assert grown(path, before)['packets'] >= 1


def test_what_is_not_enrolled_goes_by_the_bridge(path, containers):
    first, second, _ = containers
    before = path.counters()
    assert exchange(first, second, b'x', port=OTHER_PORT) == b'x'
    found = grown(path, before)
    assert found['passed_not_enrolled'] >= 1
    assert 'packets' not in found


def test_fragments_and_large_frames_go_by_the_bridge(path, containers):
    first, second, small = containers
    before, content = path.counters(), os.urandom(4000)
    assert exchange(first, second, content) == content
    found = grown(path, before)
    assert found['passed_fragment'] == 3
    assert 'packets' not in found
    with small.socket(bind=PORT), first.socket() as client:
        client.sendto(bytes(1400), (small.address, PORT))  # the bridge drops it
        client.sendto(bytes(1200), (small.address, PORT))
    found = grown(path, before)
    assert (found['passed_too_big'], found['packets']) == (1, 1)


def test_tags_are_left_to_the_bridge(path, containers):
    first, second, _ = containers
    with first.frames() as sender, second.frames() as receiver:
        before = path.counters()
        frame = bytes.fromhex((second.mac + first.mac).replace(':', '')) + \
            bytes.fromhex('8100000508004500') + bytes(60)
        sender.send(frame)
        assert wait_until(lambda: drain(receiver), 'a frame with a tag')
        assert grown(path, before)['passed_vlan'] == 1


def test_who_sees_the_frames(path, lab, containers):
    first, second, _ = containers
    with lab.switch.entered():
        taps = {}
        for name in (first.port, 'br0', second.port):
            taps[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            taps[name].bind((name, 3))
    taps['eth0'] = second.frames()
    mark = os.urandom(16)
    assert exchange(first, second, mark) == mark
    seen = {name for name, tap in taps.items() if any(mark in frame for frame in drain(tap))}
    for tap in taps.values():
        tap.close()
    assert seen == {first.port, 'eth0'}


def test_what_is_shown_adds_up(path, lab, containers):
    first, second, _ = containers
    shown = status(path, second)
    assert (shown.bridge, shown.mac, shown.in_use, shown.obstacle) == (
        'br0', second.mac, True, '')
    assert {second.address, second.address_v6} <= set(shown.addresses)
    ports = path.ports()
    assert sum(total(each.counters) for each in ports) <= total(path.counters())
    before = total(status(path, first).counters)
    with first.socket() as client:
        for _ in range(100):
            client.sendto(b'x', (second.address, PORT))
    assert total(status(path, first).counters) >= before + 100


def test_ports_that_come_are_attached_to(path, lab, containers):
    first = containers[0]
    late = lab.add()
    first.knows(late)
    late.knows(first)
    in_use(path, late)
    before = path.counters()
    assert exchange(first, late, b'late') == b'late'
    assert exchange(late, first, b'late') == b'late'
    assert grown(path, before)['packets'] == 2
    late.unplug()
    wait_until(lambda: late.port not in {port.name for port in path.ports()}, 'gone')


def test_nothing_is_attached_after_detach(path, lab, containers):
    first, second, _ = containers
    path.detach()
    before = path.counters()
    assert exchange(first, second, b'x') == b'x'
    assert path.counters() == before and path.ports() == []
    assert lab.programs(first.port, second.port, 'br0') == []
    lab.attach(path)
    in_use(path, first, second)
    assert exchange(first, second, b'x') == b'x'
    assert grown(path, before)['packets'] == 1
    path.detach()
    assert lab.traffic_control() == ''


@pytest.mark.parametrize('settings', [
    {'udp_ports': ('0',)}, {'udp_ports': ('7-5',)}, {'tcp_ports': ('x',)},
    {'udp_ports': ('65536',)}, {'attach_by': 'xdp'}, {'heartbeat_ms': 1}, {'max_ports': 0}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(BypassError, match='; '):
        FastPath(FastPathSettings(**settings))
