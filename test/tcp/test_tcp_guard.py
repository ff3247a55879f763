"""The guard against harm: a sustained one-way stream of small writes goes by TCP."""

import time

import pytest
from support.connections import close, read, receive_some
from support.steering import adds_up, flow_of, returns_to_redirect
from support.traffic import Job

SMALL, LARGE = 100, 8192
#: Far below what any machine sends, for far shorter than the test sends it.
GUARD = {'guard_rate': 1000, 'guard_duration_ms': 50, 'guard_size_bytes': 1024}
SECONDS = 0.5


@pytest.fixture
def guarded(place, make_path, ports, stack):
    """Return (path, client, server) under the guard."""
    path = stack.enter_context(make_path((ports.first, ports.last), pause_initial_ms=1,
                                         pause_max_ms=1, **GUARD))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    return path, client, server


def one_way(client, server, size, seconds=SECONDS, count=None):
    """Send messages as fast as they go for some time; return their number."""
    message, sent, until = bytes(size), 0, time.monotonic() + seconds
    total = Job(_read_all, server)
    while time.monotonic() < until and (count is None or sent < count):
        client.sendall(message)
        sent += 1
    client.sendall(b'\1')
    assert total.result() == sent * size + 1
    return sent


def _read_all(server):
    """Read until a message ends in 1; return the bytes."""
    size = 0
    while True:
        data = receive_some(server)
        size += len(data)
        if data.endswith(b'\1'):
            return size


def test_stream_of_small_writes(guarded):
    """It is turned to pass, once; it comes back when the stream is over."""
    path, client, server = guarded
    sent = one_way(client, server, SMALL)

    flow = flow_of(path, client)
    assert flow.reason == 'small_writes'
    assert flow.passed_by_reason['small_writes'] > flow.redirected_messages > 256
    assert flow.messages == sent + 1
    assert adds_up(path)['guard_tripped'] == 1
    assert flow_of(path, server).passed_messages == 0

    # Requests and answers for as long as it takes the window to see them.
    for _ in range(600):
        client.sendall(bytes(SMALL))
        read(server, SMALL)
        server.sendall(bytes(SMALL))
        read(client, SMALL)
    returns_to_redirect(path, client, server)


def test_requests_and_answers(guarded):
    """Messages of the same size and rate that are answered are never turned."""
    path, client, server = guarded
    message, count, until = bytes(SMALL), 0, time.monotonic() + SECONDS

    def answer():
        while read(server, SMALL) == message:
            server.sendall(message)

    answering, begin = Job(answer), time.monotonic()
    while time.monotonic() < until:
        client.sendall(message)
        read(client, SMALL)
        count += 1
    assert count / (time.monotonic() - begin) > GUARD['guard_rate'], 'too slow to show anything'
    client.sendall(b'\1' * SMALL)
    answering.result()
    assert path.counters()['guard_tripped'] == 0
    for flow in (flow_of(path, client), flow_of(path, server)):
        assert flow.path == 'sk_msg'
        assert 'small_writes' not in flow.passed_by_reason


def test_stream_of_large_writes(guarded):
    """Large messages one way are never turned."""
    path, client, server = guarded
    sent = one_way(client, server, LARGE)
    assert sent > GUARD['guard_rate'] * SECONDS, 'too slow to show anything'
    assert path.counters()['guard_tripped'] == 0


def test_bursts(place, make_path, ports, stack):
    """Bursts of small messages with a rest between them are no stream."""
    path = stack.enter_context(make_path((ports.first, ports.last),
                                         **{**GUARD, 'guard_rate': 10_000}))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    for _ in range(5):
        one_way(client, server, SMALL, count=700)
        time.sleep(0.1)
    assert path.counters()['guard_tripped'] == 0


def test_after_the_stream(guarded):
    """What comes after a stream that was turned, and a rest, is redirected at once."""
    path, client, server = guarded
    one_way(client, server, SMALL)
    assert flow_of(path, client).reason == 'small_writes'
    time.sleep(0.5)
    returns_to_redirect(path, client, server, rounds=3)


def test_no_guard(make_path, places, ports, stack):
    """A rate of 0 turns the guard off."""
    path = stack.enter_context(make_path((ports.first, ports.last),
                                         **{**GUARD, 'guard_rate': 0}))
    client, server = pair = places['loopback'].pair(next(ports))
    stack.callback(close, pair)
    one_way(client, server, SMALL)
    assert path.counters()['guard_tripped'] == 0
    assert 'small_writes' not in flow_of(path, client).passed_by_reason
