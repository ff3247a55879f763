"""
Does redirect behave on this kernel? Asked with a private pair of sockets, before the first rule.

The kernel's code for redirected sockets changed often, and not always for the better. A kernel
that fails is refused; the one fault with a known work-around (FIONREAD answers 0 for data that
came by TCP) is reported, so that the caller can put the work-around in place and ask again.
"""

import array
import contextlib
from dataclasses import dataclass
import fcntl
import os
import select
import socket
import termios
import threading

from ipc_bypass.kernel.errors import ConformanceError

_TIMEOUT = 5.0
_MANY = 6 << 20
_SMALL_BUDGET, _PIECE = 64 << 10, 4 << 10


class PassedDataFault(ConformanceError):
    """Data that came by TCP is not counted, or read apart; a passing sk_skb program mends that."""


class QueueViewFault(ConformanceError):
    """What the program reads of a receiver's queue is not what is queued there."""


@dataclass
class Findings:
    """What differs between kernels and can be lived with."""

    fionread_redirected: bool = True


class Check:
    """
    The check over one set of maps.

    `enroll(port)` makes a rule for the private port and `withdraw(port)` removes it; `activate`
    takes whether messages are redirected, `budget` the budget in bytes; `flow(port)` returns the
    record of the end that sends from that local port, as a dict; `sees_queues` says whether the
    program renews budgets by what it sees of the receiver, `one_way` whether it only redirects
    what the accepted end sends.
    """

    def __init__(self, *, enroll, withdraw, activate, budget, flow, sees_queues, one_way):
        """Remember how to steer the objects under test."""
        self._enroll, self._withdraw = enroll, withdraw
        self._activate, self._flow, self._budget = activate, flow, budget
        self._sees_queues, self._one_way = sees_queues, one_way
        self._findings = Findings()

    def run(self):
        """
        Run every part and return the Findings.

        Raises PassedDataFault, QueueViewFault, or ConformanceError with the part that failed.
        """
        parts = [self._redirects, self._order_over_pass, self._fionread, self._one_read,
                 self._poll,                 self._half_close, self._unread]
        if self._sees_queues:
            parts.append(self._queue_view)
        for part in parts:
            try:
                with self._pair() as (client, server):
                    part(client, server)
            except (OSError, EOFError) as error:
                raise _failed(part.__name__, str(error)) from error
        return self._findings

    @contextlib.contextmanager
    def _pair(self):
        self._activate(True)
        self._budget(_SMALL_BUDGET)
        with socket.socket() as listener:
            listener.bind(('127.0.0.1', 0))
            listener.listen(1)
            port = listener.getsockname()[1]
            self._enroll(port)
            try:
                with socket.create_connection(listener.getsockname(), _TIMEOUT) as client:
                    server, _ = listener.accept()
                    with server:
                        server.settimeout(_TIMEOUT)
                        yield (server, client) if self._one_way else (client, server)
            finally:
                self._withdraw(port)

    def _redirects(self, client, server):
        """See messages of both directions go from socket to socket."""
        for sender, receiver in ((client, server), (server, client))[:2 - self._one_way]:
            sender.sendall(b'redirected')
            _expect('content', _read(receiver, 10), b'redirected')
            flow = self._flow(sender.getsockname()[1])
            _expect('redirected messages', flow['redirected_messages'], 1)

    def _order_over_pass(self, client, server):
        """See what was redirected, then what passed, read in this order."""
        client.sendall(b'first')
        self._activate(False)
        client.sendall(b'second')
        self._activate(True)
        client.sendall(b'third')
        _expect('order', _read(server, 16), b'firstsecondthird')

    def _fionread(self, client, server):
        """See FIONREAD count redirected data, and data that passed."""
        client.sendall(b'x' * 1000)
        self._findings.fionread_redirected = _fionread(server) == 1000
        _read(server, 1000)
        self._activate(False)
        client.sendall(b'x' * 1000)
        select.select([server], [], [], _TIMEOUT)
        counted = _fionread(server)
        if counted != 1000:
            raise PassedDataFault('check redirect on this kernel',
                                  f'FIONREAD answers {counted} for 1000 bytes that came by TCP')
        _expect('content after FIONREAD', _read(server, 1000), b'x' * 1000)

    def _one_read(self, client, server):
        """See one recv(2) take what was redirected and what passed after it."""
        client.sendall(b'r' * 1000)
        self._activate(False)
        client.sendall(b'p' * 1000)
        client.shutdown(socket.SHUT_WR)
        with select.epoll() as poll:
            poll.register(server, select.EPOLLRDHUP)
            poll.poll(_TIMEOUT)
        got = server.recv(1 << 16)
        # A reader by edge-triggered epoll takes a short read for the end of what is there.
        if len(got) != 2000:
            raise PassedDataFault('check redirect on this kernel',
                                  f'recv takes {len(got)} of 2000 bytes, redirected and passed')
        _expect('content of one read', got, b'r' * 1000 + b'p' * 1000)

    def _poll(self, client, server):
        """See level- and edge-triggered epoll tell of redirected data."""
        for flags in (select.EPOLLIN, select.EPOLLIN | select.EPOLLET):
            with select.epoll() as poll:
                poll.register(server, flags)
                _expect('epoll of an empty socket', poll.poll(0), [])
                client.sendall(b'poll')
                _expect('epoll', poll.poll(_TIMEOUT), [(server.fileno(), select.EPOLLIN)])
                _expect('content after epoll', _read(server, 4), b'poll')
                _expect('epoll of a drained socket', poll.poll(0), [])

    def _half_close(self, client, server):
        """See the end of one direction come after its data, and the other go on."""
        client.sendall(b'last')
        client.shutdown(socket.SHUT_WR)
        _expect('content before the end', _read(server, 4), b'last')
        _expect('the end', server.recv(1), b'')
        server.sendall(b'answer')
        _expect('content after the half close', _read(client, 6), b'answer')

    def _queue_view(self, client, server):
        """See the program notice what a receiver has queued, and stop at the budget."""
        client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 16 * _SMALL_BUDGET:
                sent += client.send(b'x' * _PIECE)
        flow = self._flow(client.getsockname()[1])
        if flow['passed_messages'] == 0 or \
                flow['redirected_bytes'] > _SMALL_BUDGET + _PIECE:
            raise QueueViewFault('check redirect on this kernel: queue view',
                                 f'{flow["redirected_bytes"]} bytes were redirected to a reader '
                                 f'that may have {_SMALL_BUDGET} unread')
        _expect('content after a spent budget', _read(server, sent), b'x' * sent)

    def _unread(self, client, server):
        """See megabytes that nobody reads arrive whole, redirected and passed."""
        block = os.urandom(_MANY)
        writer = threading.Thread(target=client.sendall, args=(block,), daemon=True)
        writer.start()
        writer.join(0.05)
        got = _read(server, _MANY)
        writer.join(_TIMEOUT)
        _expect('content of megabytes', got == block, True)


def _fionread(sock):
    answer = array.array('i', [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, answer)
    return answer[0]


def _read(sock, size):
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        if not part:
            raise EOFError(f'the connection ended after {len(got)} of {size} bytes')
        got += part
    return bytes(got)


def _expect(what, found, expected):
    if found != expected:
        raise _failed(what, f'{found!r:.60} instead of {expected!r:.60}')


def _failed(what, reason):
    return ConformanceError(f'check redirect on this kernel: {what.strip("_")}', reason,
                            next_step='the TCP path stays off here; report the kernel release')
