"""
A server that reads in one way; `unfit_peer.py NAME WAY PORT`.

It names itself, listens, and answers each connection with the hash of what it read to the end of
the stream, or of the bytes of one read. Ways: `splice`, `waitall`, `recv`.
"""

import ctypes
import hashlib
import os
import select
import socket
import sys

_SET_NAME = 15  # PR_SET_NAME, linux/prctl.h
_WANTED = 10


def _splice(sock):
    """Read by splice(2) alone, as a proxy that never looks at the bytes."""
    got, (read, write) = b'', os.pipe()
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        while True:
            poll.poll()
            try:
                count = os.splice(sock.fileno(), write, 4096)
            except BlockingIOError:
                continue
            if not count:
                return hashlib.sha256(got).hexdigest().encode()
            got += os.read(read, count)
    finally:
        os.close(read)
        os.close(write)
        sock.setblocking(True)


def _waitall(sock):
    return sock.recv(_WANTED, socket.MSG_WAITALL)


def _recv(sock):
    return sock.recv(_WANTED)


def main(name, way, port):
    """Serve until it is killed."""
    ctypes.CDLL(None).prctl(_SET_NAME, name.encode(), 0, 0, 0)
    with socket.create_server(('127.0.0.1', int(port))) as listener:
        print('listening', flush=True)
        while True:
            sock, _ = listener.accept()
            with sock:
                try:
                    sock.sendall({'splice': _splice, 'waitall': _waitall, 'recv': _recv}[way](
                        sock))
                except OSError:
                    continue


if __name__ == '__main__':
    main(*sys.argv[1:])
