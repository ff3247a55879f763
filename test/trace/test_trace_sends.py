"""What the trace path sees of real datagrams: each once, its first bytes, and it changes none."""

import random
import socket

from ipc_bypass.pool import layout
import pytest
from support.traffic import Job
from trace_sending import address_bytes, ADDRESSES, receiver, send_many, sender

SIZES = (0, 1, 255, 256, 257, 1472, 5000, 60000)
FIRST = 256


def payloads(*sizes):
    """Return random payloads of these sizes."""
    generator = random.Random(len(sizes))
    return [generator.randbytes(size) for size in sizes]


def arrive(sock, sent):
    """Assert that exactly these datagrams arrive, in their order: nothing is suppressed."""
    assert [sock.recv(1 << 16) for _ in sent] == sent
    with pytest.raises(BlockingIOError):
        sock.recv(1, socket.MSG_DONTWAIT)


def check(taken, sent, *, family, port, pid, source_port):
    """Assert that what was taken from the pool are the first bytes of what was sent, in order."""
    assert [payload for _, payload in taken] == [data[:FIRST] for data in sent]
    for (descriptor, _), data in zip(taken, sent, strict=True):
        assert descriptor['flags'] == layout.TRUNCATED
        assert descriptor['action'] == layout.MIRROR
        assert descriptor['family'] == (6 if family == 6 else 4)
        assert descriptor['destination_address'].tobytes() == address_bytes(family)
        assert descriptor['destination_port'] == port
        assert descriptor['source_port'] == source_port
        assert descriptor['sender_pid'] == pid
        assert descriptor['rule_id'] == 1
        assert descriptor['original_length'] == len(data)
    times = [int(descriptor['capture_ns']) for descriptor, _ in taken]
    assert times == sorted(times) and times[0] > 0


@pytest.mark.parametrize('connected', [True, False], ids=['connected', 'unconnected'])
@pytest.mark.parametrize('family', [4, 6, 'mapped'])
def test_datagrams(traced, ports, pid, family, connected):
    """Each datagram is counted once; its first bytes and its addresses are right."""
    port, sent = next(ports), payloads(*SIZES)
    with receiver(family, port) as there, sender(family, port if connected else None) as sock:
        for data in sent:
            if connected:
                sock.send(data)
            else:
                sock.sendto(data, (ADDRESSES[family], port))
        arrive(there, sent)
        source_port = sock.getsockname()[1]
    check(traced.take(), sent, family=family, port=port, pid=pid, source_port=source_port)
    assert traced.since() == {'sends_udp': len(sent), 'bytes_udp': sum(SIZES),
                              'captured': len(sent)}


@pytest.mark.parametrize('family', [4, 6])
def test_many_with_one_call(traced, ports, pid, family):
    """Every datagram of a sendmmsg is seen."""
    port, sent = next(ports), payloads(*range(100, 140))
    with receiver(family, port) as there, sender(family, port) as sock:
        send_many(sock, sent)
        arrive(there, sent)
        source_port = sock.getsockname()[1]
    check(traced.take(), sent, family=family, port=port, pid=pid, source_port=source_port)
    assert traced.since()['sends_udp'] == len(sent)


def test_scattered_segments(traced, ports):
    """The first bytes are gathered from up to eight segments."""
    port = next(ports)
    parts = [b'ab', b'', b'c' * 200, b'd' * 200]
    many = [bytes([number]) * 10 for number in range(20)]
    with receiver(4, port) as there, sender(4, port) as sock:
        sock.sendmsg(parts)
        sock.sendmsg(many)
        arrive(there, [b''.join(parts), b''.join(many)])
    assert [payload for _, payload in traced.take()] == [
        b''.join(parts)[:FIRST], b''.join(many[:8])]


def test_datagram_in_parts(traced, ports):
    """Each part of a datagram that MSG_MORE puts together is a send of its own."""
    port = next(ports)
    with receiver(4, port) as there, sender(4, port) as sock:
        sock.send(b'first ', socket.MSG_MORE)
        sock.send(b'second')
        arrive(there, [b'first second'])
    assert [payload for _, payload in traced.take()] == [b'first ', b'second']
    assert traced.since() == {'sends_udp': 2, 'bytes_udp': 12, 'captured': 2}


def test_send_that_fails(traced, ports):
    """What the kernel refuses is counted as such, and is not captured."""
    port = next(ports)
    with sender(4) as sock, pytest.raises(OSError, match='Message too long'):
        sock.sendto(bytes(70000), (ADDRESSES[4], port))
    assert traced.take() == []
    assert traced.since() == {'failed_udp': 1}


def test_other_ports(traced, ports):
    """A send to a port without a rule is not seen, whatever port it comes from."""
    with receiver(4, 0) as there, sender(4) as sock:
        sock.bind((ADDRESSES[4], next(ports)))
        sock.sendto(b'elsewhere', there.getsockname())
        arrive(there, [b'elsewhere'])
        assert traced.since() == {}


def test_many_threads(traced, ports):
    """Sends of several threads at once are all counted, in the pool or under a reason."""
    port, count = next(ports), 300

    def send():
        with sender(4, port) as sock:
            for number in range(count):
                sock.send(number.to_bytes(4, 'little'))
    with receiver(4, port):
        for job in [Job(send) for _ in range(4)]:
            job.result()
    counters = traced.since()
    # Some kernels follow no more threads than there are processors.
    sends = counters.pop('sends_udp')
    assert sends + counters.pop('untracked_udp', 0) == 4 * count
    assert counters.pop('bytes_udp') == 4 * sends
    # Nobody released meanwhile, so that the pool's limit may be met.
    assert sum(counters.values()) == sends
    assert set(counters) <= {'captured', 'lost', 'passed_pool_full', 'passed_ring_full'}
    by_source = {}
    for descriptor, payload in sorted(traced.take(), key=lambda taken: taken[0]['capture_ns']):
        numbers = by_source.setdefault(int(descriptor['source_port']), [])
        numbers.append(int.from_bytes(payload, 'little'))
    assert all(numbers == sorted(set(numbers)) for numbers in by_source.values())


@pytest.mark.parametrize('family', [4, 6, 'mapped'])
def test_connections(traced, ports, pid, family):
    """Both directions of a connection are seen: either port may have the rule."""
    port = next(ports)
    kind = socket.AF_INET6 if family != 4 else socket.AF_INET
    with socket.socket(kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(('::' if kind == socket.AF_INET6 else ADDRESSES[4], port))
        listener.listen()
        with socket.create_connection((ADDRESSES[family], port)) as client:
            server, _ = listener.accept()
            with server:
                request, answer = payloads(10, 5000)
                client.sendall(request)
                assert server.recv(100) == request
                server.sendall(answer)
                got = b''
                while len(got) < len(answer):
                    got += client.recv(1 << 16)
                assert got == answer
                ours = client.getsockname()[1]
    (one, first), (other, second) = traced.take()
    assert (first, second) == (request, answer[:FIRST])
    assert (one['source_port'], one['destination_port']) == (ours, port)
    assert (other['source_port'], other['destination_port']) == (port, ours)
    for descriptor in (one, other):
        assert descriptor['flags'] == layout.TRUNCATED | layout.TCP
        assert descriptor['family'] == (6 if family == 6 else 4)
        assert descriptor['source_address'].tobytes() == address_bytes(family)
        assert descriptor['destination_address'].tobytes() == address_bytes(family)
        assert descriptor['sender_pid'] == pid
        assert descriptor['rule_id'] == 2
    assert traced.since() == {'sends_tcp': 2, 'bytes_tcp': 5010, 'captured': 2}
