"""Who is whose peer: address families, namespaces, and the same 4-tuple twice."""

import socket

import pytest
from support.connections import accept, block, bridged, close, LOOPBACK, Place, read
from support.namespaces import bridged_pair, Namespace
from support.steering import adds_up, drained, flows_of
from support.traffic import exchange, random_sizes

MEGABYTE = 1 << 20


def redirected(path, *sockets):
    """Assert that what these sockets sent was redirected, all but first messages."""
    for flow in flows_of(path, *sockets):
        assert flow.path == 'sk_msg', flow
        assert flow.redirected_bytes > flow.passed_bytes, flow


@pytest.mark.parametrize('name', ['loopback', 'bridged'])
def test_dual_stack_server(steered, places, stack, name):
    """A server on :: and a client by IPv4 are a pair, though their families differ."""
    path, ports = steered
    place, port = places[name], next(ports)
    listener = stack.enter_context(place.listen(port, address='::', family=socket.AF_INET6))
    client = stack.enter_context(place.connect(port))
    server = stack.enter_context(accept(listener))
    assert server.family == socket.AF_INET6
    assert server.getpeername()[0].startswith('::ffff:')

    exchange([(client, server)], lambda seed: random_sizes(seed, MEGABYTE))

    redirected(path, client, server)
    ours, theirs = flows_of(path, client, server)
    assert (ours.family, theirs.family) == (4, 4)
    assert ours.remote_address == theirs.local_address == place.address
    assert ours.local_port == theirs.remote_port == client.getsockname()[1]
    assert ours.remote_port == theirs.local_port == port


def test_mapped_client(steered, stack):
    """A client that names an IPv4 server by its mapped IPv6 address is a peer as well."""
    path, ports = steered
    port = next(ports)
    listener = stack.enter_context(LOOPBACK.listen(port))
    client = stack.enter_context(block(socket.socket(socket.AF_INET6)))
    client.connect(('::ffff:127.0.0.1', port))
    server = stack.enter_context(accept(listener))

    exchange([(client, server)], lambda seed: random_sizes(seed, MEGABYTE))

    redirected(path, client, server)


@pytest.mark.parametrize('name', ['loopback_v6', 'bridged_v6'])
def test_native_ipv6(steered, places, stack, name):
    """Both ends by IPv6."""
    path, ports = steered
    pairs = [places[name].pair(next(ports)) for _ in range(2)]
    stack.callback(close, pairs)

    exchange(pairs, lambda seed: random_sizes(seed, 2 * MEGABYTE))

    for client, server in pairs:
        redirected(path, client, server)
        ours, theirs = flows_of(path, client, server)
        assert (ours.family, theirs.family) == (6, 6)
        assert ours.remote_address == theirs.local_address == places[name].address
        assert ours.local_address == client.getsockname()[0]


@pytest.mark.parametrize('kind', ['loopbacks', 'bridges'])
def test_same_addresses_and_ports_twice(make_path, ports, stack, kind):
    """Connections with the same 4-tuple in several namespaces never meet, and all are kept."""
    path = stack.enter_context(make_path((ports.first, ports.last)))
    port, from_port = next(ports), ports.last
    if kind == 'bridges':
        twins = [bridged(stack.enter_context(bridged_pair())) for _ in range(2)]
    else:
        spaces = [stack.enter_context(Namespace()) for _ in range(2)]
        twins = [LOOPBACK, *(Place('inside', server=space, client=space) for space in spaces)]
    listeners = [stack.enter_context(twin.listen(port)) for twin in twins]
    pairs = []
    for twin, listener in zip(twins, listeners, strict=True):
        client = stack.enter_context(twin.connect(port, from_port=from_port))
        pairs.append((client, stack.enter_context(accept(listener))))
    assert len({(client.getsockname(), client.getpeername()) for client, _ in pairs}) == 1

    for number, (client, server) in enumerate(pairs):
        for turn in range(50):
            for sender, receiver in ((client, server), (server, client)):
                message = f'pair {number} turn {turn:03}'.encode()
                sender.sendall(message)
                assert read(receiver, len(message)) == message
    exchange(pairs, lambda seed: random_sizes(seed, 2 * MEGABYTE))

    for pair in pairs:
        redirected(path, *pair)
    counters = adds_up(path)
    assert counters['ends_enrolled'] == 2 * len(pairs)
    assert counters['left_out_key_exists'] == counters['left_out_map_error'] == 0

    # One of them ends; the others stay as they are.
    close(pairs.pop())
    exchange(pairs, lambda seed: random_sizes(seed, MEGABYTE))
    for pair in pairs:
        redirected(path, *pair)


def test_same_ports_again(steered, place, stack):
    """A connection with the 4-tuple of one that has ended is a new one."""
    path, ports = steered
    port, from_port = next(ports), next(ports)
    listener = stack.enter_context(place.listen(port))
    for turn in range(5):
        client = place.connect(port, from_port=from_port)
        server = accept(listener)
        exchange([(client, server)], lambda seed, turn=turn: random_sizes(seed + turn, MEGABYTE))
        redirected(path, client, server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')  # RST at close
        close(client, server)
    drained(path)
