"""Send what was captured and never taken the usual way, once, as if its sender had sent it."""

from __future__ import annotations

from collections.abc import Callable
import errno
from pathlib import Path
import socket
import threading
import time

from ipc_bypass.pool import layout
from ipc_bypass.udp.packets import address_bytes, build_packet, MOST_PAYLOAD
from ipc_bypass.udp.raw import RawSockets
import numpy as np

#: Why a datagram was stranded.
REASONS = {
    'truncated': 'only its first bytes were captured',
    'tcp': 'it was a message of a TCP connection',
    'malformed': 'its descriptor makes no sense',
    'no_namespace': 'its sender is gone, and no one namespace has its source address',
    'no_permission': 'this process may not enter its namespace or send raw packets there',
    'unreachable': 'there is no way to its destination',
    'busy': 'the kernel had no room for it',
    'refused': 'the kernel refused it',
}

_ERRORS = {
    errno.EPERM: 'no_permission', errno.EACCES: 'no_permission',
    errno.ENETUNREACH: 'unreachable', errno.EHOSTUNREACH: 'unreachable',
    errno.ENETDOWN: 'unreachable', errno.EAGAIN: 'busy', errno.ENOBUFS: 'busy',
    errno.ENOMEM: 'busy', errno.ENOENT: 'no_namespace', errno.ESRCH: 'no_namespace'}

_TICKS_PER_SECOND = 100  # USER_HZ of proc(5), the same on every kernel of today


class Resender:
    """
    Sends datagrams with their sender's address and port, from its network namespace.

    That is the namespace of its process, where this is the process that sent it and has the
    source address; else the one that `namespace_of_address` names; else that of its process. The
    packets are made here: options of the sender's socket (TTL, TOS, a bound device) are not
    known, and the sender's own error queue hears nothing. Thread-safe.

    :param exempt: called with each socket that sends, so that its packets are not captured again
    :param namespace_of_address: called with an address of 4 or 16 bytes, returns a file of the
        one namespace that has it, or None
    :param most: raw sockets that are open at once
    """

    def __init__(self, exempt: Callable[[socket.socket], object] = lambda sock: None,
                 namespace_of_address: Callable[[bytes], str | None] = lambda address: None,
                 most: int = 16) -> None:
        self._sockets = RawSockets(exempt, most)
        self._namespace_of_address = namespace_of_address
        self._lock = threading.Lock()
        self._sent = self._sent_bytes = 0
        self._stranded = dict.fromkeys(REASONS, 0)

    def send(self, descriptor: np.void, payload) -> str:
        """
        Send one datagram; return '' or the name in REASONS of why it is stranded.

        :param descriptor: a record of dtype layout.DESCRIPTOR
        :param payload: bytes-like
        """
        reason = self._send(descriptor, payload)
        with self._lock:
            if reason:
                self._stranded[reason] += 1
            else:
                self._sent += 1
                self._sent_bytes += len(payload)
        return reason

    def counters(self) -> dict[str, int]:
        """Return sent, sent_bytes, stranded and stranded_REASON, in datagrams and bytes."""
        with self._lock:
            return {'sent': self._sent, 'sent_bytes': self._sent_bytes,
                    'stranded': sum(self._stranded.values()),
                    **{f'stranded_{name}': count for name, count in self._stranded.items()}}

    @property
    def done(self) -> tuple[int, int]:
        """Return how many datagrams were sent, and how many are stranded."""
        return self._sent, sum(self._stranded.values())

    def trim(self, idle: float = 5.0) -> None:
        """Close sockets unused for `idle` seconds: an open one keeps its namespace alive."""
        self._sockets.trim(idle)

    def close(self) -> None:
        """Close every socket; the counters stay."""
        self._sockets.close()

    def _send(self, descriptor, payload):
        flags, family = int(descriptor['flags']), int(descriptor['family'])
        if flags & layout.TCP:
            return 'tcp'
        if flags & layout.TRUNCATED:
            return 'truncated'
        if family not in MOST_PAYLOAD or len(payload) > MOST_PAYLOAD[family]:
            return 'malformed'
        source = address_bytes(descriptor['source_address'], family)
        try:
            path, scope = self._namespace(int(descriptor['sender_pid']),
                                          int(descriptor['capture_ns']), source)
            if not path:
                return 'no_namespace'
            self._sockets.send(path, build_packet(descriptor, payload), scope)
        except OSError as error:
            return _ERRORS.get(error.errno, 'refused')
        return ''

    def _namespace(self, pid, capture_ns, source):
        """Return (file of the namespace, '' where none is known; scope of the source there)."""
        own = f'/proc/{pid}/ns/net' if _sent_by(pid, capture_ns) else ''
        for find in (lambda: own, lambda: self._namespace_of_address(source)):
            path = find()
            if path:
                try:
                    scope = self._sockets.scope(path, source)
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it ended meanwhile
                if scope is not None:
                    return path, scope
        return own, 0


def _sent_by(pid, capture_ns):
    """Return whether the process that has this id now is the one that had it at the capture."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text(errors='replace') if pid else ''
    except OSError:
        return False
    if not text:
        return False
    # proc(5): the state is field 3, the start in ticks since boot field 22; the command name
    # before them may hold spaces and brackets.
    fields = text.rpartition(')')[2].split()
    if fields[0] in 'ZX':
        return False
    asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return int(fields[19]) * (10**9 // _TICKS_PER_SECOND) <= capture_ns + asleep
