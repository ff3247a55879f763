"""Why datagrams go the usual way: consumers, the pool, the node. Each under its own counter."""

from dataclasses import replace
import select
import time

from ipc_bypass.pool.consumer import Consumer
import numpy as np
import pytest
from support.capturing import changes, datagrams, nothing_came, nothing_captured, take
from support.udp_processes import ConsumerProcess
from support.waiting import wait_until

#: Slots of the smallest pool, by class, and those above which it is full.
SMALL, LARGE = 512, 64
SMALL_LIMIT, LARGE_LIMIT = SMALL * 90 // 100, LARGE * 90 // 100


def passes(path, reason, route, port, receiver, payload=b'passed'):
    """Assert that a datagram is delivered, and counted under a reason."""
    with route.sender() as sender, changes(path) as changed:
        route.send(sender, payload, port)
        assert receiver.recv(1 << 17) == payload
    assert changed == {f'passed_{reason}': 1}


@pytest.fixture(scope='module')
def tight(shared):
    """Yield an active path with the smallest pool, for this module's tests."""
    with shared(pool_size=1) as made:
        yield made


@pytest.fixture
def one(tight, action, stack):
    """Return (path, port of a rule with the action, its owner), with every slot free."""
    consumer = stack.enter_context(Consumer(control=tight.control))
    yield tight.path, tight.port[action], consumer
    consumer.close()
    wait_until(lambda: not tight.path.pool['leases'], 'the lease has ended')
    assert tight.path.pool['used'] == (0, 0)


def test_no_consumer(local, captured, action, stack):
    """Nobody holds the lease: an observer is nobody."""
    port = captured.port[action]
    receiver = stack.enter_context(local.receiver(port))
    passes(captured.path, 'no_consumer', local, port, receiver)
    stack.enter_context(Consumer(control=captured.control, observe=True))
    passes(captured.path, 'no_consumer', local, port, receiver)
    with Consumer([f"udp:{captured.port['other']}"], control=captured.control):
        passes(captured.path, 'no_consumer', local, port, receiver)


def test_consumer_closed(local, captured, action, stack):
    """The lease ends with its consumer."""
    port = captured.port[action]
    receiver = stack.enter_context(local.receiver(port))
    Consumer(control=captured.control).close()
    wait_until(lambda: not captured.path.pool['leases'], 'the lease ends')
    passes(captured.path, 'no_consumer', local, port, receiver)


def test_stale_heartbeat(make_udp, routes, action, ports, stack):
    """A consumer that is stopped, before and after the node has taken its lease away."""
    route, port = routes['loopback'], next(ports)
    path = stack.enter_context(make_udp(f'udp:{port}:{action}', heartbeat_ms=300))
    receiver = stack.enter_context(route.receiver(port))
    sender = stack.enter_context(route.sender(port))
    consumer = stack.enter_context(ConsumerProcess(path.settings.control_socket))
    consumer.ask('start')
    consumer.stop()

    def stale():
        sender.send(b'is it')
        return datagrams(path).get('passed_stale_heartbeat')
    wait_until(stale, 'the heartbeat is stale')
    with changes(path) as changed:
        sender.send(b'last')
    assert set(changed) <= {'passed_stale_heartbeat', 'passed_no_consumer'}
    assert sum(changed.values()) == 1
    sent_here = [receiver.recv(100)]
    while sent_here[-1] != b'last':
        sent_here.append(receiver.recv(100))
    consumer.go_on()

    def fresh():
        with changes(path) as changed:
            sender.send(b'again')
        return changed == {f'captured_{action}': 1}
    wait_until(fresh, 'it reads again')


@pytest.mark.parametrize('size, limit', [(100, SMALL_LIMIT), (5000, LARGE_LIMIT)],
                         ids=['small', 'large'])
def test_pool_full(one, routes, action, size, limit, stack):
    """More than 90 % of the slots are held: by class, and until some are given back."""
    route = routes['loopback']
    path, port, consumer = one
    receiver = stack.enter_context(route.receiver(port, buffer=1 << 24))
    sender = stack.enter_context(route.sender(port))
    sent = [b'%05d' % number + bytes(size) for number in range(limit + 10)]
    with changes(path) as changed:
        for payload in sent:
            sender.send(payload)
    assert changed == {f'captured_{action}': limit, 'passed_pool_full': 10}
    expected = sent if action == 'mirror' else sent[limit:]
    assert [receiver.recv(1 << 14) for _ in expected] == expected
    nothing_came(receiver)
    with changes(path) as changed:  # the other class has room
        sender.send(bytes(5005 - size))
    assert changed == {f'captured_{action}': 1}

    held = consumer.read(10)
    assert len(held) == limit + 1
    with changes(path) as changed:
        sender.send(sent[0])
    assert changed == {'passed_pool_full': 1}
    held.release()
    with changes(path) as changed:
        sender.send(sent[0])
    assert changed == {f'captured_{action}': 1}
    assert take(consumer) == [sent[0]]


def test_pool_full_by_setting(one, routes, action, stack):
    """The limit is a setting of a running path."""
    path, port, consumer = one
    before = path.settings
    stack.callback(path.apply, before)
    path.apply(replace(before, use_limit_percent=50))
    stack.enter_context(routes['loopback'].receiver(port))
    sender = stack.enter_context(routes['loopback'].sender(port))
    with changes(path) as changed:
        for _ in range(SMALL):
            sender.send(b'x')
    assert changed == {f'captured_{action}': SMALL // 2, 'passed_pool_full': SMALL // 2}
    take(consumer, SMALL // 2)


@pytest.fixture
def slots(one):
    """Yield (claims, released) of every slot; they are as they were after the test."""
    objects = one[0]._capture._objects
    arrays = objects.claims, objects.memory.released
    saved = [array.copy() for array in arrays]
    yield arrays
    for array, content in zip(arrays, saved, strict=True):
        array[:] = content


def test_no_slot(one, slots, routes, action, stack):
    """Other processors are writing into every slot that is looked at."""
    path, port, consumer = one
    receiver = stack.enter_context(routes['loopback'].receiver(port))
    slots[0][:] |= np.uint64(1)
    passes(path, 'no_slot', routes['loopback'], port, receiver)
    passes(path, 'no_slot', routes['loopback'], port, receiver, bytes(5000))
    nothing_captured(consumer)


def test_late_ticket(one, slots, routes, action, stack):
    """A processor that was stopped while the slots lived on: its number is too old for them."""
    path, port, consumer = one
    receiver = stack.enter_context(routes['loopback'].receiver(port))
    number = path._capture._objects.allocator['next'].max() + np.uint64(1000)
    slots[1][:], slots[0][:] = number, number << np.uint64(1)
    passes(path, 'no_slot', routes['loopback'], port, receiver)
    nothing_captured(consumer)


def test_heartbeat_of_tomorrow(one, routes, action, stack):
    """A heartbeat just after the program's look at the clock is fresh; a senseless one is not."""
    path, port, consumer = one
    receiver = stack.enter_context(routes['loopback'].receiver(port))
    ring, = (lease['ring'] for lease in path.pool['leases'])
    sender = stack.enter_context(routes['loopback'].sender(port))
    for ahead, way in ((1, f'captured_{action}'), (60, 'passed_stale_heartbeat')):
        consumer.memory.rings[ring]['heartbeat_ns'] = time.monotonic_ns() + ahead * 10**9
        with changes(path) as changed:
            sender.send(b'x')
        assert changed == {way: 1}
    consumer.read(0).release()
    while _readable(receiver):
        receiver.recv(10)


def test_ring_full(make_udp, routes, ports, stack):
    """A consumer that beats, but does not take: its slots are freed, its ring is full."""
    route, port = routes['loopback'], next(ports)
    path = stack.enter_context(make_udp(f'udp:{port}:mirror', pool_size=1, slot_ttl_ms=20,
                                        watchdog_ms=5, heartbeat_ms=20000))
    receiver = stack.enter_context(route.receiver(port, buffer=1 << 24))
    sender = stack.enter_context(route.sender(port))
    consumer = stack.enter_context(Consumer(control=path.settings.control_socket))
    entries = consumer.memory.ring_entries

    def full():
        for _ in range(100):
            sender.send(b'x')
        return datagrams(path).get('passed_ring_full')
    wait_until(full, 'the ring is full')
    assert datagrams(path)['captured_mirror'] == entries - 64
    passes(path, 'ring_full', route, port, _drained(receiver))
    assert path.counters()['slots_freed_by_watchdog'] > 0

    wait_until(lambda: path.pool['used'] == (0, 0), 'the watchdog has freed every slot')
    while consumer.statistics.expired < entries - 64:
        consumer.read(0).release()
    assert consumer.statistics.taken == 0
    with changes(path) as changed:
        sender.send(b'x')
    assert changed == {'captured_mirror': 1}


def test_inactive(captured, consumer, local, action, stack):
    """Between activate and deactivate datagrams are captured; before and after, not even seen."""
    path, port = captured.path, captured.port[action]
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender(port))
    stack.callback(lambda: path.deactivate() or path.activate())
    with changes(path) as changed:
        for _ in range(2):
            path.deactivate()
            sender.send(b'before')
            assert receiver.recv(100) == b'before'
            path.activate()
            sender.send(b'between')
            assert take(consumer) == [b'between']
            if action == 'mirror':
                assert receiver.recv(100) == b'between'
            # As on the way to inactive: attached still, and told to let everything pass.
            path._capture._objects.set('active', 0)
            passes(path, 'inactive', local, port, receiver)
    assert changed == {f'captured_{action}': 2, 'passed_inactive': 2}
    nothing_captured(consumer)


def test_exempt(local, captured, action, consumer, stack):
    """What the node sends itself."""
    port = captured.port[action]
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender(port))
    captured.path._capture._objects.exempt(sender.fileno())
    with changes(captured.path) as changed:
        sender.send(b'ours')
    assert changed == {'passed_node': 1}
    assert receiver.recv(100) == b'ours'
    nothing_captured(consumer)


def test_other_port(local, captured, consumer, stack):
    """A port without a rule is not counted, whatever its source port is."""
    port, mirrored = captured.port['other'], captured.port['mirror']
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender())
    sender.bind(('', mirrored))
    with changes(captured.path) as changed:
        local.send(sender, b'other', port)
    assert changed == {}
    assert receiver.recv(100) == b'other'
    nothing_captured(consumer)


def test_rule_gone(captured, consumer, obey, local, action, stack):
    """A withdrawn rule: not seen any more; another rule for the same port: obeyed at once."""
    path, port = captured.path, captured.port['other']
    receiver = stack.enter_context(local.receiver(port))
    sender = stack.enter_context(local.sender(port))
    obey(f'udp:{port}:{action}')
    sender.send(b'rule')
    assert take(consumer) == [b'rule']
    obey()
    with changes(path) as changed:
        sender.send(b'no rule')
    assert changed == {}
    if action == 'mirror':
        assert receiver.recv(100) == b'rule'
    assert receiver.recv(100) == b'no rule'
    other = 'divert' if action == 'mirror' else 'mirror'
    obey(f'udp:{port}:{other}')
    with changes(path) as changed:
        sender.send(b'other rule')
    assert changed == {f'captured_{other}': 1}
    assert take(consumer) == [b'other rule']


def _readable(*sockets):
    return select.select(sockets, [], [], 0)[0]


def _drained(sock):
    while _readable(sock):
        sock.recv(100)
    return sock
