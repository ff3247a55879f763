"""A consumer of the pool as a process: `consumer_process.py OPTIONS SENDERS COUNT`."""

import json
import os
import sys
import threading
import time

from ipc_bypass.pool.consumer import Consumer
import numpy as np

from support.datagrams import Ledger
from support.processes import reply, serve


class Reading:
    """A thread that reads and keeps a ledger until it is told to stop."""

    def __init__(self, consumer, ledger):
        """Take what there is to read with; start() begins."""
        self._consumer, self._ledger = consumer, ledger
        self._pause, self._stop, self._thread = 0.0, False, None

    def start(self, pause=0.0):
        """Read; `pause` seconds go by between reading a batch and releasing it."""
        self._pause, self._stop = pause, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, path=''):
        """Stop; what came is written to a file; return the sums and the statistics."""
        self._stop = True
        if self._thread:
            self._thread.join()
            self._thread = None
        if path:
            np.save(path, self._ledger.seen)
        return {**self._ledger.summary(), **vars(self._consumer.statistics)}

    def _run(self):
        while not self._stop:
            with self._consumer.read(0.1) as batch:
                self._ledger.add_batch(batch)
                if self._pause and len(batch):
                    time.sleep(self._pause)


def main():
    """Open a Consumer; then read by hand, or all the time."""
    consumer = Consumer(**json.loads(sys.argv[1]))
    ledger = Ledger(int(sys.argv[2]), int(sys.argv[3]))
    reading = Reading(consumer, ledger)

    def read(timeout=0.0):
        with consumer.read(timeout) as batch:
            return [bytes(payload).decode('latin-1') for payload in batch.payloads()]

    def hold(timeout=0.0):
        held.append(consumer.read(timeout))
        return len(held[-1])

    held = []
    reply(os.getpid)
    serve({'start': reading.start, 'stop': reading.stop, 'read': read, 'hold': hold,
           'came': lambda: ledger.summary()['came'], 'connected': lambda: consumer.connected,
           'statistics': lambda: vars(consumer.statistics)})


if __name__ == '__main__':
    main()
