"""The node `demo_listener`: checks one stream of the demo graph, and tells how it arrives."""

from __future__ import annotations

import json
import sys
import threading
import time

from ipc_bypass.nodes import demo_process
from ipc_bypass.nodes.demo_arrivals import Arrivals
from ipc_bypass.nodes.demo_streams import stream_named
from ipc_bypass.nodes.parameters import declare, read, Spec, START
from rclpy.node import Node

SPECS = (
    *demo_process.SPECS,
    Spec('report_period_s', 'Time between two lines of output, in seconds.', 1.0,
         limits=(0.1, 3600.0), change=START),
    Spec('json', 'Write lines of JSON.', False, change=START),
    Spec('duration_s', 'Time until the listener ends, in seconds; 0: no end.', 0.0,
         limits=(0.0, 1e7), change=START),
    Spec('until_complete', 'End when all that a talker announced by its count has come.', False,
         change=START),
)


class DemoListener(Node):
    """Receives what a DemoTalker sends: looks at numbers, content and delays."""

    def __init__(self) -> None:
        """Make the subscription; raises DemoError."""
        super().__init__('demo_listener')
        declare(self, SPECS)
        values = read(self, SPECS)
        self.ended = threading.Event()
        self._stream = stream_named(values['stream'])
        self._json, self._reliable = values['json'], values['reliable']
        self._until_complete = values['until_complete']
        self._bounded = bool(values['duration_s']) or self._until_complete
        self._arrivals = Arrivals()
        self._reported = time.monotonic()
        self.create_subscription(self._stream.message_type, self._stream.topic, self._receive,
                                 demo_process.quality(self._stream, values))
        self.create_timer(values['report_period_s'], self._report)
        if values['duration_s']:
            self.create_timer(values['duration_s'], self.ended.set)

    def _receive(self, message) -> None:
        now = time.monotonic_ns()
        identity = self._stream.identity(message)
        intact = identity is not None and self._stream.intact(message, identity.sequence)
        self._arrivals.note(identity, now - identity.sent_ns if identity else 0,
                            self._stream.size, intact)
        if self._until_complete and self._arrivals.complete:
            self.ended.set()

    def _report(self) -> None:
        now = time.monotonic()
        told = self._arrivals.period(now - self._reported)
        self._reported = now
        if self._json:
            self._write_json('second', told)
            return
        self._write(f"{told['rate_hz']:7.1f}/s {told['bytes_per_second'] / 1e6:6.1f} MB/s  "
                    f"p50 {told['p50_us'] / 1e3:7.2f} ms  p99 {told['p99_us'] / 1e3:7.2f} ms  "
                    f'{_faults(told)}')

    def finish(self) -> int:
        """Tell the sums; return 1 for any fault of a reliable stream, or one that never came."""
        told = self._arrivals.summary()
        if self._json:
            self._write_json('summary', told)
        elif not told['received']:
            self._write('nothing arrived')
        else:
            self._write(f"{told['received']} messages arrived, {told['bytes'] / 1e6:.1f} MB, "
                        f"p50 {told['p50_us'] / 1e3:.2f} ms, p99 {told['p99_us'] / 1e3:.2f} ms, "
                        f"longest {told['max_us'] / 1e3:.2f} ms, {_faults(told)}")
        if self._bounded and not told['received']:
            return 1
        if self._until_complete and not told['complete'] and self._reliable:
            return 1
        return 0 if self._arrivals.faultless or not self._reliable else 1

    def _write(self, text: str) -> None:
        print(f'{self._stream.name:<11} {text}', flush=True)

    def _write_json(self, kind: str, values: dict) -> None:
        print(json.dumps({'stream': self._stream.name, 'kind': kind, **{
            name: round(value, 1) if isinstance(value, float) else value
            for name, value in values.items()}}), flush=True)


def _faults(told: dict) -> str:
    """Return the counts of faults in words; those beside loss and order where there are any."""
    text = f"lost {told['lost']}, out of order {told['out_of_order']}"
    for name in ('doubled', 'damaged', 'foreign'):
        if told[name]:
            text += f', {name} {told[name]}'
    return text


def main(args=None):
    """Run the listener until SIGINT or SIGTERM; return 1 where anything was lost."""
    return demo_process.serve(DemoListener, args)


if __name__ == '__main__':
    sys.exit(main())
