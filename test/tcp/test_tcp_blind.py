"""The programs as built for a kernel that hides its queues from them."""

import pytest
from support.connecting import send_while_connecting
from support.connections import close
from support.steering import adds_up, flows_of, rules
from support.traffic import exchange, random_sizes

MEGABYTE = 1 << 20


@pytest.fixture
def blind(make_path, ports, stack):
    """Return a path whose programs do not look at TCP's queues."""
    return stack.enter_context(make_path((ports.first, ports.last), kernel_view=False))


def test_says_so(blind):
    """The notes tell what is not at its best."""
    assert any('does not come back' in note for note in blind.notes)


def test_both_ways(blind, place, ports, stack):
    """Content and order hold, and what can be redirected is."""
    pairs = [place.pair(next(ports)) for _ in range(4)]
    stack.callback(close, pairs)
    exchange(pairs, lambda seed: random_sizes(seed, 4 * MEGABYTE))
    assert adds_up(blind)['redirected_bytes'] > 0


def test_what_passed_stays(blind, place, ports, stack):
    """A direction that passed once passes for good; a new connection is redirected."""
    pair = place.pair(next(ports))
    stack.callback(close, pair)
    blind.set_rules([])
    exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
    blind.set_rules(rules((ports.first, ports.last)))
    for _ in range(3):
        exchange([pair], lambda seed: random_sizes(seed, MEGABYTE))
    for flow in flows_of(blind, *pair):
        assert (flow.path, flow.reason) == ('loopback', 'queues_not_visible')
        assert flow.redirected_messages == 0
    assert adds_up(blind)['returned'] == 0

    new = place.pair(next(ports))
    stack.callback(close, new)
    exchange([new], lambda seed: random_sizes(seed, MEGABYTE))
    assert any(flow.redirected_bytes for flow in flows_of(blind, *new))


def test_send_that_waited_for_the_connection(blind, ports, stack):
    """A send that began before the connection was there is read before the next one."""
    _, got = send_while_connecting(next(ports), stack, b'first' * 10_000, b'second')
    assert got == b'first' * 10_000 + b'second'
