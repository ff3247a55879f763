"""Captured datagrams in words: addresses, commands, times. For people, files and messages."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import socket
import time
from typing import NamedTuple

from ipc_bypass.pool import layout
from ipc_bypass.tcp.owners import comm
import numpy as np

#: Seconds for which a command's name is believed; a pid may be given anew after that.
_BELIEVED = 2.0
_MOST_COMMANDS = 4096
# Where the bytes of the whole stand in the descriptor of a truncated datagram.
_ORIGINAL = 'original_length' if 'original_length' in layout.DESCRIPTOR.names else 'unused'


class Datagram(NamedTuple):
    """
    What a descriptor says.

    :param sequence: the pool's number of the datagram, unique in its class of slots
    :param stamp_ns: capture time, nanoseconds since 1970
    :param transport: 'udp' or 'tcp'
    :param action: 'mirror' or 'divert'
    :param rule_id: the rule that it obeyed
    :param family: 4 or 6
    :param source: address as text
    :param destination: address as text
    :param sender_pid: 0 when not known
    :param sender_command: '' when not known
    :param receiver_pid: 0: none, several, or not known
    :param length: bytes of payload that were captured
    :param original_length: bytes of payload that were sent
    :param truncated: whether only the first bytes were captured
    """

    sequence: int
    stamp_ns: int
    transport: str
    action: str
    rule_id: int
    family: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    sender_pid: int
    sender_command: str
    receiver_pid: int
    receiver_command: str
    length: int
    original_length: int
    truncated: bool


class Commands:
    """Names of processes, each looked up at most once in a while."""

    def __init__(self, look_up=comm, clock=time.monotonic) -> None:
        """Take `look_up(pid)`, '' where there is none, and a clock in seconds."""
        self._look_up, self._clock = look_up, clock
        self._known: dict[int, tuple[str, float]] = {}

    def name(self, pid: int) -> str:
        """Return the command of a process; the last one known where it has ended, else ''."""
        if not pid:
            return ''
        known, until = self._known.get(pid, ('', 0.0))
        now = self._clock()
        if now < until:
            return known
        if len(self._known) >= _MOST_COMMANDS:
            self._known.clear()
        found = self._look_up(pid) or known
        self._known[pid] = found, now + _BELIEVED
        return found


def datagrams(descriptors: np.ndarray, commands: Commands, offset_ns: int) -> Iterator[Datagram]:
    """
    Yield what each descriptor says.

    :param descriptors: records of pool.layout.DESCRIPTOR
    :param offset_ns: what to add to capture times (CLOCK_MONOTONIC) for the wall clock's
    """
    if not len(descriptors):
        return
    names = descriptors.dtype.names
    originals = original_lengths(descriptors).tolist()
    for record, original in zip(descriptors.tolist(), originals, strict=True):
        fields = dict(zip(names, record, strict=True))
        family, flags = fields['family'], fields['flags']
        sender, receiver = fields['sender_pid'], fields['receiver_pid']
        yield Datagram(
            fields['sequence'], fields['capture_ns'] + offset_ns,
            'tcp' if flags & layout.TCP else 'udp',
            layout.ACTIONS.get(fields['action'], str(fields['action'])), fields['rule_id'], family,
            address_text(bytes(fields['source_address']), family), fields['source_port'],
            address_text(bytes(fields['destination_address']), family),
            fields['destination_port'], sender, commands.name(sender), receiver,
            commands.name(receiver), fields['length'], original, bool(flags & layout.TRUNCATED))


def original_lengths(descriptors: np.ndarray) -> np.ndarray:
    """Return how many bytes of payload were sent, uint32; more than 'length' where truncated."""
    lengths = descriptors['length']
    truncated = descriptors['flags'] & layout.TRUNCATED != 0
    return np.where(truncated, np.maximum(lengths, descriptors[_ORIGINAL]), lengths)


@functools.lru_cache(1024)
def address_text(address: bytes, family: int) -> str:
    """Return an address of a descriptor (16 bytes, IPv4 as ::ffff:a.b.c.d) as text."""
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def endpoint_text(address: str, port: int) -> str:
    """Return '127.0.0.1:7411' or '[::1]:7411'."""
    return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'


def process_text(pid: int, command: str) -> str:
    """Return 'ddsperf(4711)', or '?' for a process that is not known."""
    return f'{command}({pid})' if pid else '?'
