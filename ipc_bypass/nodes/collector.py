"""The node as a consumer of what is mirrored and nobody else owns."""

import threading

from ipc_bypass.pool.consumer import Consumer

#: Descriptors after which a sender wakes the collector; a heartbeat does so for fewer.
WATERMARK = 64
_CHECK_SECONDS = 0.5


class Collector:
    """
    A thread that holds the fallback lease and gives every slot back at once.

    So the program captures what is mirrored, and observers see it, without a consumer of the
    user's. It never owns a rule that diverts.
    """

    def __init__(self, control_socket, logger):
        """Take the lease; raises BypassError."""
        self._log = logger
        self._consumer = Consumer(control=control_socket, name='ipc_bypass', fallback=True,
                                  watermark=WATERMARK)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name='pool-collector', daemon=True)
        self._thread.start()

    @property
    def statistics(self):
        """Return the consumer's Statistics."""
        return self._consumer.statistics

    def close(self):
        """Give the lease back and end the thread."""
        self._ending = True
        self._thread.join()
        self._consumer.close()

    def _run(self):
        try:
            while not self._ending:
                self._consumer.read(_CHECK_SECONDS).release()
        except Exception as error:  # said, not lost in a thread
            self._log.error(f'mirrored datagrams are not collected any more: {error}')
