"""Connections with both ends in this process, that send what they are told to."""

import itertools
import socket

from support.connections import accept, close, LOOPBACK, read
from support.processes import serve

_numbers = itertools.count()
_connections = {}


def connect(port):
    """Open a connection to a port of our own and return its number."""
    with LOOPBACK.listen(port) as listener:
        client = LOOPBACK.connect(port)
        number = next(_numbers)
        _connections[number] = {'client': client, 'server': accept(listener)}
    return number


def send(number, side, size, count):
    """Send `count` messages of `size` bytes from one end and read them at the other."""
    ends = _connections[number]
    other = ends['server' if side == 'client' else 'client']
    for _ in range(count):
        ends[side].sendall(bytes(size))
        read(other, size)


def client_port(number):
    """Return the port of a connection's client."""
    return _connections[number]['client'].getsockname()[1]


def end(number):
    """Close a connection: the client first, then the server."""
    ends = _connections.pop(number)
    ends['client'].shutdown(socket.SHUT_WR)
    close(*ends.values())


if __name__ == '__main__':
    serve({'connect': connect, 'send': send, 'client_port': client_port, 'end': end})
