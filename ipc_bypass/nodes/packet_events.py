"""Captured datagrams as PacketBypassed messages."""

from __future__ import annotations

from collections.abc import Callable

from builtin_interfaces.msg import Time
from ipc_bypass.pool.describe import Commands, datagrams
from ipc_bypass.pool.pcapng import WallClock
from ipc_bypass.rules.rtps_message import parse_rtps
from ipc_bypass_interfaces.msg import PacketBypassed
import numpy as np

#: Members of a Datagram that have the same name and meaning in the message.
MEMBERS = (
    'transport', 'action', 'rule_id', 'sequence', 'family', 'source_port', 'destination_port',
    'sender_pid', 'sender_command', 'receiver_pid', 'receiver_command', 'truncated')
_NO_PREFIX = np.zeros(12, dtype=np.uint8)
_SECOND = 1_000_000_000

_commands = Commands()
_clock = WallClock()


def packet_bypassed(descriptor: np.void, payload, *, path: str = '',
                    receiver_of: Callable | None = None, commands: Commands = _commands,
                    clock: WallClock = _clock) -> PacketBypassed:
    """
    Return the message of one captured datagram; any payload gives one.

    :param descriptor: one record of dtype pool.layout.DESCRIPTOR
    :param payload: bytes-like
    :param path: what captured it
    :param receiver_of: called with (family, address as text, port) where the descriptor does not
        know the receiver; returns (pid, command) or None
    :param commands: names of processes
    :param clock: of the message's stamp
    """
    clock.update()
    datagram, = datagrams(np.asarray(descriptor).reshape(1), commands, clock.offset_ns)
    seconds, nanoseconds = divmod(datagram.stamp_ns, _SECOND)
    message = PacketBypassed(
        path=path, source_address=datagram.source, destination_address=datagram.destination,
        length=datagram.original_length, guid_prefix=_NO_PREFIX,
        **{name: getattr(datagram, name) for name in MEMBERS})
    message.header.stamp = Time(sec=seconds, nanosec=nanoseconds)
    if not datagram.receiver_pid and receiver_of is not None:
        found = receiver_of(datagram.family, datagram.destination, datagram.destination_port)
        if found is not None:
            message.receiver_pid, message.receiver_command = found
    _add_facts(message, parse_rtps(payload, datagram.original_length))
    return message


def _add_facts(message: PacketBypassed, facts) -> None:
    """Fill in what an RTPS message says; nothing where `facts` is None."""
    if facts is None:
        return
    message.rtps = True
    message.rtps_version_major, message.rtps_version_minor = facts.version
    message.vendor_id, message.vendor = facts.vendor_id, facts.vendor
    message.guid_prefix = np.frombuffer(facts.guid_prefix, dtype=np.uint8)
    message.submessage_kinds = facts.kinds
    message.error = facts.error
    carrier = facts.carrier
    if carrier is not None:
        message.writer_entity, message.reader_entity = carrier.writer, carrier.reader
        message.sequence_number = carrier.sequence or 0
