"""Containers that come, go and change under traffic: no frame to a wrong place."""

import os
import socket
import subprocess

from fast_path_lab import grown, in_use, Lab, numbers, object_ids, PORT, status, Traffic
from ipc_bypass.kernel import instructions, syscall
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings
import pytest
from support.waiting import wait_until

OTHER_MAC = '02:00:00:00:99:01'


@pytest.fixture
def lab():
    with Lab() as made:
        made.add()
        made.add()
        made.acquaint()
        yield made


@pytest.fixture
def path(lab, leaks):
    made = lab.attach(FastPath(FastPathSettings(('br*',), (str(PORT),), heartbeat_ms=5000)))
    leaks.note(object_ids(made))
    in_use(made, *lab.containers)
    return made


def out_of_use(path, container, reason):
    """Wait until a container is out of use, for a reason."""
    wait_until(lambda: reason in status(path, container).obstacle, reason)
    assert not status(path, container).in_use


def flows_fast(path, traffic):
    """Wait until traffic is handed over."""
    before = path.counters()
    traffic.goes_on()
    wait_until(lambda: grown(path, before).get('packets', 0) > 20, 'handed over')


def goes_by_the_bridge(path, traffic, server):
    """Check that traffic arrives, and none of it is handed over."""
    before = path.counters()
    first = traffic.goes_on(2)
    last = traffic.goes_on()
    wait_until(lambda: last - 1 in numbers(server), 'by the bridge')
    assert 'packets' not in grown(path, before)
    return first


def test_a_container_goes_and_its_addresses_come_back_elsewhere(lab, path):
    first, second = lab.containers
    server = second.socket(bind=PORT)
    with Traffic(first, second) as traffic:
        flows_fast(path, traffic)
        second.unplug()
        traffic.goes_on()
        third = lab.add(2, mac=second.mac)
        with third.socket(bind=PORT) as there:
            in_use(path, third)
            flows_fast(path, traffic)
            assert numbers(there)
        assert numbers(server)
    server.close()


def test_a_namespace_is_not_kept_from_ending(lab, path):
    _, second = lab.containers
    third = lab.add()
    in_use(path, third, second)
    subprocess.run(['ip', 'netns', 'del', third.name], check=True)
    index = third.port
    wait_until(lambda: index not in {port.name for port in path.ports()}, 'the veth is gone')
    subprocess.run(['ip', 'netns', 'add', third.name], check=True)


def test_mac_and_address_go_to_another_container(lab, path):
    first, second = lab.containers
    third = lab.add()
    in_use(path, third)
    with Traffic(first, second) as traffic, second.socket(bind=PORT) as old, \
            third.socket(bind=PORT) as new:
        flows_fast(path, traffic)
        second.ip('link', 'set', 'eth0', 'address', OTHER_MAC)
        second.ip('address', 'flush', 'dev', 'eth0')
        third.ip('link', 'set', 'eth0', 'address', second.mac)
        third.own(second.address, second.address_v6)
        third.ip('neigh', 'replace', first.address, 'lladdr', first.mac, 'dev', 'eth0')
        with third.socket() as client:
            client.sendto(b'here', (first.address, PORT))  # so that the bridge learns
        moved = traffic.sent
        flows_fast(path, traffic)
        wait_until(lambda: [number for number in numbers(new) if number > moved], 'arrives')
        assert all(number <= moved for number in numbers(old)), 'to the old place'
        assert status(path, third).mac == second.mac and status(path, third).in_use


def test_an_address_goes_to_a_container_with_another_mac(lab, path):
    first, second = lab.containers
    third = lab.add()
    in_use(path, third)
    with Traffic(first, second) as traffic, second.socket(bind=PORT) as old, \
            third.socket(bind=PORT) as new:
        flows_fast(path, traffic)
        second.ip('address', 'del', f'{second.address}/24', 'dev', 'eth0')
        third.own(second.address, second.address_v6)
        moved, before = traffic.sent, path.counters()
        traffic.goes_on()
        in_use(path, second)
        # The sender still has the old MAC: as by the bridge, nobody takes them.
        wait_until(lambda: traffic.goes_on() and grown(path, before).get('passed_address'),
                   'with the old MAC')
        assert all(number <= moved for number in numbers(old)) and not numbers(new)
        first.ip('neigh', 'replace', second.address, 'lladdr', third.mac, 'dev', 'eth0')
        flows_fast(path, traffic)
        wait_until(lambda: numbers(new), 'at the new place')
        assert not numbers(old)


def test_the_keeper_outlives_what_nobody_expected(lab, path, monkeypatch):
    keeper, tables = path._keeper, type(path._keeper._tables)
    with monkeypatch.context() as broken:
        def fail(*arguments):
            raise ValueError('unexpected')
        broken.setattr(tables, 'beat', fail)
        wait_until(lambda: keeper.problem == 'unexpected', 'said')
        wait_until(lambda: not any(status(path, each).in_use for each in lab.containers),
                   'out of use')
        broken.setattr(tables, 'disable', fail)
        wait_until(lambda: keeper._unsafe, 'it cannot be taken out of use either')
        assert keeper._thread.is_alive()
    keeper.look_soon()
    in_use(path, *lab.containers)
    wait_until(lambda: not keeper.problem, 'it goes on')


def test_a_mac_that_two_containers_have(lab, path):
    first, second = lab.containers
    third = lab.add()
    in_use(path, third)
    third.ip('link', 'set', 'eth0', 'address', second.mac)
    out_of_use(path, second, 'same MAC')
    out_of_use(path, third, 'same MAC')
    with Traffic(first, second) as traffic:
        before = path.counters()
        traffic.goes_on()
        assert 'packets' not in grown(path, before)
        third.ip('link', 'set', 'eth0', 'address', third.mac)
        in_use(path, second, third)
        flows_fast(path, traffic)


def test_the_same_addresses_on_two_bridges(lab, path):
    first, second = lab.containers
    lab.bridge('br1')
    third, fourth = (lab.add(host, mac=like.mac, bridge='br1')
                     for host, like in ((1, first), (2, second)))
    third.knows(fourth)
    in_use(path, third, fourth)
    before = path.counters()
    with second.socket(bind=PORT) as one, fourth.socket(bind=PORT) as other, \
            first.socket() as client, third.socket() as other_client:
        for _ in range(50):
            client.sendto(b'one', (second.address, PORT))
            other_client.sendto(b'other', (fourth.address, PORT))
        assert {one.recv(10) for _ in range(50)} == {b'one'}
        assert {other.recv(10) for _ in range(50)} == {b'other'}
    assert grown(path, before)['packets'] == 100


def set_port(lab, container, *options):
    subprocess.run(lab.switch.command('bridge', 'link', 'set', 'dev', container.port, *options),
                   check=True)


@pytest.mark.parametrize(('change', 'undo', 'reason', 'arrives'), [
    (('isolated', 'on'), ('isolated', 'off'), 'isolated', True),
    (('locked', 'on'), ('locked', 'off'), 'locked', True),
    (('state', '0'), ('state', '3'), 'does not forward', False)])
def test_what_a_bridge_port_is_told(lab, path, change, undo, reason, arrives):
    first, second = lab.containers
    with Traffic(first, second) as traffic, second.socket(bind=PORT) as server:
        flows_fast(path, traffic)
        set_port(lab, second, *change)
        out_of_use(path, second, reason)
        numbers(server)
        if arrives:
            goes_by_the_bridge(path, traffic, server)
        else:
            traffic.goes_on()
            assert not numbers(server)
        set_port(lab, second, *undo)
        in_use(path, second)
        flows_fast(path, traffic)


def test_isolated_ports_do_not_reach_each_other(lab, path):
    first, second = lab.containers
    set_port(lab, first, 'isolated', 'on')
    set_port(lab, second, 'isolated', 'on')
    out_of_use(path, first, 'isolated')
    out_of_use(path, second, 'isolated')
    with Traffic(first, second) as traffic, second.socket(bind=PORT) as server:
        traffic.goes_on()
        assert not numbers(server)


def test_a_port_that_goes_to_another_bridge(lab, path):
    first, second = lab.containers
    lab.bridge('br1')
    with Traffic(first, second) as traffic, second.socket(bind=PORT) as server:
        flows_fast(path, traffic)
        lab.switch.ip('link', 'set', second.port, 'master', 'br1')
        wait_until(lambda: status(path, second).bridge == 'br1' and status(path, second).in_use,
                   'on the other bridge')
        numbers(server)
        traffic.goes_on()
        assert not numbers(server)
        lab.switch.ip('link', 'set', second.port, 'nomaster')
        wait_until(lambda: second.port not in {port.name for port in path.ports()}, 'no port')
        traffic.goes_on()
        assert not numbers(server)
        assert lab.programs(second.port) == []


@pytest.mark.parametrize(('inside', 'reason'), [
    (('link', 'set', 'eth0', 'down'), 'does not forward'), (None, 'queueing discipline'),
    ('bridge', 'belongs to a bridge')])
def test_what_else_speaks_against_a_container(lab, path, inside, reason):
    _, second = lab.containers
    if inside is None:
        done = subprocess.run(lab.switch.command('tc', 'qdisc', 'add', 'dev', second.port, 'root',
                                                 'pfifo'), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif inside == 'bridge':
        second.ip('link', 'add', 'inner', 'type', 'bridge')
        second.ip('link', 'set', 'eth0', 'master', 'inner')
    else:
        second.ip(*inside)
    out_of_use(path, second, reason)


def test_a_program_of_somebody_else_at_the_port(lab, path):
    _, second = lab.containers
    program = syscall.prog_load(ProgType.SCHED_CLS, instructions.leave(0), name='somebody')
    with lab.switch.entered():
        link = syscall.link_create(program, lab.index(second.port), AttachType.TCX_EGRESS)
    out_of_use(path, second, 'another tc program (somebody)')
    os.close(link)
    os.close(program)
    in_use(path, second)


def test_an_xdp_program_in_the_container(lab, path):
    _, second = lab.containers
    program = syscall.prog_load(ProgType.XDP, instructions.leave(2), name='inside')
    with second.entered():
        link = syscall.link_create(program, socket.if_nametoindex('eth0'), AttachType.XDP)
    out_of_use(path, second, 'has an XDP program')
    os.close(link)
    os.close(program)
    in_use(path, second)


def test_a_container_that_forwards_gets_what_it_forwards_by_the_bridge(lab, path):
    first, router = lab.containers
    lab.bridge('br1')
    far = lab.add(9, bridge='br1')
    router.sysctl('net.ipv4.ip_forward', 1)
    router.ip('link', 'add', 'eth1', 'type', 'veth', 'peer', 'name', 'uplink', 'netns',
              lab.switch.name)
    lab.switch.ip('link', 'set', 'uplink', 'master', 'br1', 'up')
    router.ip('link', 'set', 'eth1', 'up')
    router.ip('address', 'add', '10.126.0.1/24', 'dev', 'eth1')
    far.ip('address', 'add', '10.126.0.2/24', 'dev', 'eth0')
    first.ip('route', 'add', '10.126.0.0/24', 'via', router.address)
    before = path.counters()
    with far.socket(bind=PORT) as server, first.socket() as client:
        client.sendto(b'routed', ('10.126.0.2', PORT))
        assert server.recv(10) == b'routed'
    assert grown(path, before)['passed_address'] >= 1


def test_messages_that_are_lost(lab, path, monkeypatch):
    first, second = lab.containers
    with Traffic(first, second) as traffic:
        flows_fast(path, traffic)
        lost = []

        def take(message, doubt, real=path._keeper._changes.take):
            lost.append(message)
            real(None, doubt)
        monkeypatch.setattr(path._keeper._changes, 'take', take)
        before = path.counters()
        second.ip('link', 'set', 'eth0', 'alias', 'news')
        # Everything goes out of use, and comes back after the next look.
        wait_until(lambda: lost and grown(path, before).get('passed_source', 0)
                   + grown(path, before).get('passed_no_entry', 0), 'out of use')
        in_use(path, first, second)
        flows_fast(path, traffic)
