"""What goes over connections: random bytes, sent and read in threads, compared by hash."""

from contextlib import contextmanager
from dataclasses import dataclass, field
import hashlib
import itertools
import random
import socket
import threading
import time

from support.connections import BLOCK, read, receive_some
from support.waiting import PATIENCE


class Job(threading.Thread):
    """A function in a thread; `result` returns what it returned, or raises what it raised."""

    def __init__(self, function, *arguments, **options):
        """Start it."""
        super().__init__(daemon=True)
        self._call, self._answer, self._error = (function, arguments, options), None, None
        self.start()

    def run(self):
        """Call the function."""
        function, arguments, options = self._call
        try:
            self._answer = function(*arguments, **options)
        except BaseException as error:  # noqa: B902 - handed on by result()
            self._error = error

    def result(self, timeout=2 * PATIENCE):
        """Wait for the end."""
        self.join(timeout)
        assert not self.is_alive(), f'{self._call[0].__name__} has not ended in {timeout:g} s'
        if self._error is not None:
            raise self._error
        return self._answer


@dataclass
class Content:
    """What went one way: bytes, and their hash."""

    size: int = 0
    hash: object = field(default_factory=lambda: hashlib.blake2b(digest_size=16))  # noqa: A003

    def add(self, data):
        """Take the next bytes."""
        self.hash.update(data)
        self.size += len(data)

    def __eq__(self, other):
        """Compare size and hash."""
        return (self.size, self.hash.digest()) == (other.size, other.hash.digest())

    def __repr__(self):
        """Return size and hash as text."""
        return f'{self.size} bytes with hash {self.hash.hexdigest()}'


def random_sizes(seed, total, largest=4 << 20):
    """Return sizes from 1 to `largest` bytes, as many small as large ones, `total` in sum."""
    generator, sizes = random.Random(seed), [1]
    while sum(sizes) < total:
        size = int(2 ** generator.uniform(0, largest.bit_length() - 1))
        sizes.append(min(size, total - sum(sizes)))
    generator.shuffle(sizes)
    return sizes


def send(sock, sizes, seed=0, *, before=None, finish=False):
    """
    Send messages of these sizes, random bytes; return their Content.

    `before(number)` is called before each message; `finish` ends this direction at the end.
    """
    generator, content = random.Random(seed), Content()
    for number, size in enumerate(sizes):
        if before:
            before(number)
        data = generator.randbytes(size)
        sock.sendall(data)
        content.add(data)
    if finish:
        sock.shutdown(socket.SHUT_WR)
    return content


def receive(sock, size=None, *, largest=BLOCK, before=None):
    """
    Read `size` bytes, or to the end of this direction; return the Content.

    `before(size so far)` is called before each read of at most `largest` bytes.
    """
    content = Content()
    while size is None or content.size < size:
        if before:
            before(content.size)
        data = receive_some(sock, largest if size is None else min(largest, size - content.size))
        if not data:
            assert size is None, f'the connection ended after {content.size} of {size} bytes'
            return content
        content.add(data)
    return content


@contextmanager
def steady(sender, receiver, begin):
    """
    Send a little every millisecond within, without a pause; in the end all of it has arrived.

    Both ends send by turns before: such a receiver acknowledges up to 40 ms late, so that the
    sender never finds all of it acknowledged.

    :param begin: called once the stream goes
    """
    for number in range(50):
        sender.sendall(bytes([number]) * 65536)
        assert read(receiver, 65536) == bytes([number]) * 65536
        receiver.sendall(bytes(100))
        read(sender, 100)
    ended = threading.Event()

    def sizes():
        while not ended.wait(0.001):
            yield 5000
    sent, got = Job(send, sender, sizes(), finish=True), Job(receive, receiver)
    time.sleep(0.5)
    begin()
    try:
        yield
    finally:
        ended.set()
    assert got.result() == sent.result()


def exchange(pairs, sizes_of, *, before_send=None, before_read=None, largest=BLOCK):
    """
    Send both ways over all (client, server) pairs at once, and compare the contents.

    `sizes_of(number)` returns the sizes of the messages of one direction. The connections stay
    open. Returns the bytes sent.
    """
    jobs = []
    for number, ends in enumerate(pairs):
        for way, (sender, receiver) in enumerate((ends, ends[::-1])):
            seed = 2 * number + way
            sizes = list(sizes_of(seed))
            jobs.append((Job(send, sender, sizes, seed, before=before_send),
                         Job(receive, receiver, sum(sizes), before=before_read,
                             largest=largest)))
    total = 0
    for sending, receiving in jobs:
        sent, received = sending.result(), receiving.result()
        assert received == sent
        total += sent.size
    for end in (end for ends in pairs for end in ends):
        nothing_more(end)
    return total


def stream(pairs, sizes_of, *, before_send=None, before_read=None, largest=BLOCK):
    """
    As `exchange`, with sizes that are made up as they are sent; every direction ends.

    Returns (messages sent, bytes sent).
    """
    jobs, messages = [], itertools.count()
    for number, ends in enumerate(pairs):
        for way, (sender, receiver) in enumerate((ends, ends[::-1])):
            seed = 2 * number + way

            def counted(seed=seed):
                for size in sizes_of(seed):
                    next(messages)
                    yield size
            jobs.append((Job(send, sender, counted(), seed, before=before_send, finish=True),
                         Job(receive, receiver, before=before_read, largest=largest)))
    total = 0
    for sending, receiving in jobs:
        sent, received = sending.result(), receiving.result()
        assert received == sent
        total += sent.size
    return next(messages), total


def nothing_more(sock):
    """Assert that a socket has nothing to read: what came was all that was sent."""
    try:
        more = sock.recv(100, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return
    raise AssertionError(f'more to read than was sent: {more!r}')


class Filler:
    """Sends a stream of random bytes as far as it goes without waiting."""

    def __init__(self, sock, message):
        """Send messages of this size over a socket."""
        self.content, self._sock, self._message = Content(), sock, message
        self._generator, self._rest = random.Random(message), b''

    def fill(self, most=None):
        """Send until nothing has gone for half a second, or `most` bytes; return their number."""
        before, patience = self.content.size, time.monotonic() + 0.5
        while time.monotonic() < patience:
            if most is not None and self.content.size - before >= most:
                break
            self._rest = self._rest or self._generator.randbytes(self._message)
            try:
                sent = self._sock.send(self._rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            self.content.add(self._rest[:sent])
            self._rest = self._rest[sent:]
            patience = time.monotonic() + 0.5
        return self.content.size - before
