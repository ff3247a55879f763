"""The node `demo_talker`: sends one stream of the demo graph."""

from __future__ import annotations

import os
import sys
import threading
import time

from ipc_bypass.nodes import demo_process
from ipc_bypass.nodes.demo_streams import stream_named
from ipc_bypass.nodes.parameters import declare, read, Spec, START
from rclpy.duration import Duration
from rclpy.node import Node

SPECS = (
    *demo_process.SPECS,
    Spec('rate_hz', 'Messages a second, in hertz; 0: those of the stream.', 0.0,
         limits=(0.0, 10_000.0), change=START),
    Spec('count', 'Messages until the talker ends, in messages; 0: no end.', 0,
         limits=(0, 1 << 40), change=START),
    Spec('duration_s', 'Time from the first message until the talker ends, in seconds; 0: no end.',
         0.0, limits=(0.0, 1e7), change=START),
    Spec('wait_for', 'Listeners that must be there before the first message, in listeners.', 0,
         limits=(0, 1000), change=START),
)
_ACKNOWLEDGED_SECONDS = 20.0


class DemoTalker(Node):
    """Sends numbered messages at a rate until it has sent all of them."""

    def __init__(self) -> None:
        """Make the publisher; raises DemoError."""
        super().__init__('demo_talker')
        declare(self, SPECS)
        values = read(self, SPECS)
        self.ended = threading.Event()
        self._stream = stream_named(values['stream'])
        self._count, self._wait_for = values['count'], values['wait_for']
        self._duration, self._began = values['duration_s'], 0.0
        # A process id comes again, also in another PID namespace; with the time it does not.
        self._session = f'{os.getpid():x}-{time.monotonic_ns():x}'
        self._message = self._stream.message()
        self._sent = 0
        self._publisher = self.create_publisher(
            self._stream.message_type, self._stream.topic, demo_process.quality(
                self._stream, values))
        rate = values['rate_hz'] or self._stream.rate_hz
        self.create_timer(1 / rate, self._send)
        self.get_logger().info(f'{self._stream.topic}: {self._stream.size} bytes at {rate:g} Hz')

    def _send(self) -> None:
        if self._wait_for:
            if self._publisher.get_subscription_count() < self._wait_for:
                return
            self._wait_for = 0
        if self._count and self._sent >= self._count:
            self.ended.set()
            return
        self._began = self._began or time.monotonic()
        if self._duration and time.monotonic() >= self._began + self._duration:
            # A machine that is too slow for the rate sends less. The last one tells how many.
            self._count = self._sent + 1
        self._stream.mark(self._message, self._session, self._sent, self._count)
        self._publisher.publish(self._message)
        self._sent += 1

    def finish(self) -> int:
        """Return 0; a talker that has sent all waits until its listeners have it, else 1."""
        acknowledged = True
        if self._count and self._sent >= self._count:
            acknowledged = self._publisher.wait_for_all_acked(
                Duration(seconds=_ACKNOWLEDGED_SECONDS))
        print(f'{self._stream.name}: sent {self._sent}'
              + ('' if acknowledged else ', not all of it acknowledged'), flush=True)
        return 0 if acknowledged else 1


def main(args=None):
    """Run the talker until it has sent all, or until SIGINT or SIGTERM."""
    return demo_process.serve(DemoTalker, args)


if __name__ == '__main__':
    sys.exit(main())
