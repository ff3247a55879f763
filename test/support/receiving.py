"""What came to a socket the usual way, noted in a thread."""

import threading

from support.capturing import dropped
from support.datagrams import Ledger
from support.traffic import Job


class Receiving:
    """A thread that notes what comes to a socket, until it is told that all was sent."""

    def __init__(self, sock, senders, count):
        """Start it."""
        self.ledger, self.socket, self._sent = Ledger(senders, count), sock, threading.Event()
        sock.settimeout(0.3)
        self._job = Job(self._run)

    def finish(self, *, may_drop=False):
        """Take what is there still; return how often each datagram came."""
        self._sent.set()
        self._job.result()
        assert may_drop or dropped(self.socket) == 0
        return self.ledger.seen

    def _run(self):
        while True:
            try:
                self.ledger.add(self.socket.recv(1 << 16))
            except TimeoutError:
                if self._sent.is_set():
                    return
