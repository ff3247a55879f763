"""
TCP connections that do what they like: sends, reads, peeks, half-closes, flags, of random sizes.

sock_ops, sk_msg and sk_skb have no PROG_TEST_RUN: here they see what real sockets do. What holds
for a plain connection has to hold for a redirected one: every byte once and in order, an end that
comes after all of them, no more said to be there than is.

Left out is what docs/semantics.md says of redirected sockets: MSG_WAITALL, MSG_OOB, splice,
SO_RCVLOWAT, MSG_ZEROCOPY, a close with unread bytes.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import random
import select
import socket
import termios
import time

from support.waiting import PATIENCE

_SIZES = (0, 1, 2, 7, 64, 500, 1448, 4096, 16_384, 65_536, 200_000)
_SEND_FLAGS = (0, 0, 0, socket.MSG_MORE, socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL)
#: Bytes that one direction may have outstanding, so that nobody waits for a reader.
_AHEAD = 1 << 20


class Direction:
    """One direction of a connection: what was sent, and what was read of it."""

    def __init__(self, source, sink, seed):
        self.source, self.sink = source, sink
        self._content = random.Random(seed).randbytes(1 << 16)
        self.sent = self.read = 0
        self.closed = self.ended = False

    def content(self, start, size):
        """Return bytes of the stream."""
        whole = len(self._content)
        at = start % whole
        return (self._content * ((at + size) // whole + 1))[at:at + size]

    def send(self, chance):
        """Send some bytes in one of several ways."""
        size = min(chance.choice(_SIZES), _AHEAD - (self.sent - self.read))
        if size < 0 or self.closed:
            return
        data, flags = self.content(self.sent, size), chance.choice(_SEND_FLAGS)
        with contextlib.suppress(BlockingIOError):
            if chance.random() < 0.3 and size > 3:
                cut = chance.randrange(size)
                self.sent += self.source.sendmsg([data[:cut], b'', data[cut:]], [], flags)
            else:
                self.sent += self.source.send(data, flags)

    def receive(self, chance):
        """Read or peek; what comes is what has to come next."""
        if self.ended:
            return
        size = max(1, chance.choice(_SIZES))
        peek = chance.random() < 0.25
        try:
            if chance.random() < 0.3:
                data, *_ = self.sink.recvmsg(size, 0, socket.MSG_PEEK if peek else 0)
            else:
                data = self.sink.recv(size, socket.MSG_PEEK if peek else 0)
        except BlockingIOError:
            return
        if not data:
            assert self.closed and self.read == self.sent, (self.closed, self.read, self.sent)
            self.ended = True
            return
        assert self.read + len(data) <= self.sent, 'more came than was sent'
        assert data == self.content(self.read, len(data)), f'other bytes after {self.read}'
        self.read += 0 if peek else len(data)

    def look(self, _chance):
        """Ask how much is there, and wait for it for a moment."""
        waiting = array.array('i', [0])
        fcntl.ioctl(self.sink, termios.FIONREAD, waiting)
        assert 0 <= waiting[0] <= self.sent - self.read, (waiting[0], self.sent - self.read)
        select.select([self.sink], [], [], 0)

    def tune(self, chance):
        """Set an option that changes when bytes leave."""
        option = chance.choice((socket.TCP_NODELAY, socket.TCP_CORK, socket.TCP_QUICKACK))
        self.source.setsockopt(socket.IPPROTO_TCP, option, chance.getrandbits(1))

    def close(self, chance):
        """End the direction, seldom."""
        if chance.random() < 0.05 and not self.closed:
            self._shut()

    def finish(self):
        """End it, and read to the end: all has to come, and then nothing."""
        if not self.closed:
            self._shut()
        until = time.monotonic() + PATIENCE
        while not self.ended:
            assert time.monotonic() < until, f'{self.sent - self.read} bytes do not come'
            select.select([self.sink], [], [], 0.2)
            self.receive(random.Random(0))
        assert self.read == self.sent

    def _shut(self):
        self.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self.source.shutdown(socket.SHUT_WR)
        self.closed = True


_STEPS = ((Direction.send, 8), (Direction.receive, 9), (Direction.look, 2), (Direction.tune, 1),
          (Direction.close, 1))
_ACTIONS = [step for step, weight in _STEPS for _ in range(weight)]


class Conversation:
    """A connection to a listener, and the random operations on it."""

    def __init__(self, listener, seed):
        """Connect."""
        self._chance = random.Random(seed)
        self.client = socket.create_connection(listener.getsockname()[:2], PATIENCE)
        self.server, _ = listener.accept()
        for end in (self.client, self.server):
            end.setblocking(False)
        self._directions = (Direction(self.client, self.server, f'{seed} there'),
                            Direction(self.server, self.client, f'{seed} back'))

    def step(self):
        """Do one operation."""
        self._chance.choice(_ACTIONS)(self._chance.choice(self._directions), self._chance)

    def finish(self):
        """Bring both directions to their ends, and close; return how many bytes went."""
        for direction in self._directions:
            direction.finish()
        self.close()
        return sum(direction.read for direction in self._directions)

    def close(self):
        """Close both ends."""
        self.client.close()
        self.server.close()


def converse(port, seed, conversations, steps):
    """
    Hold conversations at once at a port of this host; return how many bytes went in all.

    :raises AssertionError: bytes are lost, come twice, out of order or not at all
    """
    chance = random.Random(f'{seed} order')
    with socket.create_server(('127.0.0.1', port), backlog=conversations) as listener, \
            contextlib.ExitStack() as stack:
        listener.settimeout(PATIENCE)
        open_ones = []
        for number in range(conversations):
            open_ones.append(Conversation(listener, f'{seed} {number}'))
            stack.callback(open_ones[-1].close)
        for _ in range(steps * conversations):
            chance.choice(open_ones).step()
        return sum(each.finish() for each in open_ones)
