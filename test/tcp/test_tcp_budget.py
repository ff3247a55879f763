"""Readers that are slow, or stop: what is queued is bounded, nothing is lost or reordered."""

import random
import resource
import socket
import threading
import time

import pytest
from support.connections import block, close, LOOPBACK, read
from support.steering import adds_up, flow_of, returns_to_redirect, total_bytes
from support.traffic import Filler, Job, nothing_more, receive, stream
from support.waiting import wait_until

KILOBYTE, MEGABYTE = 1 << 10, 1 << 20
#: How the programs are built: who renews budgets, and whether they see the kernel's queues.
BUILDS = {'by_program': {'renewal': 'program'}, 'by_userspace': {'renewal': 'userspace'},
          'blind': {'kernel_view': False}}


@pytest.fixture(params=BUILDS)
def build(request):
    """Return the options of make_path for one of the builds."""
    return BUILDS[request.param]


def bursts(enough, largest):
    """Return a function of a seed that yields sizes until `enough()`, with rests in between."""
    def sizes(seed):
        generator = random.Random(seed)
        while not enough():
            for _ in range(generator.randrange(1, 8)):
                yield int(2 ** generator.uniform(0, largest.bit_length() - 1))
            time.sleep(generator.uniform(0, 0.001))
    return sizes


def seconds(number):
    """Return a function that answers whether so many seconds have gone since now."""
    until = time.monotonic() + number
    return lambda: time.monotonic() > until


def test_thousands_of_returns(place, make_path, ports, stack):
    """A direction that passes and comes back, over and over, keeps every byte in its place."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=64 * KILOBYTE,
                                         pause_initial_ms=0, pause_max_ms=0))
    pairs = [place.pair(next(ports)) for _ in range(4)]
    stack.callback(close, pairs)
    generator, done = random.Random(1), threading.Event()

    def doze(_size):
        if generator.random() < 0.05:
            time.sleep(generator.uniform(0, 0.002))

    def watch():
        try:
            wait_until(lambda: path.counters()['returned'] > 1500, 'directions come back',
                       interval=0.05)
        finally:
            done.set()

    watching = Job(watch)
    _, sent = stream(pairs, bursts(done.is_set, 128 * KILOBYTE), before_read=doze,
                     largest=16 * KILOBYTE)
    watching.result()

    counters = adds_up(path)
    assert total_bytes(counters) == sent
    assert counters['passed_budget'] == counters['budget_spent'] > 1000, counters


def test_slow_reader(place, make_path, ports, stack, build):
    """Readers that sleep at random, with a small budget, read what was sent."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=64 * KILOBYTE,
                                         **build))
    pairs = [place.pair(next(ports)) for _ in range(2)]
    stack.callback(close, pairs)
    generator = random.Random(2)

    _, sent = stream(pairs, bursts(seconds(1), 64 * KILOBYTE), largest=64 * KILOBYTE,
                     before_read=lambda _: time.sleep(generator.uniform(0, 0.002)))

    counters = adds_up(path)
    assert total_bytes(counters) == sent
    assert counters['redirected_bytes'] > 0
    if 'kernel_view' in build:
        assert counters['returned'] == 0


@pytest.mark.parametrize('budget', [64 * KILOBYTE, 4 * MEGABYTE], ids=['64K', '4M'])
def test_receiver_that_does_not_read(place, make_path, ports, stack, build, budget):
    """The budget bounds what is queued, the sender has to wait; all is there when it reads."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=budget, **build))
    pair = _pair_with_small_buffers(place, next(ports))
    stack.callback(close, pair)
    plain = _pair_with_small_buffers(place, 0)
    stack.callback(close, plain)
    # What the connecting end sends is not redirected where the program is blind.
    accepted_end_sends = 'kernel_view' in build
    sender, reader = reversed(pair) if accepted_end_sends else pair
    message = 16 * KILOBYTE
    by_tcp = Filler(plain[accepted_end_sends], message).fill()
    filler = Filler(sender, message)

    filled = filler.fill()

    flow = flow_of(path, sender)
    assert 0 < flow.redirected_bytes <= budget + message
    assert flow.reason in ('budget', 'pause', 'queues_not_empty', 'queues_not_visible')
    # TCP's buffers hold what they hold without us; twice that for differences in packing.
    assert filled <= budget + message + 2 * by_tcp
    with pytest.raises(BlockingIOError):
        sender.send(bytes(1), socket.MSG_DONTWAIT)

    # The reader starts again: what was queued, and as much again that was not sent yet.
    reading = Job(receive, reader)
    more = Job(_finish, filler, sender, filled)
    more.result()
    assert reading.result() == filler.content
    assert total_bytes(adds_up(path)) == filler.content.size


def test_reader_that_stops_for_a_while(place, make_path, ports, stack):
    """When a reader that had stopped goes on, the direction is redirected again."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=64 * KILOBYTE))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    filler = Filler(client, 16 * KILOBYTE)
    filler.fill(MEGABYTE)
    assert flow_of(path, client).path == 'loopback'

    assert receive(server, filler.content.size) == filler.content
    nothing_more(server)
    returns_to_redirect(path, client, server)


def test_reader_that_is_found_late(make_path, ports, stack):
    """A reader that the node does not find at first is asked later: its budget is renewed."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=64 * KILOBYTE,
                                         renewal='userspace', pause_initial_ms=1,
                                         pause_max_ms=1))
    # The processes of the host are looked through for the first one; soon after, for the second
    # one, they are not.
    for _ in range(2):
        client, server = pair = LOOPBACK.pair(next(ports))
        stack.callback(close, pair)
        filler = Filler(client, 4 * KILOBYTE)
        filler.fill(256 * KILOBYTE)
        assert receive(server, filler.content.size) == filler.content
    _is_renewed(path, client, server)


def test_no_descriptor_is_free(make_path, ports, stack):
    """The thread that renews budgets finds no reader then; later it does."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=64 * KILOBYTE,
                                         renewal='userspace', pause_initial_ms=1,
                                         pause_max_ms=1))
    client, server = pair = LOOPBACK.pair(next(ports))
    stack.callback(close, pair)
    filler = Filler(client, 4 * KILOBYTE)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        filler.fill(256 * KILOBYTE)
        time.sleep(0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert receive(server, filler.content.size) == filler.content
    _is_renewed(path, client, server)


def _is_renewed(path, client, server):
    """Send until more is redirected than was by now."""
    spent = flow_of(path, client).redirected_bytes

    def redirected_more():
        client.sendall(b'more')
        assert read(server, 4) == b'more'
        return flow_of(path, client).redirected_bytes > spent
    wait_until(redirected_more, 'the budget is renewed', interval=0.1)


def _finish(filler, client, size):
    """Send `size` more bytes as they go, then end the direction."""
    while size > 0:
        size -= filler.fill(size)
    client.shutdown(socket.SHUT_WR)


def _pair_with_small_buffers(place, port):
    """Return (client, server) with buffers of a size of their own, so that TCP has its bounds."""
    options = [(socket.SOL_SOCKET, option, 128 * KILOBYTE)
               for option in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
    with place.listen(port, options=options) as listener:
        client = block(place.socket('client'))
        for option in options:
            client.setsockopt(*option)
        client.connect((place.address, listener.getsockname()[1]))
        server, _ = listener.accept()
    return client, block(server)
