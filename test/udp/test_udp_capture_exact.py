"""
Two senders at full rate: captured and passed are all that was sent, exactly, and none is torn.

IPC_BYPASS_TEST_DATAGRAMS sets how many are sent in all, 10000000 for the long run.
"""

import os

from ipc_bypass.pool import layout
from ipc_bypass.pool.consumer import Consumer
import numpy as np
import pytest
from support.capturing import dropped
from support.datagrams import Ledger, LENGTHS
from support.receiving import Receiving
from support.udp_processes import ConsumerProcess, SenderProcess
from support.waiting import PATIENCE, wait_until

_CHUNK = 64 * 100
#: Of each sender.
COUNT = max(1, int(os.environ.get('IPC_BYPASS_TEST_DATAGRAMS', '128000')) // 2 // _CHUNK) * _CHUNK
PATIENCE_FOR_ALL = PATIENCE + COUNT / 2000


@pytest.fixture(scope='module')
def usual(shared):
    """Yield an active path with a pool of the usual size."""
    with shared(pool_size=64 << 20) as made:
        yield made


@pytest.fixture(scope='module')
def small(shared):
    """Yield an active path with the smallest pool."""
    with shared(pool_size=1) as made:
        assert made.path.pool['slots'] == layout.FEWEST_SLOTS
        yield made


@pytest.fixture
def run(routes, stack, tmp_path):
    """Return a function that has two processes send COUNT datagrams each; all must add up."""
    def run(made, action, *, route='loopback', observer=False, spin=False, pause=0.0):
        """Return what changed in the counters."""
        route, port, path = routes[route], made.port[action], made.path
        # What is mirrored is more than a receiver in Python can take: the kernel drops it.
        receiver = stack.enter_context(route.receiver(
            port, buffer=1 << 29 if action == 'divert' else 1 << 16))
        receiving = Receiving(receiver, 2, COUNT) if action == 'divert' else None
        consumer = stack.enter_context(ConsumerProcess(made.control, 2, COUNT, spin=spin))
        watching = stack.enter_context(
            Consumer(control=made.control, observe=True)) if observer else None
        senders = [stack.enter_context(SenderProcess(route.address, port, number))
                   for number in range(2)]
        before = path.counters()
        consumer.ask('start', pause)
        for sender in senders:
            sender.tell('send', 0, COUNT)
        if watching:
            _watch(watching)
        for sender in senders:
            assert sender.answer(PATIENCE_FOR_ALL) == COUNT
        wait_until(lambda: not any(lease['pending'] for lease in path.pool['leases']),
                   'the consumer has taken everything')
        came = receiving.finish(may_drop=True) if receiving else None
        sums, captured = consumer.finish(tmp_path)
        changed = {name: value - before[name] for name, value in path.counters().items()
                   if value != before[name]}
        print(f'\n{2 * COUNT} sent: {changed}\n{sums}')
        _add_up(changed, sums, captured, action)
        _add_up_by_sender(path, senders, changed, action)
        if receiving:
            assert receiving.ledger.torn == receiving.ledger.strangers == 0
            assert (captured + came).max() == 1
            assert np.count_nonzero(captured + came == 0) == dropped(receiver)
        assert path.pool['used'] == (0, 0)
        return changed
    return run


def _add_up(changed, sums, captured, action):
    """Hold the counters against what the consumer has seen, datagrams and bytes."""
    assert (sums['torn'], sums['twice'], sums['strangers']) == (0, 0, 0)
    assert sums['expired'] == sums['revoked'] == sums['leases_lost'] == 0
    assert sums['came'] == sums['taken'] == sums['released'] == changed[f'captured_{action}']
    passed = sum(count for name, count in changed.items()
                 if name.startswith('passed_') and name != 'passed_bytes')
    assert sums['came'] + passed == 2 * COUNT
    lengths = np.array(LENGTHS)[np.arange(COUNT) % len(LENGTHS)]
    size = int((captured * lengths).sum())
    assert changed[f'captured_{action}_bytes'] == size
    assert changed.get('passed_bytes', 0) == 2 * int(lengths.sum()) - size
    assert not changed.keys() & {'stranded', 'sent_on', 'slots_freed_by_watchdog'}


def _add_up_by_sender(path, senders, changed, action):
    """Hold the statistics by port and sender against the counters."""
    ours = [one for one in path.endpoints() if one['pid'] in [sender.pid for sender in senders]]
    assert [one['captured'] + one['passed'] for one in ours] == [COUNT] * 2
    assert sum(one['captured'] for one in ours) == changed[f'captured_{action}']


def _watch(watching):
    """Read as an observer until nothing has come for a while: what is intact is not torn."""
    ledger = Ledger(2, COUNT)
    while True:
        batch = watching.read(0.5)
        if not len(batch):
            break
        # Kept first: the payloads may be overwritten while they are looked at.
        records = [(bytes(payload), good) for payload, good in
                   zip(batch.payloads(), batch.intact(), strict=True)]
        for (payload, _), still in zip(records, batch.intact(), strict=True):
            if still:
                ledger.add(payload)
    summary = ledger.summary()
    assert summary['came'], watching.statistics
    assert (summary['torn'], summary['twice'], summary['strangers']) == (0, 0, 0)


@pytest.mark.parametrize('spin', [False, True], ids=['blocking', 'spinning'])
def test_two_senders(run, usual, action, spin):
    """A pool of the usual size, and a consumer that sleeps, or never does."""
    run(usual, action, spin=spin)


def test_small_pool(run, small, action):
    """Few slots, two processors that want the same ones, a pool that is full at times."""
    run(small, action, route='loopback_v6')


def test_slow_consumer(run, small):
    """It holds what it has read for a while: most goes the usual way, none is lost."""
    assert run(small, 'divert', pause=0.01)['passed_pool_full']


def test_observer(run, small):
    """An observer beside the owner sees no torn datagram that it takes for a whole one."""
    run(small, 'mirror', observer=True)
