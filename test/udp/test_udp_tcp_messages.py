"""Redirected TCP messages are copied to the pool where the node is told to."""

import logging

from ipc_bypass.nodes.collector import Collector
from ipc_bypass.nodes.paths import Paths
from ipc_bypass.pool import layout
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.tcp.settings import TcpSettings
from ipc_bypass.udp.settings import UdpSettings
import pytest
from support.connections import close, LOOPBACK, LOOPBACK_V6, read

SIZES = (1, 100, 4096, 5000, 30_000, 100_000, 300_000)


@pytest.fixture
def make_paths(privileged, pin_directory, tmp_path, stack):
    """Return a function that makes active Paths which capture TCP, and their control socket."""
    def made(port, **options):
        control, folder = str(tmp_path / 'pool.sock'), pin_directory()
        paths = Paths(TcpSettings(tcp_path='sk_msg', tcp_capture=True, **options,
                                  pin_directory=folder),
                      UdpSettings(udp_path='cgroup_skb', pin_directory=folder,
                                  control_socket=control, pool_size=8 << 20),
                      logging.getLogger('test'))
        paths.configure()
        stack.callback(paths.cleanup)
        table = RuleTable()
        table.add('tcp', port)
        paths.set_rules(table.rules())
        paths.activate()
        return paths, control
    return made


@pytest.mark.parametrize('place', (LOOPBACK, LOOPBACK_V6), ids=lambda place: place.name)
def test_messages(make_paths, stack, ports, place):
    """Each message is there: whole, or its first bytes and the length that it had."""
    port = next(ports)
    paths, control = make_paths(port)
    collector = Collector(control, logging.getLogger('test'))
    stack.callback(collector.close)
    observer = stack.enter_context(Consumer(control=control, observe=True))
    pair = client, server = place.pair(port)
    stack.callback(close, pair)
    for number, size in enumerate(SIZES):
        data = bytes(number for _ in range(size))
        client.sendall(data)
        assert read(server, size) == data
        seen = 0
        while seen < size:
            batch = observer.read(10)
            assert len(batch)
            for record, payload in zip(batch.descriptors, batch.payloads(), strict=True):
                assert record['flags'] & layout.TCP
                whole = record['length'] == record['original_length']
                assert bool(record['flags'] & layout.TRUNCATED) == (not whole)
                assert bytes(payload) == data[:record['length']]
                assert (record['source_port'], record['destination_port']) == \
                    (client.getsockname()[1], port)
                assert record['family'] == (6 if place is LOOPBACK_V6 else 4)
                seen += int(record['original_length'])
        assert seen == size
    counters = paths.tcp.counters()
    assert counters['captured'] >= len(SIZES)
    assert counters['not_captured'] == 0
    assert counters['redirected_bytes'] == sum(SIZES)

    paths.tcp.set_capture_ring(None)
    client.sendall(b'unseen')
    assert read(server, 6) == b'unseen'
    assert len(observer.read(0.05)) == 0


def test_without_a_reader(make_paths, stack, ports):
    """Nobody collects: connections go on, and what was not copied is counted."""
    port = next(ports)
    paths, _ = make_paths(port)
    paths.tcp.set_capture_ring(0)  # a ring that nobody leased: its heartbeat is stale
    pair = client, server = LOOPBACK.pair(port)
    stack.callback(close, pair)
    for _ in range(10):
        client.sendall(b'data')
        assert read(server, 4) == b'data'
    counters = paths.tcp.counters()
    assert (counters['redirected_messages'], counters['captured'], counters['not_captured']) == \
        (10, 0, 10)


def test_needs_pins(privileged, tmp_path):
    """Without a pin folder the two programs cannot share the pool, and that is said."""
    paths = Paths(TcpSettings(tcp_path='sk_msg', tcp_capture=True, pin_directory=''),
                  UdpSettings(udp_path='cgroup_skb', pin_directory='',
                              control_socket=str(tmp_path / 'pool.sock')),
                  logging.getLogger('test'))
    with pytest.raises(Exception, match='pin_directory'):
        paths.configure()
    assert not (tmp_path / 'pool.sock').exists()
