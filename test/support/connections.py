"""Connections between two places: in namespaces, by IPv4 or IPv6, blocking in the kernel."""

from dataclasses import dataclass
import fcntl
import select
import socket
import struct
import termios

from support.namespaces import Namespace, SERVER, SERVER_V6
from support.waiting import PATIENCE

SO_COOKIE = 57
#: Bytes of one read.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where the two ends of a connection are; a namespace of None is the test's own."""

    name: str
    address: str = '127.0.0.1'
    server: Namespace = None
    client: Namespace = None

    @property
    def family(self):
        """Return the address family of `address`."""
        return socket.AF_INET6 if ':' in self.address else socket.AF_INET

    def socket(self, end, family=None):
        """Return a TCP socket of the 'server' or the 'client'."""
        space = getattr(self, end)
        if space is None:
            return socket.socket(family or self.family)
        with space.entered():
            return socket.socket(family or self.family)

    def listen(self, port, *, backlog=64, address=None, family=None, options=()):
        """Return a listener on a port; `options` are (level, name, value)."""
        listener = self.socket('server', family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in options:
            listener.setsockopt(*option)
        listener.bind((self.address if address is None else address, port))
        listener.listen(backlog)
        listener.settimeout(PATIENCE)
        return listener

    def connect(self, port, *, from_port=0):
        """Return a connected client."""
        client = self.socket('client')
        if from_port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(('::' if self.family == socket.AF_INET6 else '0.0.0.0', from_port))
        block(client)
        client.connect((self.address, port))
        return client

    def pair(self, port, **options):
        """Return (client, server), connected."""
        with self.listen(port, **options) as listener:
            client = self.connect(port)
            return client, accept(listener)


LOOPBACK = Place('loopback')
LOOPBACK_V6 = Place('loopback_v6', '::1')


def bridged(pair, name='bridged'):
    """Return the Place over a bridged pair of namespaces, by IPv4."""
    return Place(name, SERVER, *pair)


def bridged_v6(pair, name='bridged_v6'):
    """Return the Place over a bridged pair of namespaces, by IPv6."""
    return Place(name, SERVER_V6, *pair)


def accept(listener):
    """Return the next connection of a listener, blocking."""
    server, _ = listener.accept()
    return block(server)


def block(sock, seconds=PATIENCE):
    """
    Make a socket block in the kernel, at most so many seconds, and return it.

    Python's own timeouts make the socket non-blocking, which is another way through the kernel.
    """
    sock.setblocking(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack('@ll', int(seconds), 0))
    return sock


def cookie(sock):
    """Return the kernel's number of a socket: the flow_id of what it sends."""
    return struct.unpack('=Q', sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


def unacknowledged(sock):
    """Return how many bytes a socket has sent that the other end has not acknowledged."""
    return struct.unpack('@i', fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]


def receive_some(sock, size=BLOCK):
    """
    Return what one read gives: at most `size` bytes, b'' at the end of the connection.

    It waits by poll: a socket in a sockmap answers EAGAIN to a read that blocks in the kernel
    and is woken for another reason than data (docs/semantics.md).
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    for _ in range(1000):
        assert poll.poll(PATIENCE * 1000), f'nothing to read in {PATIENCE:g} s'
        try:
            return sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
    raise AssertionError('poll tells of data a thousand times, and there is none')


def read(sock, size):
    """Return exactly `size` bytes; raises AssertionError where the connection ends before."""
    got = bytearray()
    while len(got) < size:
        part = receive_some(sock, min(BLOCK, size - len(got)))
        assert part, f'the connection ended after {len(got)} of {size} bytes'
        got += part
    return bytes(got)


def close(*sockets):
    """Close sockets, or pairs of them."""
    for entry in sockets:
        if isinstance(entry, socket.socket):
            entry.close()
        else:
            close(*entry)
