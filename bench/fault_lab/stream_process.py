"""
One end of numbered byte streams: `python -m fault_lab.stream_process server|client ADDRESS PORT`.

What goes over a connection is, both ways, the numbers 0, 1, 2, ... as words of 64 bits, cut into
messages of any size: each byte has its one place, so that a lost, doubled or moved one shows where
it is read. The client's connection goes on until it is told to stop; `probe` opens another one.
"""

import random
import select
import socket
import struct
import sys
import threading
import time

from fault_lab.serving import serve
import numpy as np

_LARGEST = 64 << 10
_WORD = np.dtype('<u8')
_PATIENCE = 240.0
#: Offset of tcpi_bytes_sent in struct tcp_info (uapi/linux/tcp.h): redirected ones are not in it.
_BYTES_SENT = 200


def numbered(first, size):
    """Return the bytes of the stream from position `first` on."""
    start = first // _WORD.itemsize
    words = np.arange(start, (first + size) // _WORD.itemsize + 1, dtype=_WORD)
    skip = first - start * _WORD.itemsize
    return words.view(np.uint8)[skip:skip + size]


class Flow:
    """One end of one connection: a thread that sends, a thread that reads and checks."""

    def __init__(self, sock, seed, rate, limit=None, until_eof=False):
        """
        Begin at once.

        :param rate: bytes a second
        :param limit: bytes to send; None: until `stop`
        :param until_eof: stop when the other end has
        """
        self._sock, self._chance, self._rate = sock, random.Random(seed), rate
        self._limit, self._until_eof = limit, until_eof
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.sent = self.received = self.passed = 0
        self._passed_s = self._gap_s = 0.0
        self._last_read = time.monotonic()
        self.faults = []
        self._threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True)
                         for work in (self._send, self._read)]
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Send no more, and tell the other end."""
        self._stopped.set()

    def join(self):
        """Wait until both directions have ended; raises TimeoutError."""
        for thread in self._threads:
            thread.join(_PATIENCE)
            if thread.is_alive():
                raise TimeoutError(f'{thread.name}: sent {self.sent}, received {self.received}')
        self._sock.close()

    def mark(self):
        """
        Return what came of it since the last call.

        `passed_s` is how long sends went by plain TCP, `gap_s` the longest time without a byte.
        """
        with self._lock:
            now = time.monotonic()
            told = {'sent': self.sent, 'received': self.received, 'passed': self.passed,
                    'passed_s': self._passed_s, 'gap_s': max(self._gap_s, now - self._last_read),
                    'faults': list(self.faults)}
            self._passed_s = self._gap_s = 0.0
        return told

    def _guarded(self, work):
        try:
            work()
        except Exception as error:
            self.faults.append(f'{work.__name__}: {type(error).__name__}: {error}')

    def _send(self):
        begin = before = time.monotonic()
        plain = self._plain_bytes()
        while not self._stopped.is_set() and (self._limit is None or self.sent < self._limit):
            size = int(2 ** self._chance.uniform(0, _LARGEST.bit_length() - 1))
            if self._limit is not None:
                size = min(size, self._limit - self.sent)
            self._sock.sendall(numbered(self.sent, size))
            now, plain_now = time.monotonic(), self._plain_bytes()
            with self._lock:
                self.sent += size
                if plain_now != plain:
                    self.passed += plain_now - plain
                    self._passed_s += now - before
            before, plain = now, plain_now
            early = begin + self.sent / self._rate - now
            if early > 0.001:
                time.sleep(early)
            elif early < -0.5:
                begin = now - self.sent / self._rate  # it was held up: no rush afterwards
        self._sock.shutdown(socket.SHUT_WR)

    def _plain_bytes(self):
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return struct.unpack_from('=Q', info, _BYTES_SENT)[0]

    def _read(self):
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            if not poll.poll(1000):
                continue
            try:
                data = self._sock.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            now = time.monotonic()
            if not data:
                break
            self._check(np.frombuffer(data, np.uint8))
            with self._lock:
                self.received += len(data)
                self._gap_s = max(self._gap_s, now - self._last_read)
                self._last_read = now
        if self._until_eof:
            self._stopped.set()

    def _check(self, data):
        wanted = numbered(self.received, len(data))
        if not np.array_equal(data, wanted):
            at = int(np.argmax(data != wanted))
            raise ValueError(f'byte {self.received + at} is not what was sent there')


class Server:
    """Listens; every connection is a Flow that ends when its client does."""

    def __init__(self, address, port, rate):
        """Begin to listen."""
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=64)
        self._rate, self._flows, self._lock = rate, {}, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            sock, peer = self._listener.accept()
            with self._lock:
                self._flows[peer[1]] = Flow(sock, peer[1], self._rate, until_eof=True)

    def _flow(self, port):
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with self._lock:
                if port in self._flows:
                    return self._flows[port]
            time.sleep(0.005)
        raise TimeoutError(f'no connection from port {port}')

    def mark(self, port):
        """Return what came of the flow of a client's port since the last call."""
        return self._flow(port).mark()

    def end(self, port):
        """Wait until a flow has ended; return what came of it."""
        flow = self._flow(port)
        flow.join()
        with self._lock:
            del self._flows[port]
        return flow.mark()


class Client:
    """Connects; has one Flow that goes on, and others for a moment."""

    def __init__(self, address, port, rate):
        """Connect."""
        self._to, self._rate = (address, port), rate
        self._flow, self.port = self._connect(None)

    def _connect(self, limit):
        sock = socket.create_connection(self._to, _PATIENCE)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = sock.getsockname()[1]
        return Flow(sock, port + 1, self._rate, limit), port

    def source(self):
        """Return the port of this end."""
        return self.port

    def mark(self):
        """Return what came of the flow since the last call."""
        return self._flow.mark()

    def stop(self):
        """Stop the flow, wait for its end; return what came of it."""
        self._flow.stop()
        self._flow.join()
        return self._flow.mark()

    def probe(self, size):
        """Send so many bytes over a new connection; return (its port, what came of it)."""
        flow, port = self._connect(size)
        flow.join()
        return port, flow.mark()


def main(words):
    """Serve the lines of standard input."""
    role, address, port, rate = words[0], words[1], int(words[2]), float(words[3])
    end = {'server': Server, 'client': Client}[role](address, port, rate)
    serve(end, role)


if __name__ == '__main__':
    main(sys.argv[1:])
