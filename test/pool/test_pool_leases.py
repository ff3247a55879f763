"""A lease that is lost: each datagram is taken once, by its owner or in its place."""

import contextlib
import os
import random
import signal
import socket
import threading
import time

from ipc_bypass.pool.consumer import Consumer
import numpy as np
import pytest
from support.datagrams import Ledger, Many
from support.udp_processes import ConsumerProcess
from support.waiting import PATIENCE, wait_until


@pytest.fixture
def receiver(ports):
    """Yield a socket bound to the port whose datagrams are diverted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(('127.0.0.1', ports[1]))
        sock.setblocking(False)
        yield sock


def received(sock):
    """Return what a socket has now."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1 << 16))
    return found


def revoke_after(places, step, pool):
    """Have a lease revoked right after the next call of one step of `take`."""
    original = getattr(places, step)

    def then_revoke(*arguments):
        setattr(places, step, original)
        before = original(*arguments) if step != 'holds' else None
        for lease in pool.leases.all():
            pool.leases.revoke(lease)
        return original(*arguments) if step == 'holds' else before

    setattr(places, step, then_revoke)


@pytest.mark.parametrize('count', [1, 20])
def test_revoked_between_copy_and_cursor(pool, opened, receiver, ports, count):
    """The node saw the old cursor: what was copied is the node's."""
    consumer = opened()
    for number in range(count):
        pool.send(ports[1], b'%d' % number)
    revoke_after(consumer._places[0], '_copy_one' if count == 1 else '_copy', pool)
    assert len(consumer.read(0)) == 0
    assert consumer.statistics.revoked == count and consumer.statistics.leases_lost == 1
    if pool.backing == 'kernel':
        assert received(receiver) == [b'%d' % number for number in range(count)]
    assert pool.used() == (0, 0)
    pool.send(ports[1], b'next')  # with the lease that it took again
    assert take(consumer) == [b'next']
    assert received(receiver) == []


@pytest.mark.parametrize('count', [1, 20])
def test_revoked_between_cursor_and_look(pool, opened, receiver, ports, count):
    """The node saw the new cursor: what was copied is the consumer's."""
    consumer = opened()
    for number in range(count):
        pool.send(ports[1], b'%d' % number)
    revoke_after(consumer._places[0], 'holds', pool)
    assert take(consumer) == [b'%d' % number for number in range(count)]
    assert consumer.statistics.revoked == 0 and consumer.statistics.leases_lost == 1
    assert received(receiver) == [] and pool.used() == (0, 0)
    assert consumer.statistics.released == count


@pytest.mark.parametrize('step, kept', [('_copy', 0), ('holds', 20)])
def test_revoked_by_a_node_that_is_gone(make_pool, ports, step, kept):
    """The ring itself tells how far the lease counted."""
    with make_pool('file') as pool:
        pool.set_rules(f'udp:{ports[1]}:divert')
        with Consumer(control=pool.control) as consumer:
            for number in range(20):
                pool.send(ports[1], b'%d' % number)
            revoke_after(consumer._places[0], step, pool)
            consumer._client._sock.shutdown(socket.SHUT_RDWR)
            with consumer.read(0) as batch:
                assert len(batch) == kept
            assert consumer.statistics.revoked == 20 - kept


def test_another_takes_the_lease_meanwhile(pool, opened, ports):
    first = opened(f'udp:{ports[0]}', name='first')
    pool.leases.revoke(pool.leases.all()[0])
    second = opened(f'udp:{ports[0]}', name='second')
    assert len(first.read(0.01)) == 0
    assert "'second'" in first.problem and first.statistics.leases_lost == 1
    pool.send(ports[0], b'to the second')
    assert take(second) == [b'to the second']
    second.close()
    pool.wait_for_leases(0)
    wait_until(lambda: not len(first.read(0)) and first.problem == '', 'the first has it again')
    pool.send(ports[0], b'to the first')
    assert take(first) == [b'to the first']


def test_an_owner_that_hangs(pool, ports):
    """Mirror and divert of a stopped owner; it goes on with another lease."""
    pool.set(heartbeat_ms=100)
    with ConsumerProcess(pool.control) as consumer:
        assert consumer.ask('read', 0.0) == []
        consumer.stop()
        wait_until(lambda: time.monotonic_ns() - int(
            pool.memory.rings[pool.leases.all()[0].ring]['heartbeat_ns']) > 1e8, 'it is stale')
        pool.send(ports[1], b'while it is stopped')
        assert pool.used() == (0, 0)
        consumer.go_on()
        consumer.ask('read', 0.2)

        def goes_on():
            pool.send(ports[1], b'after')
            return b'after'.decode() in consumer.ask('read', 0.1)
        wait_until(goes_on, 'it reads again')


def test_a_lease_is_kept_while_nothing_comes(pool, opened, ports):
    """Through many heartbeats, asleep, spinning and polling; datagrams of any time come."""
    pool.set(heartbeat_ms=900)
    for options in ({}, {'spin': True}):
        consumer = opened(**options)
        for pause in (0.3, 0.3, 0.0, 0.3):
            end = time.monotonic() + pause
            while time.monotonic() < end:
                assert len(consumer.read(0 if pause else 0.01)) == 0
                time.sleep(0.001)
            assert len(consumer.read(0.3)) == 0
        assert consumer.problem == '' and consumer.connected
        assert consumer.statistics.leases_lost == 0
        pool.send(ports[0], b'x')
        assert take(consumer) == [b'x']
        assert pool.leases.all()[0].generation == consumer._places[0].generation
        consumer.close()
        pool.wait_for_leases(0)


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('shared_pool', ['kernel'], indirect=True)
def test_stopped_at_any_moment(pool, receiver, ports, seed, tmp_path):
    """Each datagram comes once: from the pool, or from the socket, by the node or the kernel."""
    count, generator = 64 * 3000, random.Random(seed)
    receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    pool.set(heartbeat_ms=30, watchdog_ms=5)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(('127.0.0.1', ports[1]))
    many, stop, sent, ledger = Many(sender, 0), threading.Event(), [0], Ledger(1, count)

    def send():
        while not stop.is_set() and sent[0] < count:
            many.send(sent[0], 64)
            sent[0] += 64
            stop.wait(0.001)

    def drain():
        while not stop.is_set():
            for payload in received(receiver):
                ledger.add(payload)
            stop.wait(0.002)

    with sender, ConsumerProcess(pool.control, 1, count) as consumer:
        consumer.ask('start')
        threads = [threading.Thread(target=work) for work in (send, drain)]
        for thread in threads:
            thread.start()
        revoked = sum(pool.watchdog.revoked.values())
        for _ in range(25):
            time.sleep(generator.uniform(0.001, 0.03))
            os.kill(consumer.pid, signal.SIGSTOP)
            time.sleep(generator.choice((0.0, 0.03, 0.05, 0.07)))
            os.kill(consumer.pid, signal.SIGCONT)
        stop.set()
        for thread in threads:
            thread.join()
        pool.set(heartbeat_ms=20_000)
        wait_until(lambda: not any(map(pool.leases.waiting, pool.leases.all())),
                   'nothing is left in the ring')
        sums, came = consumer.finish(tmp_path)
        for payload in received(receiver):
            ledger.add(payload)
    assert sum(pool.watchdog.revoked.values()) > revoked and sums['leases_lost'] > 0
    assert sums['torn'] == sums['strangers'] == ledger.torn == ledger.strangers == 0
    total = came[0, :sent[0]].astype(int) + ledger.seen[0, :sent[0]]
    assert (total == 1).all(), (np.flatnonzero(total != 1)[:10], total[total != 1][:10], sums)
    assert sums['came'] > 0 and ledger.summary()['came'] > 0
    assert not pool.watchdog.problems and not pool.server.problems


@pytest.mark.parametrize('backing', ['kernel', 'file'])
def test_a_node_that_comes_again(request, make_pool, ports, tmp_path, backing):
    """Owner and observer go on with the next node by themselves."""
    if backing == 'kernel':
        request.getfixturevalue('privileged')
    with make_pool(backing, tmp_path, heartbeat_ms=1000) as pool:
        pool.set_rules(f'udp:{ports[0]}:mirror')
        owner = Consumer(control=pool.control)
        observer = Consumer(control=pool.control, observe=True)
        pool.send(ports[0], b'left')
    with owner, observer:
        assert take(observer) == [b'left']
        wait_until(lambda: not len(owner.read(0)) and not owner.connected, 'the owner knows')
        wait_until(lambda: not len(observer.read(0)) and not observer.connected, 'it knows')
        assert 'reach the node' in owner.problem or 'ended' in owner.problem
        with make_pool(backing, tmp_path, heartbeat_ms=1000) as pool:
            pool.set_rules(f'udp:{ports[0]}:mirror')
            for consumer in (owner, observer):
                wait_until(lambda one=consumer: not len(one.read(0.01)) and one.connected,
                           'it is connected again')
            pool.send(ports[0], b'new')
            assert take(owner) == take(observer) == [b'new']


def take(consumer):
    with consumer.read(PATIENCE) as batch:
        return [bytes(payload) for payload in batch.payloads()]
