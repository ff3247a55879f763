"""Order and content: what one end sends, the other reads, however a connection begins."""

import random
import socket
import struct

import pytest
from support.connecting import send_while_connecting
from support.connections import accept, block, close, Place, read
from support.namespaces import Namespace
from support.steering import flow_of, flows_of, returns_to_redirect
from support.traffic import exchange, Job, nothing_more, random_sizes

MEGABYTE = 1 << 20
SO_SNDBUFFORCE, TCP_FASTOPEN, TCPI_OPT_SYN_DATA = 32, 23, 32


@pytest.fixture
def port(way, steered, ports):
    """Return an enrolled port, or one of plain TCP."""
    return next(steered[1]) if way == 'steered' else next(ports)


def test_eight_connections_both_ways(place, way, steered, port, stack):
    """Messages of 1 B to 4 MB, both ways over eight connections at once, arrive as sent."""
    pairs = [place.pair(port) for _ in range(8)]
    stack.callback(close, pairs)

    exchange(pairs, lambda seed: random_sizes(seed, total=6 * MEGABYTE))

    if way == 'steered':
        for flow in flows_of(steered[0], *(end for pair in pairs for end in pair)):
            assert flow.redirected_bytes > 0
            assert flow.path == 'sk_msg'


def test_deferred_accept(place, way, steered, port, stack):
    """A server that is woken by the first data reads it before what is redirected later."""
    listener = stack.enter_context(place.listen(
        port, options=[(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)]))
    client = stack.enter_context(place.connect(port))
    for number in range(50):
        client.sendall(b'early %03d' % number)
    server = stack.enter_context(accept(listener))
    for number in range(50, 100):
        client.sendall(b'early %03d' % number)

    assert read(server, 900) == b''.join(b'early %03d' % number for number in range(100))
    exchange([(client, server)], lambda seed: random_sizes(seed, total=MEGABYTE))
    if way == 'steered':
        assert flow_of(steered[0], client).passed_by_reason['no_peer'] >= 1
        returns_to_redirect(steered[0], client, server)


def test_fast_open(way, steered, port, stack):
    """A connection whose first data came with its SYN keeps its order; it is never redirected."""
    space = stack.enter_context(Namespace())
    space.sysctl('net.ipv4.tcp_fastopen', 3)
    inside = Place('inside', server=space, client=space)
    listener = stack.enter_context(inside.listen(
        port, options=[(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)]))

    with_data = 0
    for number in range(4):
        client = stack.enter_context(block(inside.socket('client')))
        first = b'in the SYN' if number else b'for a cookie'
        assert client.sendto(first, socket.MSG_FASTOPEN, (inside.address, port)) == len(first)
        for message in range(20):
            client.sendall(b'%04d' % message)
        server = stack.enter_context(accept(listener))
        client.sendall(b'last')
        assert read(server, len(first) + 84) == first + b''.join(
            b'%04d' % message for message in range(20)) + b'last'
        # struct tcp_info: state, ca_state, retransmits, probes, backoff, options.
        options = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 6)[5]
        if options & TCPI_OPT_SYN_DATA:
            with_data += 1
            if way == 'steered':
                flow = flow_of(steered[0], client)
                assert flow.redirected_messages == 0
                assert set(flow.passed_by_reason) == {'no_peer'}
        exchange([(client, server)], lambda seed: random_sizes(seed, total=MEGABYTE // 4))
    assert with_data == 3, 'the kernel did not use Fast Open'


def test_send_before_accept(place, way, steered, port, stack):
    """What is sent before the server accepts is read first."""
    listener = stack.enter_context(place.listen(port))
    client = stack.enter_context(place.connect(port))
    early = random.Random(1).randbytes(100_000)
    for start in range(0, len(early), 1000):
        client.sendall(early[start:start + 1000])
    server = stack.enter_context(accept(listener))
    client.sendall(b'late')

    assert read(server, len(early) + 4) == early + b'late'
    nothing_more(server)
    if way == 'steered':
        returns_to_redirect(steered[0], client, server)


def test_send_that_waited_for_the_connection(way, steered, port, stack):
    """A send that began before the connection was there goes past the program, in order."""
    first, second = b'first' * 10_000, b'second'
    client, got = send_while_connecting(port, stack, first, second)
    assert got == first + second
    if way == 'steered':
        flow = flow_of(steered[0], client)
        assert flow.redirected_messages == 0
        assert set(flow.passed_by_reason) <= {'queues_not_empty', 'no_peer'}


def test_long_send_that_waited(port, stack):
    """While such a send goes on by TCP, what others send may come between, and no later."""
    first, second = b'1' * (6 * MEGABYTE), b'2' * 1000

    def meddle(client):
        try:
            return client.send(b'*', socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    _, got = send_while_connecting(port, stack, first, second, meddle)

    assert got.replace(b'*', b'') == first + second


def test_two_threads_on_one_socket(place, port, stack):
    """Each small message of two threads on one socket arrives whole, each thread's in order."""
    client, server = pair = place.pair(port)
    stack.callback(close, pair)
    # Room for everything: plain TCP, too, may split a message where it has to wait for room.
    client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
    count = 3000

    def talk(name):
        generator = random.Random(name)
        for number in range(count):
            size = generator.randrange(500)
            client.sendall(struct.pack('=BHH', name, number, size) + bytes([name]) * size)

    def listen():
        following = [0, 0]
        while sum(following) < 2 * count:
            name, number, size = struct.unpack('=BHH', read(server, 5))
            assert number == following[name]
            assert read(server, size) == bytes([name]) * size
            following[name] += 1

    for job in [Job(talk, 0), Job(talk, 1), Job(listen)]:
        job.result()
    nothing_more(server)
