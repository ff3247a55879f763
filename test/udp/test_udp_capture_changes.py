"""Rules and the node that change while senders send: nothing is lost, nothing comes twice."""

import select

from ipc_bypass.pool.consumer import Consumer
import numpy as np
import pytest
from support.capturing import changes, nothing_came, rules, take
from support.connections import cookie
from support.datagrams import Ledger
from support.receiving import Receiving
from support.udp_processes import ConsumerProcess, SenderProcess
from support.waiting import wait_until

COUNT, ROUNDS = 64 * 800, 4


@pytest.fixture
def under_load(captured, obey, routes, stack):
    """Return a function that has one process send in rounds while another function runs."""
    def run(change, *, action='divert'):
        """Return (what changed in the counters, sums of the consumer, came the usual way)."""
        route, port, path = routes['loopback'], captured.port[action], captured.path
        texts = f'udp:{port}:{action}',
        obey(*texts)
        receiver = stack.enter_context(route.receiver(port, buffer=1 << 28))
        receiving = Receiving(receiver, 1, COUNT)
        consumer = stack.enter_context(ConsumerProcess(captured.control, 1, COUNT))
        consumer.ask('start')
        sender = stack.enter_context(SenderProcess(route.address, port))
        with changes(path) as changed:
            for first in range(0, COUNT, COUNT // ROUNDS):
                sender.tell('send', first, COUNT // ROUNDS)
                change(path, texts)
                sender.answer()
            usual = receiving.finish()
            wait_until(lambda: not any(lease['pending'] for lease in path.pool['leases']),
                       'the consumer has taken everything')
        sums = consumer.ask('stop')
        assert (sums['torn'], sums['strangers'], sums['twice']) == (0, 0, 0)
        assert receiving.ledger.torn == receiving.ledger.strangers == 0
        return changed, sums, usual
    return run


@pytest.mark.parametrize('what', ['rules', 'activation'])
def test_divert(under_load, what):
    """Each datagram comes once, whichever way it went: withdrawn, enrolled, or the node idle."""
    def change(path, texts):
        for _ in range(3):
            if what == 'rules':
                path.set_rules([])
                path.set_rules(rules(*texts))
            else:
                path.deactivate()
                path.activate()
    found, sums, usual = under_load(change)
    assert usual.max() == 1
    assert sums['came'] + np.count_nonzero(usual) == COUNT
    assert sums['came'] == sums['taken'] == found['captured_divert']
    assert 0 < sums['came']


def test_mirror(under_load):
    """All of it is delivered; what was captured is captured once."""
    def change(path, texts):
        for _ in range(3):
            path.set_rules([])
            path.set_rules(rules(*texts))
    found, sums, usual = under_load(change, action='mirror')
    assert np.array_equal(usual, np.ones_like(usual))
    assert sums['came'] == sums['taken'] == found['captured_mirror']
    assert 0 < sums['came']


def test_mirror_and_divert_in_turns(under_load):
    """A rule that changes its action: no datagram is lost on the way from one to the other."""
    def change(path, texts):
        for _ in range(2):
            for action in ('mirror', 'divert'):
                path.set_rules(rules(texts[0].rpartition(':')[0] + ':' + action))
    found, sums, usual = under_load(change)
    assert usual.max() == 1
    assert sums['came'] == sums['taken'] == \
        found.get('captured_divert', 0) + found.get('captured_mirror', 0)
    assert np.count_nonzero(usual) == COUNT - found['captured_divert']


def test_owners_in_turns(captured, routes, stack):
    """Leases that come and go while a sender sends: each datagram comes once."""
    route, port, path = routes['loopback'], captured.port['divert'], captured.path
    receiver = stack.enter_context(route.receiver(port, buffer=1 << 28))
    receiving, taken = Receiving(receiver, 1, COUNT), Ledger(1, COUNT)
    sender = stack.enter_context(SenderProcess(route.address, port))
    before, owners = path.counters(), 0
    sender.tell('send', 0, COUNT)
    while not select.select([sender.process.stdout], [], [], 0)[0]:
        with Consumer(control=path.settings.control_socket) as owner:
            for _ in range(3):
                with owner.read(0.01) as batch:
                    taken.add_batch(batch)
        owners += 1
    sender.answer()
    wait_until(lambda: not path.pool['leases'], 'the last lease has ended')
    usual = receiving.finish()
    assert owners > 1
    counters = path.counters()
    assert counters['stranded'] == before['stranded']
    assert counters['sent_on'] - before['sent_on'] == \
        counters['passed_node'] - before['passed_node']
    total = taken.seen.astype(int) + usual
    assert (total == 1).all(), (np.count_nonzero(total == 0), np.count_nonzero(total > 1))
    assert taken.torn == taken.strangers == 0


@pytest.mark.parametrize('first, last', [(1, 1), (65535, 65535), (1, 65535)])
def test_outermost_ports(captured, consumer, obey, routes, first, last, stack):
    """Ports 1 and 65535, alone and as all of them."""
    route = routes['bridged']
    obey(f'udp:{first}-{last}:mirror')
    sender = stack.enter_context(route.sender())
    for port in (1, 2, 65534, 65535):
        receiver = stack.enter_context(route.receiver(port))
        route.send(sender, b'%d' % port, port)
        assert receiver.recv(10) == b'%d' % port
    wanted = [b'%d' % port for port in (1, 2, 65534, 65535) if first <= port <= last]
    found = []
    while len(found) < len(wanted):
        with consumer.read(10) as batch:  # others on this host may send, too
            assert len(batch)
            found += [bytes(payload) for payload, record in
                      zip(batch.payloads(), batch.descriptors, strict=True)
                      if record['cookie'] == cookie(sender)]
    assert found == wanted


def test_range_edges(captured, consumer, obey, local, ports, action, stack):
    """The first and the last port of a range, and those beside them."""
    first, last = ports.first + 1, ports.last - 1
    obey(f'udp:{first}-{last}:{action}')
    sender = stack.enter_context(local.sender())
    for port in (first - 1, first, last, last + 1):
        receiver = stack.enter_context(local.receiver(port))
        inside = first <= port <= last
        with changes(captured.path) as changed:
            local.send(sender, b'%d' % port, port)
        assert changed == ({f'captured_{action}': 1} if inside else {})
        if inside:
            assert take(consumer) == [b'%d' % port]
        if not inside or action == 'mirror':
            assert receiver.recv(10) == b'%d' % port
        nothing_came(receiver)


def test_narrower_rule(captured, consumer, obey, local, ports, stack):
    """The narrowest rule counts; its number stands in the descriptor."""
    first, last, port = ports.first, ports.last, ports.first + 5
    obey(f'udp:{first}-{last}:mirror', f'udp:{port}:divert')
    sender = stack.enter_context(local.sender())
    with changes(captured.path) as changed:
        for number in (first, port, last):
            local.send(sender, b'x', number)
    assert changed == {'captured_mirror': 2, 'captured_divert': 1}
    with consumer.read(10) as batch:
        assert batch.descriptors['rule_id'].tolist() == [1, 2, 1]
        assert batch.descriptors['action'].tolist() == [2, 3, 2]
