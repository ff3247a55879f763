"""Sends and receives datagrams on this host as it is told to."""

import itertools
import os
import select
import socket

from support.processes import serve
from support.waiting import PATIENCE

_numbers = itertools.count()
_receivers = {}
_sent = 0


def receiver(port):
    """Bind a receiver and return its number."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(('127.0.0.1', port))
    sock.settimeout(PATIENCE)
    number = next(_numbers)
    _receivers[number] = sock
    return number


def send(port, payload, count):
    """Send `count` datagrams with a payload in hexadecimal digits."""
    global _sent
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(bytes.fromhex(payload), ('127.0.0.1', port))
    _sent += count


def pid():
    """Return the number of this process."""
    return os.getpid()


def sent():
    """Return how many datagrams were sent."""
    return _sent


def receive(number, count):
    """Return the next `count` payloads in hexadecimal digits."""
    return [_receivers[number].recv(1 << 16).hex() for _ in range(count)]


def waiting(number):
    """Return whether a receiver has something."""
    return len(select.select([_receivers[number]], [], [], 0)[0])


if __name__ == '__main__':
    serve({'pid': pid, 'receiver': receiver, 'send': send, 'sent': sent, 'receive': receive,
           'waiting': waiting})
