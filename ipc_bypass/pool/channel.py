"""
The words between the node and consumers: JSON over a Unix socket, with descriptors.

Each message is one packet (SOCK_SEQPACKET). Requests have an 'op':

open      version, name, rules, claims, observe: what the consumer is. Answers 'backing' (kernel
          or file), 'heartbeat_ms', 'pins' (the folder of the maps, '' for none) with 'pool_id'
          (the kernel's id of the map pool_header) and 'rings'
maps      hands over what can be mapped, for who cannot open the pins
lease     begins a lease, ending the one that there was: 'ring', 'generation', 'cursor'
revoked   ring, generation: ends that lease if it has not ended; up to which 'cursor' it counted
exempt    with sockets: what they send is not captured

Answers have 'ok', or 'error' with one line and a 'next_step'.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
import json
import os
import select
import socket
import threading
import time

from ipc_bypass.kernel.errors import PoolError

VERSION = 1
#: Where the node listens, unless its parameter control_socket says otherwise.
DEFAULT_SOCKET = '/run/ipc_bypass/pool.sock'
#: Bytes of a message, and descriptors with it, at most.
_MOST_BYTES, _MOST_DESCRIPTORS = 1 << 16, 64


def send(sock: socket.socket, message: dict, descriptors: Iterable[int] = ()) -> None:
    """Send a message, with descriptors; raises OSError."""
    handed = array('i', descriptors)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)] if handed else []
    sock.sendmsg([json.dumps(message).encode()], ancillary)


def receive(sock: socket.socket) -> tuple[dict | None, list[int]]:
    """Return (message, descriptors), (None, []) at the end; raises OSError, ValueError."""
    found = array('i')
    data, ancillary, _, _ = sock.recvmsg(
        _MOST_BYTES, socket.CMSG_SPACE(_MOST_DESCRIPTORS * found.itemsize),
        socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[:len(content) - len(content) % found.itemsize])
    try:
        message = json.loads(data) if data else None
        if data and not isinstance(message, dict):
            raise ValueError('not an object')
    except RecursionError:
        _close(found)
        raise ValueError('nested too deeply') from None
    except ValueError:
        _close(found)
        raise
    if message is None:
        _close(found)
        return None, []
    return message, list(found)


def _close(descriptors):
    for fd in descriptors:
        os.close(fd)


class Client:
    """A consumer's end; `ask` may be called from any thread."""

    def __init__(self, path: str | os.PathLike = DEFAULT_SOCKET, timeout: float = 5.0) -> None:
        """Connect; raises PoolError."""
        self._path = str(path)
        self._lock, self._broken = threading.Lock(), False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(timeout)
        try:
            self._connect(time.monotonic() + timeout)
        except OSError as error:
            self._sock.close()
            raise PoolError(
                f'reach the node at {self._path}', '' if error.errno else str(error),
                errno=error.errno or 0, next_step=_CONNECT.get(
                    type(error), 'is the node active? ros2 launch ipc_bypass ipc_bypass.launch.py')
            ) from error
        self._ended = select.poll()
        self._ended.register(self._sock, select.POLLRDHUP)

    def _connect(self, end):
        while True:
            try:
                return self._sock.connect(self._path)
            except BlockingIOError:  # more than the node's backlog connect at once
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def fileno(self) -> int:
        """Return the socket's descriptor: it becomes readable when the node is gone."""
        return self._sock.fileno()

    def ask(self, *, handed: Iterable[int] = (), **request) -> tuple[dict, list[int]]:
        """
        Return (answer, descriptors) of a request; raises PoolError.

        :param handed: descriptors to send with it
        """
        try:
            with self._lock:
                answer, descriptors = self._exchange(request, handed)
        except (OSError, ValueError) as error:
            self._broken = True  # an answer that comes late would be taken for the next one's
            raise PoolError(f'ask the node at {self._path}', str(error),
                            next_step='is it running?') from error
        if answer is None:
            raise PoolError(f'ask the node at {self._path}', 'it ended the connection',
                            next_step='see its log')
        if not answer.get('ok'):
            _close(descriptors)
            raise PoolError(f"ask the node for '{request.get('op')}'",
                            str(answer.get('error', 'no reason given')),
                            next_step=str(answer.get('next_step', '')))
        return answer, descriptors

    def _exchange(self, request, handed):
        try:
            send(self._sock, request, handed)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused: it said why before it closed
        try:
            return receive(self._sock)
        except ConnectionResetError:
            return receive(self._sock)

    def alive(self) -> bool:
        """Return whether the node still has its end open, and answers."""
        return not self._broken and not self._ended.poll(0)

    def close(self) -> None:
        """Close; a lease ends with it."""
        self._sock.close()


_CONNECT = {PermissionError: "run as a member of the node's pool_group"}
