"""
One end of a pair that is measured: a process with a session of rclpy or zenoh.

It reads a request a line, as JSON, and answers each with a line of JSON. Two of them are driven by
ipc_bypass.compare.pair; the end `a` sends and asks, the end `b` receives and answers. Times are of
CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import threading
import time

HEADER = struct.Struct('=QQ')  # sequence number, time of sending in ns
#: A round trip that takes longer is lost; the next one begins.
_LOST_AFTER = 2.0
#: The receiver reports at last, whatever still comes.
_LONGEST_WAIT = 10.0


class Endpoint:
    """
    What one end does on request.

    :param session: of a backend: publisher(name), subscribe(name, callback), payload(size)
    :param end: 'a' or 'b'
    :param sizes: of the messages, in bytes; number n has topics of its own
    """

    def __init__(self, session, end: str, sizes: list[int]) -> None:
        self._session = session
        self._payloads = [session.payload(size) for size in sizes]
        self._forth, self._back = [], []
        self._lock = threading.Lock()
        self._latencies: list[int] = []
        self._seen: set[int] = set()
        self._first = self._last = 0
        self._round = _Round()
        self._cpu = 0.0
        for number in range(len(sizes)):
            stream, forth, back = (f'ipcb_{kind}_{number}' for kind in ('stream', 'ask', 'answer'))
            if end == 'a':
                self._forth.append(session.publisher(forth))
                self._back.append(session.publisher(stream))
                session.subscribe(back, self._answered)
            else:
                answer = session.publisher(back)
                session.subscribe(forth, answer)
                session.subscribe(stream, self._arrived)

    def matched(self, timeout: float) -> dict:
        """Return once the other end is there: {'matched': whether}."""
        deadline = time.monotonic() + timeout
        while not self._session.matched():
            if time.monotonic() > deadline:
                return {'matched': False}
            time.sleep(0.02)
        # Found is not yet connected, the way back least of all.
        time.sleep(1.0)
        return {'matched': True}

    def roundtrip(self, message: int, seconds: float, warm: float) -> dict:
        """Return {'times': ns of each round trip, 'lost'}; those of the first `warm` s are out."""
        payload = self._payloads[message]
        send, view = self._forth[message], memoryview(self._session.buffer(payload))

        def ask(sequence: int) -> None:
            HEADER.pack_into(view, 0, sequence, time.monotonic_ns())
            send(payload)

        lost = self._round.run(ask, seconds, warm, _LOST_AFTER)
        return {'times': self._round.times, 'lost': lost}

    def receive(self) -> dict:
        """Forget what came, and count from now on."""
        with self._lock:
            self._latencies, self._seen = [], set()
            self._first = self._last = 0
        self._cpu = time.process_time()
        return {}

    def send(self, message: int, rate: float, seconds: float) -> dict:
        """
        Send for some time; return {'sent', 'seconds', 'cpu': s}.

        :param rate: in Hz, 0 for as fast as it goes
        """
        payload, send = self._payloads[message], self._back[message]
        view = memoryview(self._session.buffer(payload))
        cpu, begin, sent = time.process_time(), time.monotonic(), 0
        while True:
            now = time.monotonic()
            if now >= begin + seconds:
                break
            if rate:
                due = begin + sent / rate
                if due >= begin + seconds:
                    break
                if due > now:
                    time.sleep(due - now)
            HEADER.pack_into(view, 0, sent, time.monotonic_ns())
            # One that the DDS refuses, as where it finds no room in time, counts as sent and lost.
            send(payload)
            sent += 1
        elapsed = time.monotonic() - begin
        return {'sent': sent, 'seconds': elapsed, 'cpu': time.process_time() - cpu}

    def report(self, expected: int, quiet: float) -> dict:
        """
        Wait for what is under way; return {'received', 'latencies': ns, 'seconds', 'cpu': s}.

        :param expected: how many were sent; with all of them there is nothing to wait for
        :param quiet: how long nothing must have come, in s, for the rest to be lost
        """
        since, until = time.monotonic(), time.monotonic() + _LONGEST_WAIT
        count = -1
        while time.monotonic() < min(since + quiet, until):
            with self._lock:
                now = len(self._seen)
            if now >= expected:
                break
            if now != count:
                count, since = now, time.monotonic()
            time.sleep(0.01)
        cpu = time.process_time() - self._cpu
        with self._lock:
            return {'received': len(self._seen), 'latencies': list(self._latencies), 'cpu': cpu,
                    'seconds': (self._last - self._first) / 1e9}

    def _answered(self, message) -> None:
        now = time.monotonic_ns()
        self._round.answered(*HEADER.unpack_from(self._session.buffer(message)), now)

    def _arrived(self, message) -> None:
        now = time.monotonic_ns()
        sequence, sent = HEADER.unpack_from(self._session.buffer(message))
        with self._lock:
            self._latencies.append(now - sent)
            self._seen.add(sequence)
            self._first = self._first or now
            self._last = now


class _Round:
    """Round trips, each begun where the one before was answered: no thread has to be woken."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self._sequence = 0
        self._ask = None
        self._warm_until = self._until = 0.0
        self._answered_at = 0.0

    def run(self, ask, seconds: float, warm: float, lost_after: float) -> int:
        """Fill `times` for some seconds; return how many were lost."""
        begin = time.monotonic()
        self.times, lost = [], 0
        self._ask, self._warm_until = ask, begin + warm
        self._until = begin + warm + seconds
        self._answered_at = begin
        self._begin()
        while time.monotonic() < self._until:
            time.sleep(0.02)
            if time.monotonic() > self._answered_at + lost_after:
                lost += 1
                self._answered_at = time.monotonic()
                self._begin()
        self._ask = None
        return lost

    def answered(self, sequence: int, sent: int, now: int) -> None:
        """Note a time and begin the next; an answer to an earlier one is nothing."""
        ask = self._ask
        if sequence != self._sequence or ask is None:
            return
        self._answered_at = now / 1e9
        if self._answered_at > self._warm_until:
            self.times.append(now - sent)
        if self._answered_at < self._until:
            self._begin()

    def _begin(self) -> None:
        ask = self._ask
        self._sequence += 1
        if ask is not None:
            ask(self._sequence)


def main(words: list[str]) -> int:
    """Serve until the input ends: BACKEND a|b SIZE..., BACKEND 'rclpy' or 'zenoh'."""
    backend, end, *sizes = words
    with importlib.import_module(f'ipc_bypass.compare.{backend}_backend').Session(end) as session:
        endpoint = Endpoint(session, end, [int(size) for size in sizes])
        _say({'ready': True})
        for line in sys.stdin:
            request = json.loads(line)
            _say(getattr(endpoint, request.pop('do'))(**request))
    return 0


def _say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
