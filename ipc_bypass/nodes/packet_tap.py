"""What feeds ~/events: an observer of the pool, while somebody listens."""

import threading
import time

from ipc_bypass.nodes.packet_events import packet_bypassed
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass_interfaces.msg import PacketBypassed

_LOOK_SECONDS = 0.5
_BURST = 4


class PacketTap:
    """
    A thread that publishes captured datagrams on ~/events, at most so many a second.

    Between two of them it does not look at the pool, so that a fast sender is not slowed by
    waking it; without a subscriber it does not look at all.
    """

    def __init__(self, node, control_socket, path, rate):
        """Create the publisher on `node`; `path` is the UdpPath, which knows receivers."""
        self._node, self._control_socket, self._path = node, control_socket, path
        self._publisher = node.create_publisher(PacketBypassed, '~/events', 10)
        self._rate, self._end = rate, threading.Event()
        self._thread = threading.Thread(target=self._run, name='packet-tap', daemon=True)
        self._thread.start()

    def set_rate(self, rate):
        """Publish at most `rate` events a second from now on; 0: none."""
        self._rate = rate

    def close(self):
        """End the thread, and the topic."""
        self._end.set()
        self._thread.join()
        self._node.destroy_publisher(self._publisher)

    def _wanted(self):
        return self._rate > 0 and self._publisher.get_subscription_count() > 0

    def _run(self):
        while not self._end.is_set():
            if self._wanted():
                try:
                    with Consumer(control=self._control_socket, name='ipc_bypass events',
                                  observe=True) as consumer:
                        self._publish_from(consumer)
                except Exception as error:  # the next attempt may work
                    self._node.get_logger().error(f'~/events: {error}')
            self._end.wait(_LOOK_SECONDS)

    def _publish_from(self, consumer):
        due, again = time.monotonic(), 0.0
        while not self._end.is_set():
            if time.monotonic() > again:
                if not self._wanted():
                    return
                again = time.monotonic() + _LOOK_SECONDS
            batch = consumer.read(_LOOK_SECONDS, _BURST)
            for number in range(len(batch)):
                payload = bytes(batch.payload(number))
                if batch.intact()[number] and self._rate > 0:
                    self._publish(batch.descriptors[number], payload)
                    due = max(due, time.monotonic() - 1) + 1 / self._rate
            ahead = due - time.monotonic()
            if ahead > 0:
                self._end.wait(ahead)
                consumer.skip()

    def _publish(self, descriptor, payload):
        self._publisher.publish(packet_bypassed(
            descriptor, payload, path=self._path.selected, receiver_of=self._path.receiver_of))
