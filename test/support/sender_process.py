"""A sender of numbered datagrams: `sender_process.py ADDRESS PORT SENDER`."""

import os
import socket
import sys

from support.datagrams import Many
from support.processes import reply, serve


def main():
    """Send as told; answers are the process's id, and what was sent."""
    address, port, sender = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sock = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    many = Many(sock, sender)

    def send(first, count):
        many.send(first, count)
        return count

    def one(payload):
        return sock.send(payload.encode())

    reply(os.getpid)
    serve({'send': send, 'one': one})


if __name__ == '__main__':
    main()
