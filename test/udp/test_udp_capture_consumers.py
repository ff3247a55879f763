"""Consumers that die, stop, come back or are slow, under divert: each datagram once."""

import numpy as np
import pytest
from support.capturing import datagrams
from support.datagrams import Ledger
from support.receiving import Receiving
from support.udp_processes import ConsumerProcess, SenderProcess
from support.waiting import wait_until

COUNT = 64 * 600


@pytest.fixture
def diverting(make_udp, routes, ports, stack):
    """Yield (path, sender, consumer, receiving): a divert rule with everything that it needs."""
    route, port = routes['loopback'], next(ports)
    path = stack.enter_context(make_udp(f'udp:{port}:divert', heartbeat_ms=1000, watchdog_ms=50,
                                        slot_ttl_ms=3000, pool_size=4 << 20))
    receiving = Receiving(stack.enter_context(route.receiver(port, buffer=1 << 28)), 1, COUNT)

    def consumer():
        return stack.enter_context(ConsumerProcess(path.settings.control_socket, 1, COUNT))
    yield path, stack.enter_context(SenderProcess(route.address, port)), consumer, receiving


def settled(path):
    """Wait until nothing is on its way to a consumer; return the counters."""
    def done():
        return not any(lease['pending'] for lease in path.pool['leases'])
    wait_until(done, 'everything is taken or sent on')
    counters = path.counters()
    assert counters['stranded'] == 0
    assert counters['passed_node'] == counters['sent_on']
    return counters


def accounted(path, sent):
    """Assert that captured and passed are all that was sent."""
    found = datagrams(path)
    assert sum(found.values()) - found.get('passed_node', 0) == sent, found


def test_killed(diverting):
    """What the killed one had not taken is sent on; what comes after is delivered as usual."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    consumer.ask('start')
    sender.ask('send', 0, 6400)
    wait_until(lambda: consumer.ask('came') == datagrams(path)['captured_divert'], 'all is taken')
    sums = consumer.ask('stop')
    with_it = datagrams(path)['captured_divert']
    sender.ask('send', 6400, 6400)  # diverted until the heartbeat is stale, taken by nobody
    left = datagrams(path)['captured_divert'] - with_it
    consumer.kill()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    sender.ask('send', 12800, 6400)
    usual = receiving.finish()
    assert sums['came'] == with_it
    assert 0 < left == settled(path)['sent_on']
    assert usual.max() == 1
    assert np.count_nonzero(usual[0, :6400]) == 6400 - with_it
    assert usual[0, 6400:19200].all()
    assert path.pool['used'] == (0, 0)
    accounted(path, 19200)


def test_killed_under_load(diverting, tmp_path):
    """Killed in the middle: only what it had taken and not told of is missing elsewhere."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    consumer.ask('start')
    sender.tell('send', 0, COUNT)
    wait_until(lambda: datagrams(path).get('captured_divert', 0) > 1000, 'it takes some')
    consumer.kill()
    sender.answer()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    usual = receiving.finish()
    counters = settled(path)
    taken = counters['captured_divert'] - counters['sent_on']
    assert usual.max() == 1
    assert np.count_nonzero(usual) == COUNT - taken
    accounted(path, COUNT)
    wait_until(lambda: path.pool['used'] == (0, 0), 'what it held is freed')


def test_stopped_and_continued(diverting, tmp_path):
    """SIGSTOP, until the node sends on what waits; SIGCONT: it takes none of that again."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    consumer.ask('start')
    sender.tell('send', 0, COUNT)
    for _ in range(2):
        before = path.counters()['leases_revoked']
        consumer.stop()
        wait_until(lambda before=before: path.counters()['leases_revoked'] > before or
                   not any(lease['pending'] for lease in path.pool['leases']),
                   'the node has taken the lease')
        consumer.go_on()
    sender.answer()
    wait_until(lambda: not any(lease['pending'] for lease in path.pool['leases']), 'all is taken')
    usual = receiving.finish()
    sums, captured = consumer.finish(tmp_path)
    settled(path)
    assert (sums['torn'], sums['strangers']) == (0, 0)
    assert (captured + usual == 1).all(), sums
    accounted(path, COUNT)


def test_stopped_with_datagrams_waiting(diverting, tmp_path):
    """What waits while it is stopped is sent on once; what comes later is taken by it."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    consumer.stop()
    sender.ask('send', 0, 6400)
    wait_until(lambda: path.counters()['leases_revoked'], 'the node has taken the lease')
    sent_on = settled(path)['sent_on']
    assert sent_on == datagrams(path)['captured_divert']
    consumer.go_on()
    consumer.ask('start')
    wait_until(lambda: path.pool['leases'], 'it has a lease again')
    wait_until(lambda: consumer.ask('statistics')['leases_lost'] == 1, 'it has seen it')
    sender.ask('send', 6400, 6400)
    settled(path)
    usual = receiving.finish()
    sums, captured = consumer.finish(tmp_path)
    assert (captured + usual)[0, :12800].tolist() == [1] * 12800, sums
    assert not captured[0, :6400].any()
    assert captured[0, 6400:12800].any()


def test_stopped_after_a_withdrawal(diverting, tmp_path):
    """A rule that is gone by now: what it diverted is sent on all the same."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    consumer.stop()
    sender.ask('send', 0, 640)
    captured = datagrams(path)['captured_divert']
    assert captured
    path.set_rules([])
    wait_until(lambda: path.counters()['sent_on'] == captured, 'it is sent on')
    consumer.go_on()
    consumer.ask('start')
    usual = receiving.finish()
    sums, taken = consumer.finish(tmp_path)
    assert usual[0, :640].tolist() == [1] * 640, (sums, path.counters())
    assert not taken.any()


def test_restarted(diverting, tmp_path):
    """One consumer after the other, each killed: what is missing was taken by one of them."""
    path, sender, make_consumer, receiving = diverting
    ledger = Ledger(1, COUNT).seen
    for number in range(3):
        consumer = make_consumer()
        consumer.ask('start')
        first = number * 12800
        sender.ask('send', first, 12800)
        wait_until(lambda: not any(lease['pending'] for lease in path.pool['leases']),
                   'everything is taken')
        ledger = ledger + consumer.finish(tmp_path)[1]
        consumer.kill()
        wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    usual = receiving.finish()
    assert settled(path)['sent_on'] == 0
    assert (ledger + usual)[0, :3 * 12800].tolist() == [1] * 3 * 12800
    assert path.pool['used'] == (0, 0)


def test_exhausted_and_killed(diverting):
    """It holds a full pool and dies: the slots come back, and so does what it had not read."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    sender.ask('send', 0, 320)
    assert consumer.ask('hold') == 320 - datagrams(path).get('passed_stale_heartbeat', 0)
    sender.ask('send', 320, 3200)
    found = datagrams(path)
    consumer.kill()
    wait_until(lambda: path.pool['used'] == (0, 0), 'every slot is free')
    counters = settled(path)
    usual = receiving.finish()
    assert usual[0, 320:3520].all()
    assert usual.max() == 1
    assert counters['slots_freed_by_watchdog'] > 0
    assert found['captured_divert'] - counters['sent_on'] <= 320
    accounted(path, 3520)


def test_closed_while_holding(diverting):
    """A consumer that closes in good order: what it did not take is sent on at once."""
    path, sender, make_consumer, receiving = diverting
    consumer = make_consumer()
    sender.ask('send', 0, 64)
    captured = datagrams(path).get('captured_divert', 0)
    consumer.process.stdin.close()
    consumer.process.wait()
    wait_until(lambda: not path.pool['leases'], 'the lease has ended')
    assert settled(path)['sent_on'] == captured
    assert receiving.finish()[0, :64].tolist() == [1] * 64
