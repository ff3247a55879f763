"""Rules and activity that change while traffic flows: nothing is lost, nothing changes places."""

import random
import threading
import time

import pytest
from support.connections import close, read
from support.steering import adds_up, flow_of, flows_of, returns_to_redirect, rules, total_bytes
from support.traffic import exchange, Job, random_sizes, steady, stream
from support.waiting import PATIENCE, wait_until

MEGABYTE = 1 << 20


def small_sizes(seconds):
    """Return a function of a seed that yields sizes from 1 B to 128 KB for so many seconds."""
    until = time.monotonic() + seconds

    def sizes(seed):
        generator = random.Random(seed)
        while time.monotonic() < until:
            yield int(2 ** generator.uniform(0, 17))
    return sizes


def breathe(number):
    """Leave the reader time, now and then, to empty the queues: else nothing comes back."""
    if number % 8 == 0:
        time.sleep(0.002)


class Changing:
    """A change that is made over and over again in a thread, in a `with` block."""

    def __init__(self, *changes):
        """Make these changes in turn."""
        self.count, self._changes, self._stop = 0, changes, threading.Event()

    def _run(self):
        while not self._stop.is_set():
            self._changes[self.count % len(self._changes)]()
            self.count += 1
            time.sleep(0.001)

    def __enter__(self):
        """Start."""
        self._job = Job(self._run)
        return self

    def __exit__(self, *_exception):
        """Stop, and raise what a change raised."""
        self._stop.set()
        self._job.result()


@pytest.fixture
def streams(place, make_path, ports, stack):
    """Return (path, its rules, four connected pairs); the path is the test's own."""
    # Short pauses, so that a direction that is passed comes back soon.
    path = stack.enter_context(make_path((ports.first, ports.last), pause_initial_ms=1,
                                         pause_max_ms=1))
    pairs = [place.pair(next(ports)) for _ in range(4)]
    stack.callback(close, pairs)
    return path, rules((ports.first, ports.last)), pairs


def test_withdraw_and_enroll(streams):
    """Rules that come and go in mid-transfer."""
    path, its_rules, pairs = streams
    with Changing(lambda: path.set_rules([]), lambda: path.set_rules(its_rules)) as changing:
        _, sent = stream(pairs, small_sizes(2), before_send=breathe)

    assert changing.count > 10
    counters = adds_up(path)
    assert total_bytes(counters) == sent
    assert counters['passed_withdrawn'] > 0
    assert counters['returned'] > 0


def test_deactivate_and_activate(streams):
    """A node that is deactivated and activated over and over in mid-transfer."""
    path, _, pairs = streams
    with Changing(path.deactivate, path.activate) as changing:
        _, sent = stream(pairs, small_sizes(2), before_send=breathe)

    assert changing.count > 10
    counters = adds_up(path)
    assert total_bytes(counters) == sent
    assert counters['passed_inactive'] > 0
    assert counters['returned'] > 0


def test_late_enrollment(place, make_path, ports, stack):
    """A connection that is older than its rule goes on by TCP; a new one is redirected."""
    port = next(ports)
    path = stack.enter_context(make_path())
    with place.listen(port) as listener:
        client = place.connect(port)
        server, _ = listener.accept()
    stack.callback(close, client, server)
    exchange([(client, server)], lambda seed: random_sizes(seed, MEGABYTE))
    for space in filter(None, (place.server, place.client)):
        stack.enter_context(space.inhabited())  # older connections are looked for by process
    path.set_rules(rules(port))

    exchange([(client, server)], lambda seed: random_sizes(seed, MEGABYTE))
    assert flow_of(path, client) is None
    assert flow_of(path, server) is None
    wait_until(lambda: path.counters()['left_out_opened_before'] == 2, 'both ends are counted')

    pair = place.pair(port)
    stack.callback(close, pair)
    exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
    assert all(flow.redirected_bytes for flow in flows_of(path, *pair))


def test_rules_change_their_mind(steered, place, stack):
    """A direction that passed by a withdrawn rule is redirected again when the rule is back."""
    path, block = steered
    client, server = pair = place.pair(next(block))
    stack.callback(close, pair)
    returns_to_redirect(path, client, server)
    path.set_rules([])
    for _ in range(5):
        client.sendall(b'withdrawn')
        assert read(server, 9) == b'withdrawn'
    flow = flow_of(path, client)
    assert (flow.path, flow.reason, flow.rule_id) == ('loopback', 'withdrawn', 0)
    assert flow.passed_by_reason['withdrawn'] == 5
    path.set_rules(rules((block.first, block.last)))
    assert returns_to_redirect(path, client, server).rule_id > 0


def test_a_stream_without_pauses_comes_back(streams):
    """What the receiver has read is enough: it is not acknowledged yet, at any send."""
    path, _, ((client, server), *_) = streams
    path.deactivate()
    with steady(client, server, path.activate):
        wait_until(lambda: flow_of(path, client).redirected_messages, 'it is redirected',
                   timeout=PATIENCE / 3)
