"""A node that is killed in mid-divert, and the start after it."""

import os

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
from ipc_bypass.kernel.uapi import AttachType
import numpy as np
import pytest
from support.capturing import datagrams, nothing_came
from support.leaks import alive
from support.receiving import Receiving
from support.udp_processes import ConsumerProcess, SenderProcess, UdpProcess
from support.waiting import wait_until

COUNT = 64 * 1000


@pytest.fixture
def node(ports, pin_directory, leaks, stack, privileged, tmp_path):
    """Return a function that starts a UdpProcess that diverts a port."""
    port = next(ports)

    def start(**settings):
        process = stack.enter_context(UdpProcess(
            [f'udp:{port}:divert'], **{
                'udp_path': 'cgroup_skb', 'pin_directory': pin_directory(), 'pool_size': 8 << 20,
                'control_socket': str(tmp_path / 'pool.sock'), 'heartbeat_ms': 5000,
                'slot_ttl_ms': 20000, **settings}))
        leaks.note(process.objects)
        process.port, process.control = port, process.settings['control_socket']
        return process
    return start


@pytest.fixture
def ends(routes, stack):
    """Return a function that makes the consumer, the sender and the receiver of a node."""
    def make(node):
        route = routes['loopback']
        receiver = stack.enter_context(route.receiver(node.port, buffer=1 << 28))
        consumer = stack.enter_context(ConsumerProcess(node.control, 1, COUNT))
        sender = stack.enter_context(SenderProcess(route.address, node.port))
        return consumer, sender, receiver
    return make


def again(make_udp, node):
    """Return a context manager: the start after a node's, over its pins."""
    return make_udp(*node.rules, pin_directory=node.settings['pin_directory'],
                    control_socket=node.control)


def attached():
    """Return the ids of the egress programs of the cgroup that the tests attach to."""
    fd = open_cgroup(find_cgroup2())
    try:
        return set(syscall.prog_query(fd, AttachType.CGROUP_INET_EGRESS))
    finally:
        os.close(fd)


def pinned_map(path):
    """Return the id of the map that is pinned at a path."""
    fd = syscall.obj_get(path)
    try:
        return syscall.map_info(fd).id
    finally:
        os.close(fd)


def nothing_left(node):
    """Assert that programs, maps and pins of a node are gone."""
    folder = node.settings['pin_directory']
    assert not folder or not os.path.exists(folder)
    for kind, numbers in node.objects.items():
        wait_until(lambda kind=kind, numbers=numbers: not alive(kind, numbers),
                   f'the {kind} are gone')


def test_killed_under_load(node, ends, make_udp, tmp_path, stack):
    """Each datagram comes once; the consumer takes what was left, and goes on with the next."""
    first = node()
    consumer, sender, receiver = ends(first)
    receiving = Receiving(receiver, 1, COUNT)
    consumer.ask('start')
    sender.tell('send', 0, COUNT // 2)
    wait_until(lambda: datagrams(first).get('captured_divert', 0) > 2000, 'it diverts')
    first.kill()
    assert not attached() & set(first.objects['programs'])
    sender.answer()
    wait_until(lambda: not consumer.ask('connected'), 'the consumer has seen it')
    with again(make_udp, first) as path:
        assert path.counters()['stranded_by_crash'] == 0
        wait_until(lambda: path.pool['leases'], 'the consumer is back')
        sender.ask('send', COUNT // 2, COUNT // 2)
        wait_until(lambda: not any(lease['pending'] for lease in path.pool['leases']),
                   'everything is taken')
        assert datagrams(path)['captured_divert'] > 0
        usual = receiving.finish()
        sums, captured = consumer.finish(tmp_path)
        assert sums['torn'] == sums['strangers'] == 0
        assert (captured + usual == 1).all(), (np.argwhere(captured + usual != 1), sums)
        assert captured[0, :COUNT // 2].any()
        consumer.kill()
    nothing_left(first)


def test_first_datagram_after_the_kill(node, ends, stack):
    """It is delivered the usual way, and so is what follows."""
    first = node(pin_directory='')
    consumer, sender, receiver = ends(first)
    sender.ask('one', 'diverted')
    nothing_came(receiver)
    assert consumer.ask('read', 10) == ['diverted']
    first.kill()
    for number in range(10):
        sender.ask('one', f'delivered {number}')
        assert receiver.recv(100) == b'delivered %d' % number
    assert consumer.ask('read') == []
    consumer.kill()
    nothing_left(first)


@pytest.mark.parametrize('taken', [0, 64], ids=['none_taken', 'some_taken'])
def test_stranded(node, ends, make_udp, taken):
    """Node and consumer killed: what was diverted and not taken is counted at the next start."""
    first = node()
    consumer, sender, receiver = ends(first)
    if taken:
        sender.ask('send', 0, taken)
        assert len(consumer.ask('read', 10)) == taken
    sender.ask('send', 640, 128)
    waiting = datagrams(first)['captured_divert'] - taken
    first.kill()
    consumer.kill()
    received = 0
    for _ in range(128 - waiting):
        received += len(receiver.recv(2000)) > 0
    nothing_came(receiver)
    with again(make_udp, first) as path:
        counters = path.counters()
        assert (counters['stranded_by_crash'], counters['stranded']) == (waiting, waiting)
        assert counters['sent_on'] == 0
        assert waiting + received == 128
    nothing_left(first)


def test_consumer_outlives_the_node(node, ends, make_udp):
    """A consumer that is stopped while the node dies takes what is its when it goes on."""
    first = node()
    consumer, sender, receiver = ends(first)
    consumer.stop()
    sender.ask('one', 'before')
    assert datagrams(first) == {'captured_divert': 1}
    first.kill()
    sender.ask('one', 'after')
    assert receiver.recv(100) == b'after'
    with again(make_udp, first) as path:
        assert path.counters()['stranded_by_crash'] == 0
        consumer.go_on()
        assert consumer.ask('read', 10) == ['before']
        consumer.ask('start')
        wait_until(lambda: path.pool['leases'], 'it is back')

        def diverted():
            sender.ask('one', 'by the next')
            return datagrams(path).get('captured_divert')
        wait_until(diverted, 'it diverts again')
        consumer.kill()
    nothing_left(first)


def test_leftovers_are_replaced(node, make_udp, leaks):
    """Pins of a killed node are those of the next one, and go with it."""
    first = node()
    folder = first.settings['pin_directory']
    before = set(os.listdir(f'{folder}/udp'))
    assert {'pool_header', 'small_slots', 'descriptors', 'wake_0'} <= before
    first.kill()
    assert set(os.listdir(f'{folder}/udp')) == before
    with again(make_udp, first) as path:
        assert set(os.listdir(f'{folder}/udp')) == before
        assert pinned_map(f'{folder}/udp/pool_header') == \
            syscall.map_info(path._capture._objects.maps['pool_header'].fd).id
        for kind, numbers in first.objects.items():
            wait_until(lambda kind=kind, numbers=numbers: not alive(kind, numbers),
                       f'the {kind} of the first are gone')
    nothing_left(first)


def test_ended_in_good_order(node, ends, tmp_path):
    """Cleanup sends on what nobody takes, and leaves nothing."""
    first = node()
    consumer, sender, receiver = ends(first)
    sender.ask('send', 0, 64)
    captured = datagrams(first).get('captured_divert', 0)
    receiving = Receiving(receiver, 1, COUNT)
    first.ask('cleanup')
    first.kill()
    assert receiving.finish()[0, :64].tolist() == [1] * 64
    assert captured
    assert consumer.ask('read') == []
    consumer.kill()
    nothing_left(first)
