"""Clients of a TCP service and backends of a proxy, in this process."""

from contextlib import contextmanager
import socket
import threading

from support.waiting import PATIENCE


def listening(host='127.0.0.1', port=0):
    """Return a backend's listener with a timeout."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    made = socket.create_server((host, port), family=family, backlog=1024)
    made.settimeout(PATIENCE)
    return made


def connect(port, host='127.0.0.1'):
    """Return a client's socket with a timeout, which hides EAGAIN of redirected sockets."""
    sock = socket.create_connection((host, port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def settle(client, server):
    """Send some bytes each way, one after the other, so that the way has been chosen."""
    for number in range(3):
        for one, other in ((client, server), (server, client)):
            one.sendall(b'settle%d' % number)
            read_exactly(other, 7)


def read_exactly(sock, size):
    """Return so many bytes; raises EOFError where there are less."""
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        if not part:
            raise EOFError(f'{len(got)} of {size} bytes')
        got += part
    return bytes(got)


def read_all(sock):
    """Return the bytes to the end of this direction."""
    got = bytearray()
    while part := sock.recv(1 << 16):
        got += part
    return bytes(got)


@contextmanager
def echoing(host='127.0.0.1', port=0):
    """Yield the port of a backend that answers what it gets, each connection in a thread."""
    ended = threading.Event()

    def serve(sock):
        with sock:
            try:
                while part := sock.recv(1 << 16):
                    sock.sendall(part)
            except OSError:
                pass

    def accept():
        while not ended.is_set():
            try:
                sock, _address = listener.accept()
            except OSError:  # at the end, or where no descriptor is left
                ended.wait(0.01)
                continue
            sock.settimeout(PATIENCE)
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with listening(host, port) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
