"""A zenoh peer that answers what it hears, and its other end: `serve PORT`, `talk PORT ROUNDS`."""

from __future__ import annotations

import hashlib
import queue
import random
from statistics import median
import sys
import threading
import time

import zenoh

_SIZES = (16, 1024, 64 << 10, 1 << 20)


def _session(setting: str, port: int) -> zenoh.Session:
    config = zenoh.Config()
    config.insert_json5('scouting/multicast/enabled', 'false')
    # Two processes on one host would take shared memory for what is large.
    config.insert_json5('transport/shared_memory/enabled', 'false')
    config.insert_json5('mode', '"peer"')
    config.insert_json5('listen/endpoints', '[]')
    config.insert_json5(f'{setting}/endpoints', f'["tcp/127.0.0.1:{port}"]')
    return zenoh.open(config)


def _publisher(session: zenoh.Session, key: str) -> zenoh.Publisher:
    return session.declare_publisher(key, congestion_control=zenoh.CongestionControl.BLOCK)


def serve(port: int) -> None:
    """Answer each sample of `asked` with the same bytes as `answered`."""
    with _session('listen', port) as session:
        answer = _publisher(session, 'answered')
        session.declare_subscriber('asked', lambda sample: answer.put(sample.payload.to_bytes()))
        threading.Event().wait()


def talk(port: int, rounds: int) -> None:
    """Ask and compare; print bytes, hash, and the median round trip of 64 KB in us."""
    answers: queue.Queue[bytes] = queue.Queue()
    content, total, times = hashlib.blake2b(digest_size=16), 0, []
    chosen = random.Random(7)  # the same messages each time
    with _session('connect', port) as session:
        session.declare_subscriber(
            'answered', lambda sample: answers.put(sample.payload.to_bytes()))
        ask = _publisher(session, 'asked')
        end = time.monotonic() + 15
        while not ask.matching_status.matching and time.monotonic() < end:
            time.sleep(0.01)
        first = b'first'
        while True:  # until the way back is there, too
            ask.put(first)
            try:
                assert answers.get(timeout=0.2) == first
                break
            except queue.Empty:
                assert time.monotonic() < end, 'no answer'
        time.sleep(0.1)
        while not answers.empty():
            answers.get()
        for number in range(rounds):
            for size in _SIZES:
                message = number.to_bytes(8, 'little') + chosen.randbytes(size - 8)
                began = time.monotonic()
                ask.put(message)
                got = answers.get(timeout=15)
                if size == 64 << 10:
                    times.append(time.monotonic() - began)
                assert got == message, 'the answer is not what was asked'
                content.update(got)
                total += 2 * size
    print(total, content.hexdigest(), 1e6 * median(times))


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        serve(int(sys.argv[2]))
    else:
        talk(int(sys.argv[2]), int(sys.argv[3]))
