"""Sockets that asked for errors: a diverted datagram would be ENOBUFS to them, so that none is."""

import socket

import pytest
from support.capturing import changes, nothing_came, nothing_captured, take, udp_socket

IP_RECVERR, IPV6_RECVERR = 11, 25
V4, V6 = (socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)

KINDS = {
    'v4': (socket.AF_INET, '127.0.0.1', [V4]),
    'v6': (socket.AF_INET6, '::1', [V6]),
    'v6_both': (socket.AF_INET6, '::1', [V4, V6]),
    'mapped': (socket.AF_INET6, '::ffff:127.0.0.1', [V4]),
    'mapped_by_v6': (socket.AF_INET6, '::ffff:127.0.0.1', [V6]),
    'mapped_both': (socket.AF_INET6, '::ffff:127.0.0.1', [V4, V6]),
}


@pytest.fixture(params=KINDS)
def asking(request, routes, captured, consumer, stack):
    """Return (socket that will ask for errors, its options, address, receiver)."""
    family, address, options = KINDS[request.param]
    route = routes['loopback_v6' if address == '::1' else 'loopback']
    sender = stack.enter_context(udp_socket(family=family))
    return sender, options, address, stack.enter_context(route.receiver(captured.port['divert']))


@pytest.mark.parametrize('connected', [False, True], ids=['unconnected', 'connected'])
def test_divert(asking, captured, consumer, connected):
    """It goes the usual way while the option is on, and only then."""
    sender, options, address, receiver = asking
    destination = address, captured.port['divert']
    if connected:
        sender.connect(destination)

    def send(payload):
        with changes(captured.path) as changed:
            assert (sender.send(payload) if connected
                    else sender.sendto(payload, destination)) == len(payload)
        return changed
    for _ in range(2):
        assert send(b'plain') == {'captured_divert': 1}
        assert take(consumer) == [b'plain']
        for option in options:
            sender.setsockopt(*option, 1)
        for size in (0, 10, 5000, 60000):
            assert send(bytes(size)) == {'passed_error_queue': 1}
            assert receiver.recv(1 << 16) == bytes(size)
        for option in options:
            sender.setsockopt(*option, 0)
    nothing_came(receiver)
    nothing_captured(consumer)


def test_divert_where_no_errors_are_asked_for(routes, captured, consumer, stack):
    """The option of the other family does not reach an IPv6 socket's errors; it passes too."""
    sender = stack.enter_context(udp_socket(family=socket.AF_INET6))
    receiver = stack.enter_context(routes['loopback_v6'].receiver(captured.port['divert']))
    sender.setsockopt(*V4, 1)
    with changes(captured.path) as changed:
        sender.sendto(b'careful', ('::1', captured.port['divert']))
    assert changed == {'passed_error_queue': 1}
    assert receiver.recv(100) == b'careful'


def test_mirror(asking, captured, consumer):
    """A mirrored datagram is sent: there is no error."""
    sender, options, address, _ = asking
    for option in options:
        sender.setsockopt(*option, 1)
    with changes(captured.path) as changed:
        sender.sendto(b'mirrored', (address, captured.port['mirror']))
    assert changed == {'captured_mirror': 1}
    assert take(consumer) == [b'mirrored']


def test_corked(asking, captured, consumer):
    """The option is looked at when the datagram is sent, not when it is begun."""
    sender, options, address, receiver = asking
    sender.connect((address, captured.port['divert']))
    sender.send(b'first ', socket.MSG_MORE)
    for option in options:
        sender.setsockopt(*option, 1)
    with changes(captured.path) as changed:
        sender.send(b'second')
    assert changed == {'passed_error_queue': 1}
    assert receiver.recv(100) == b'first second'
