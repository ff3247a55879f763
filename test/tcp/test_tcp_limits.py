"""A full table, and connections that the path cannot have."""

from support.connections import close
from support.steering import adds_up, drained, flow_of, flows_of, rules
from support.traffic import exchange, random_sizes
from support.waiting import wait_until

KILOBYTE = 1 << 10


def test_table_full(place, make_path, ports, stack):
    """Connections beyond the table's size go by TCP and are counted; room is given back."""
    path = stack.enter_context(make_path((ports.first, ports.last), max_connections=16))
    port = next(ports)
    listener = stack.enter_context(place.listen(port))
    pairs = []
    stack.callback(close, pairs)
    for _ in range(40):
        client = place.connect(port)
        pairs.append((client, listener.accept()[0]))

    exchange(pairs, lambda seed: random_sizes(seed, 64 * KILOBYTE, largest=16 * KILOBYTE))

    counters = adds_up(path)
    assert counters['ends_enrolled'] == len(path.flows()) == 32
    assert counters['left_out_table_full'] == 80 - 32
    assert all(flow.redirected_bytes for flow in flows_of(path, *(
        end for pair in pairs[:16] for end in pair)))

    close(pairs)
    drained(path)
    assert path.counters()['ends_closed'] == 32
    more = [place.pair(next(ports)) for _ in range(8)]
    stack.callback(close, more)
    exchange(more, lambda seed: random_sizes(seed, 64 * KILOBYTE))
    assert all(flow.path == 'sk_msg' for flow in flows_of(path, *(
        end for pair in more for end in pair)))


def test_many_connections_one_after_the_other(make_path, places, ports, stack):
    """A table of 16 serves any number of connections that end."""
    path = stack.enter_context(make_path((ports.first, ports.last), max_connections=16))
    port = next(ports)
    for turn in range(100):
        pair = places['loopback'].pair(port)
        exchange([pair], lambda seed, turn=turn: random_sizes(seed + turn, 10 * KILOBYTE))
        close(pair)
    drained(path)
    counters = adds_up(path)
    assert counters['left_out_table_full'] == 0
    assert counters['ends_enrolled'] == counters['ends_closed'] == 200


def test_connection_older_than_the_node(place, make_path, ports, stack):
    """It goes on by TCP, is no flow, and is counted."""
    port = next(ports)
    client, server = pair = place.pair(port)
    stack.callback(close, pair)
    exchange([pair], lambda seed: random_sizes(seed, 64 * KILOBYTE))
    for space in filter(None, (place.server, place.client)):
        stack.enter_context(space.inhabited())
    path = stack.enter_context(make_path((ports.first, ports.last)))

    exchange([pair], lambda seed: random_sizes(seed, 64 * KILOBYTE))

    assert path.flows() == []
    wait_until(lambda: path.counters()['left_out_opened_before'] == 2, 'its ends are counted')
    assert path.counters()['ends_enrolled'] == 0


def test_connections_on_other_ports(steered, place, ports, stack):
    """A port without a rule is not touched."""
    path, _ = steered
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    before = path.counters()
    exchange([pair], lambda seed: random_sizes(seed, 64 * KILOBYTE))
    assert flow_of(path, client) is flow_of(path, server) is None
    assert path.counters() == before


def test_either_end_may_have_the_port(make_path, places, ports, stack):
    """A rule matches the client's port as well as the server's."""
    client_port, server_port = next(ports), next(ports)
    path = stack.enter_context(make_path(client_port))
    place = places['loopback']
    listener = stack.enter_context(place.listen(server_port))
    client = stack.enter_context(place.connect(server_port, from_port=client_port))
    server = stack.enter_context(listener.accept()[0])
    exchange([(client, server)], lambda seed: random_sizes(seed, 64 * KILOBYTE))
    assert all(flow.redirected_bytes for flow in flows_of(path, client, server))
    path.set_rules(rules(server_port))
    exchange([(client, server)], lambda seed: random_sizes(seed, 64 * KILOBYTE))
    assert 'withdrawn' not in flow_of(path, client).passed_by_reason
