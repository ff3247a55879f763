"""
Numbered datagrams: `python -m fault_lab.datagram_process ends|consumer PORT CONTROL`.

`ends` sends them to a port of this host and receives what comes there the usual way; `consumer`
owns the port at the node's control socket and takes what is diverted. Each counts what it got by
number: together they have to have each datagram once.
"""

import socket
import sys
import threading
import time

from fault_lab.serving import serve
from ipc_bypass.pool.consumer import Consumer
import numpy as np

_MOST = 1 << 20
_RATE = 2000.0
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_WORD = 8
_SIZE = 64


class Seen:
    """How often each number came."""

    def __init__(self):
        """Begin with none."""
        self._counts, self.came, self.strangers = np.zeros(_MOST, np.uint8), 0, 0

    def add(self, datagram):
        """Count a datagram: its number, over and over."""
        numbers = np.frombuffer(datagram, '<u8')
        if len(numbers) == _SIZE // _WORD and (numbers == numbers[0]).all() \
                and numbers[0] < _MOST:
            self._counts[numbers[0]] += 1
            self.came += 1
        else:
            self.strangers += 1

    def save(self, path):
        """Write the counts to a file of numpy; return how many datagrams came."""
        np.save(path, self._counts)
        return self.came


class Ends:
    """Sends and receives, in two threads."""

    def __init__(self, port, _control):
        """Begin to receive."""
        self._seen, self._sent, self._stopped = Seen(), 0, threading.Event()
        self._ended = threading.Event()
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        self._receiver.bind(('127.0.0.1', port))
        self._receiver.settimeout(0.2)
        self._port, self._sending = port, None
        self._receiving = threading.Thread(target=self._receive, daemon=True)
        self._receiving.start()

    def start(self):
        """Begin to send."""
        self._sending = threading.Thread(target=self._send, daemon=True)
        self._sending.start()

    def stop_sending(self):
        """Send no more; return how many were sent."""
        self._stopped.set()
        self._sending.join()
        return self._sent

    def sent(self):
        """Return how many were sent so far."""
        return self._sent

    def finish(self, path):
        """Receive no more; return {'came', 'strangers'}, and the counts in a file."""
        self._stopped.set()
        self._ended.set()
        self._receiving.join()
        return {'came': self._seen.save(path), 'strangers': self._seen.strangers}

    def _send(self):
        begin = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(('127.0.0.1', self._port))
            while not self._stopped.is_set() and self._sent < _MOST:
                due = min(_MOST, int((time.monotonic() - begin) * _RATE))
                for number in range(self._sent, due):
                    sender.send(number.to_bytes(_WORD, 'little') * (_SIZE // _WORD))
                self._sent = max(self._sent, due)
                time.sleep(0.002)

    def _receive(self):
        while True:
            try:
                self._seen.add(self._receiver.recv(2048))
            except TimeoutError:
                # What a consumer had not taken may come long after the last send.
                if self._ended.is_set():
                    return


class Taker:
    """Takes what is diverted, in a thread."""

    def __init__(self, port, control):
        """Begin."""
        self._seen, self._stopped = Seen(), False
        self._consumer = Consumer([f'udp:{port}:divert'], control=control, name='soak')
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def came(self):
        """Return how many it has taken."""
        return self._seen.came

    def finish(self, path):
        """Take no more; return {'came', 'strangers', 'problem'}, and the counts in a file."""
        self._stopped = True
        self._thread.join()
        self._consumer.close()
        return {'came': self._seen.save(path), 'strangers': self._seen.strangers,
                'problem': self._consumer.problem}

    def _take(self):
        while not self._stopped:
            with self._consumer.read(0.1) as batch:
                for payload in batch.payloads():
                    self._seen.add(bytes(payload))


def main(words):
    """Serve the lines of standard input."""
    part = {'ends': Ends, 'consumer': Taker}[words[0]](int(words[1]), words[2])
    serve(part, words[0])


if __name__ == '__main__':
    main(sys.argv[1:])
