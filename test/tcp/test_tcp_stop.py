"""Stopping: everything passes at once, nothing queued is purged, nothing is left at the end."""

import os
import threading

import pytest
from support.connections import close, LOOPBACK
from support.leaks import alive
from support.steering import flow_of, flows_of, object_ids, returns_to_redirect, rules
from support.traffic import exchange, Filler, nothing_more, random_sizes, receive
from support.waiting import wait_until

MEGABYTE = 1 << 20
_NO_ROOM = 1 << 47  # bytes of a stack: more than there are addresses


@pytest.fixture
def stalled(place, make_path, ports, stack):
    """
    Return (path, Filler, client, server); a megabyte was redirected that nobody has read.

    The path has pins; the connection is closed after the test.
    """
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=2 * MEGABYTE))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    filler = Filler(client, 10_000)
    filler.fill(MEGABYTE)
    assert flow_of(path, client).redirected_bytes == filler.content.size
    return path, filler, client, server


def test_deactivate_with_a_stalled_reader(stalled, place, ports, stack):
    """Every connection passes from its next send on; what was queued is read before it."""
    path, filler, client, server = stalled
    other = place.pair(next(ports))
    exchange([other], lambda seed: random_sizes(seed, MEGABYTE))
    redirected = flow_of(path, client).redirected_bytes

    path.deactivate()

    # Who reads is looked for among all processes, now and then.
    wait_until(lambda: path.held() == {'connections': 2, 'bytes': redirected}, 'what is held')
    filler.fill(MEGABYTE)
    exchange([other], lambda seed: random_sizes(seed, MEGABYTE))
    for flow in flows_of(path, client, server, *other):
        assert (flow.path, flow.reason) == ('loopback', 'inactive')
    flow = flow_of(path, client)
    assert flow.redirected_bytes == redirected
    assert flow.passed_by_reason['inactive'] > 0
    assert receive(server, filler.content.size) == filler.content
    nothing_more(server)
    assert path.held() == {'connections': 2, 'bytes': 0}
    close(other)
    wait_until(lambda: path.held()['connections'] == 1, 'a connection that ended is not held')


def test_activate_again(stalled):
    """A path that is activated again goes on with its connections."""
    path, filler, client, server = stalled
    path.deactivate()
    path.activate()
    filler.fill(MEGABYTE)
    assert receive(server, filler.content.size) == filler.content
    returns_to_redirect(path, client, server)
    assert path.held() == {'connections': 0, 'bytes': 0}


def test_connections_that_end_while_inactive(make_path, ports):
    """Their records are given back: they are not there when the path is active again."""
    with make_path((ports.first, ports.last), max_connections=16) as path:
        for _ in range(4):
            pairs = [LOOPBACK.pair(next(ports)) for _ in range(3)]
            path.deactivate()
            close(pairs)
            path.activate()
            wait_until(lambda: not path.flows(), 'records of connections that ended are free')
        counters = path.counters()
        assert counters['ends_enrolled'] == counters['ends_closed'] == 24


def test_cleanup_and_start_again(stalled, make_path, ports):
    """Pins stay while connections are open, and the next start goes on with them."""
    path, filler, client, server = stalled
    ids, folder = object_ids(path), path.settings.pin_directory

    held = path.cleanup()

    assert held['connections'] == 1
    assert os.path.isdir(f'{folder}/tcp')
    assert alive('programs', ids['programs'])
    filler.fill(MEGABYTE)
    with make_path((ports.first, ports.last), pin_directory=folder,
                   budget_bytes=2 * MEGABYTE) as following:
        assert object_ids(following) == ids
        filler.fill(MEGABYTE)
        assert receive(server, filler.content.size) == filler.content
        returns_to_redirect(following, client, server)
        close(client, server)
        wait_until(lambda: not following.flows(), 'the records are given back')
    _nothing_left(ids, folder)


def test_cleanup_without_pins(place, make_path, ports, stack):
    """Open connections hold what they need, and nobody else; it goes when they end."""
    path = stack.enter_context(make_path((ports.first, ports.last), pin_directory=''))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
    filler = Filler(client, 10_000)
    filler.fill(MEGABYTE)
    ids = object_ids(path)

    assert path.cleanup()['connections'] == 1

    assert path.flows() == []
    assert alive('maps', ids['maps'])
    filler.fill(MEGABYTE)
    assert receive(server, filler.content.size) == filler.content
    exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
    close(pair)
    _nothing_left(ids)


def test_cleanup_with_nothing_open(make_path, ports):
    """No program, map or pin is left at once."""
    with make_path((ports.first, ports.last)) as path:
        pair = LOOPBACK.pair(next(ports))
        exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
        close(pair)
        wait_until(lambda: not path.flows(), 'the records are given back')
        ids, folder = object_ids(path), path.settings.pin_directory
        assert path.cleanup() == {'connections': 0, 'bytes': 0}
    _nothing_left(ids, folder)


def test_twice_around(make_path, ports):
    """Every transition twice, and out of turn; a path that was cleaned up can be used again."""
    with make_path((ports.first, ports.last), active=False) as path:
        for _ in range(2):
            for _ in range(2):
                path.activate()
                path.activate()
                pair = LOOPBACK.pair(next(ports))
                exchange([pair], lambda seed: random_sizes(seed, 10_000))
                assert all(flow.path == 'sk_msg' for flow in flows_of(path, *pair))
                path.deactivate()
                path.deactivate()
                close(pair)
            path.cleanup()
            assert path.selected is None
            assert path.cleanup() == {'connections': 0, 'bytes': 0}
            path.configure()
            path.set_rules(rules((ports.first, ports.last)))


def _nothing_left(ids, folder=''):
    assert not folder or not os.path.exists(folder)
    for kind, numbers in ids.items():
        wait_until(lambda kind=kind, numbers=numbers: not alive(kind, numbers),
                   f'the {kind} are gone')


def test_a_thread_that_cannot_start(make_path, place, ports, stack):
    """Activate fails with nothing attached, and works when it is tried again."""
    path = stack.enter_context(make_path((ports.first, ports.last), active=False))
    before = threading.stack_size(_NO_ROOM)
    try:
        with pytest.raises(RuntimeError, match='new thread'):
            path.activate()
    finally:
        threading.stack_size(before)
    pair = place.pair(next(ports))
    stack.callback(close, pair)
    exchange([pair], lambda seed: random_sizes(seed, 10_000))
    assert path.counters()['ends_enrolled'] == 0
    path.activate()
    pair = place.pair(next(ports))
    stack.callback(close, pair)
    exchange([pair], lambda seed: random_sizes(seed, 10_000))
    assert path.counters()['redirected_bytes'] > 0
