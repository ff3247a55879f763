"""What the tests of programs that need a plain socket share."""

import socket

from support.waiting import PATIENCE


def connect(port):
    """Return a connection with a time limit for each call."""
    return socket.create_connection(('127.0.0.1', port), PATIENCE)


def whole_answer(port, *parts):
    """Send these, end the stream, and return all that is answered."""
    with connect(port) as sock:
        for part in parts:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        answer = b''
        while more := sock.recv(4096):
            answer += more
        return answer
