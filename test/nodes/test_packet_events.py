"""Captured datagrams as PacketBypassed messages: real ones, cut ones, and others."""

import os

from ipc_bypass.nodes.packet_events import packet_bypassed
from ipc_bypass.pool import layout
from ipc_bypass.pool.describe import Commands
from ipc_bypass.pool.pcapng import WallClock
from ipc_bypass.rules.rtps_message import parse_rtps
from ipc_bypass_interfaces.msg import PacketBypassed
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from support.file_pool import mapped
from support.rtps_peers import messages, VENDORS

STAMP = 1_800_000_000_123_456_789
CLOCK = WallClock(lambda: 0, lambda: STAMP)


def descriptor(length, source='127.0.0.1', destination='127.0.0.2', **fields):
    """Return a record with these fields, captured when CLOCK began."""
    found = np.zeros(1, layout.DESCRIPTOR)
    found['family'] = 6 if ':' in source else 4
    found['source_address'][0] = np.frombuffer(mapped(source), 'u1')
    found['destination_address'][0] = np.frombuffer(mapped(destination), 'u1')
    found['source_port'], found['destination_port'] = 40000, 7411
    found['length'], found['action'] = length, layout.MIRROR
    for name, value in fields.items():
        found[name] = value
    return found[0]


def published(record, payload, **options):
    """Return the message as a subscriber gets it."""
    message = packet_bypassed(record, payload, clock=CLOCK, **options)
    return deserialize_message(serialize_message(message), PacketBypassed)


@pytest.mark.parametrize('vendor', VENDORS)
def test_real_messages(vendor):
    """The facts of each message of real peers."""
    for payload in messages(vendor):
        facts = parse_rtps(payload)
        message = published(descriptor(len(payload)), payload)
        assert message.rtps and message.error == ''
        assert (message.vendor_id, message.vendor) == (VENDORS[vendor], facts.vendor)
        assert bytes(message.guid_prefix) == facts.guid_prefix
        assert list(message.submessage_kinds) == facts.kinds
        assert (message.rtps_version_major, message.rtps_version_minor) == facts.version
        carrier = facts.carrier
        if carrier is None:
            assert (message.writer_entity, message.sequence_number) == (0, 0)
        else:
            assert (message.writer_entity, message.reader_entity, message.sequence_number) == (
                carrier.writer, carrier.reader, carrier.sequence)


def test_the_datagram():
    """Every member, with the sender's command and the capture time as wall time."""
    message = published(
        descriptor(3, sequence=2**60, rule_id=9, sender_pid=os.getpid(), receiver_pid=1,
                   capture_ns=1, action=layout.DIVERT), b'abc', path='cgroup_skb',
        commands=Commands({os.getpid(): 'sender', 1: 'receiver'}.get))
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == STAMP + 1
    assert (message.transport, message.action, message.path, message.rule_id) == (
        'udp', 'divert', 'cgroup_skb', 9)
    assert (message.sequence, message.length, message.family) == (2**60, 3, 4)
    assert (message.source_address, message.source_port, message.destination_address,
            message.destination_port) == ('127.0.0.1', 40000, '127.0.0.2', 7411)
    assert (message.sender_pid, message.sender_command) == (os.getpid(), 'sender')
    assert (message.receiver_pid, message.receiver_command) == (1, 'receiver')
    assert not message.rtps and bytes(message.guid_prefix) == bytes(12)


def test_ipv6_and_tcp():
    message = published(descriptor(0, 'fd00::1', '::1', flags=layout.TCP), b'')
    assert (message.family, message.source_address, message.destination_address) == (
        6, 'fd00::1', '::1')
    assert message.transport == 'tcp'


def test_receiver_is_asked_for():
    """Where the descriptor does not know it; None is no answer."""
    asked = []

    def receiver_of(*question):
        asked.append(question)
        return answers.pop()

    answers = [None, (77, 'listener')]
    for pid, command in ((77, 'listener'), (0, '')):
        message = published(descriptor(0), b'', receiver_of=receiver_of)
        assert (message.receiver_pid, message.receiver_command) == (pid, command)
    assert asked == [(4, '127.0.0.2', 7411)] * 2
    published(descriptor(0, receiver_pid=1), b'', receiver_of=receiver_of)
    assert len(asked) == 2


def test_malformed_payloads():
    """An error's name and what was read before it."""
    payload = messages('cyclone')[0]
    message = published(descriptor(len(payload) - 1), payload[:-1])
    assert message.rtps and message.error == 'submessage_length'
    message = published(descriptor(10), payload[:10])
    assert message.rtps and message.error == 'short_header'
    for wrong in (b'', b'RTP', bytes(100)):
        assert not published(descriptor(len(wrong)), wrong).rtps
