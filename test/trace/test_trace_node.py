"""The trace path as the node uses it: its pool in a file, and consumers that ask for leases."""

import contextlib
from pathlib import Path
import socket

from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.pool import layout
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.trace.probes import Probes
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings
from ipc_bypass.udp.traced import Traced
import pytest
from support.connections import close, LOOPBACK, read
from support.waiting import wait_until


def make(control, udp_path):
    """Return a UdpPath that may trace both transports."""
    return UdpPath(UdpSettings(udp_path=udp_path, pin_directory='', control_socket=control,
                               pool_size=8 << 20, heartbeat_ms=60_000, slot_ttl_ms=600_000),
                   trace=lambda settings, log: Traced(settings, log, transports=('udp', 'tcp')))


@pytest.fixture
def control(tmp_path):
    """Return where consumers ask."""
    return str(tmp_path / 'pool.sock')


@pytest.fixture
def path(probes_work, control, block):
    """Yield an active path with a rule for each transport."""
    made = make(control, 'trace')
    made.configure()
    try:
        table = RuleTable()
        for transport in ('udp', 'tcp'):
            table.add(transport, block.first, block.last)
        made.set_rules(table.rules())
        made.activate()
        yield made
    finally:
        made.cleanup()


def test_consumers_read_what_is_sent(path, control, ports):
    """Datagrams and messages come to a consumer by their first bytes; each is delivered."""
    port = next(ports)
    assert path.selected == 'trace'
    assert not [name for name in Path('/dev/shm').iterdir() if 'ipc_bypass_pool' in name.name]
    data = bytes(range(256)) * 8
    with contextlib.ExitStack() as stack:
        consumer = stack.enter_context(Consumer(control=control))
        observer = stack.enter_context(Consumer(control=control, observe=True))
        receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(('127.0.0.1', port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, ('127.0.0.1', port))
        assert receiver.recv(1 << 16) == data
        pair = client, server = LOOPBACK.pair(port)
        stack.callback(close, pair)
        client.sendall(data)
        assert read(server, len(data)) == data
        for reader in (consumer, observer):
            seen = []
            while len(seen) < 2:
                with reader.read(60) as batch:
                    assert len(batch)
                    seen += [(int(record['flags']), int(record['original_length']),
                              bytes(payload)) for record, payload in zip(
                        batch.descriptors, batch.payloads(), strict=True)]
            assert seen == [(layout.TRUNCATED, len(data), data[:256]),
                            (layout.TRUNCATED | layout.TCP, len(data), data[:256])]
    counters = wait_until(lambda: path.counters() if path.counters()['captured_mirror'] == 2
                          else None, 'both are counted')
    assert counters['trace_sends_udp'] == counters['trace_sends_tcp'] == 1
    assert path.pool['used'] == (0, 0)


def test_divert_has_no_effect(path):
    """A rule that diverts says why it cannot."""
    rule = RuleTable().add('udp', 1, 2, 'divert')
    assert 'suppresses nothing' in path.obstacle(rule)


def test_refused_without_probes(control):
    """Where the kernel has no probes, the path says so and leaves nothing."""
    if Probes().available():
        return  # the tests above show it at work
    with pytest.raises(UnsupportedError, match='no kprobes'):
        make(control, 'trace').configure()
    assert not Path(control).exists()
    other = make(control, 'auto')
    other.configure()
    try:
        assert other.selected == 'cgroup_skb'
        assert 'not needed' in other.reasons['trace']
    finally:
        other.cleanup()
