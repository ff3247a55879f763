"""
The processes of the UDP bench in Python: `python -m ipc_bypass.bench.udp_python ROLE NAME=VALUE`.

`sender` and `reader` do what bench/udp_sender.c and bench/udp_reader.c do, with the same options
(but `check`, and with the control socket's path, `control`, and `rules` for the pool's
descriptors). `consume` is a Consumer that sleeps, reads and releases until SIGTERM. `drain` fills
the pool and takes it empty, `rounds` times.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import signal
import socket
from statistics import median
import struct
import sys
import time

from ipc_bypass.pool.consumer import Consumer

_STAMP = struct.Struct('=QII')
_ADDRESS = '127.0.0.1'
_LARGEST = 65507


class _Ended(Exception):  # noqa: N818
    """SIGTERM came."""


def _raise_ended(_number: int, _frame: object) -> None:
    raise _Ended


def main(argv: list[str]) -> None:
    """Play a role and print what came of it, a line of JSON."""
    role, *pairs = argv
    options = dict(pair.split('=', 1) for pair in pairs)
    signal.signal(signal.SIGTERM, _raise_ended)
    cpu = int(options.get('cpu', -1))
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    print(json.dumps(_ROLES[role](options)), flush=True)


def send(options: dict[str, str]) -> dict:
    """Send datagrams, one each `gap` nanoseconds, and time each sendto()."""
    count, gap = int(options['count']), int(options.get('gap', 0))
    sender, now = int(options.get('sender', 0)), time.monotonic_ns
    to, datagram = (_ADDRESS, int(options['port'])), bytearray(int(options['size']))
    times, pack = [], _STAMP.pack_into
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        first = now()
        for number in range(count):
            begin = now()
            pack(datagram, 0, begin, sender, number)
            sock.sendto(datagram, to)
            times.append(now() - begin)
            while now() - begin < gap:
                pass
        return {'send_us': summary(times), 'sent': count, 'refused': 0,
                'seconds': (now() - first) / 1e9}


def read(options: dict[str, str]) -> dict:
    """Read from the socket or the pool until SIGTERM, or until the last one is there."""
    expected, times = int(options['count']), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((_ADDRESS, int(options['port'])))
        block = options.get('block', '0') == '1'
        try:
            if options.get('source', '0') == '1':
                _read_pool(options, sock, block, expected, times)
            else:
                print('ready', flush=True)
                _read_socket(sock, block, expected, times)
        except _Ended:
            pass
    return {'latency_us': summary(times), 'received': len(times), 'wrong': 0, 'disordered': 0,
            'stale': 0}


def _read_socket(sock: socket.socket, block: bool, expected: int, times: list[int]) -> None:
    sock.setblocking(block)
    now, unpack, receive = time.monotonic_ns, _STAMP.unpack_from, sock.recv_into
    buffer, number = bytearray(_LARGEST), -1
    while number + 1 < expected:
        try:
            receive(buffer)
        except BlockingIOError:
            continue
        end = now()
        sent, _, number = unpack(buffer)
        times.append(end - sent)


def _read_pool(options: dict[str, str], sock: socket.socket, block: bool, expected: int,
               times: list[int]) -> None:
    now, unpack = time.monotonic_ns, _STAMP.unpack_from
    drain, number = _drain(sock) if options.get('drain', '0') != '0' else None, -1
    with Consumer(options['rules'].split(','), control=options['control'],
                  spin=not block) as consumer:
        print('ready', flush=True)
        while number + 1 < expected:
            with consumer.read() as batch:
                for place in range(len(batch)):
                    payload = batch.payload(place)
                    end = now()
                    sent, _, number = unpack(payload)
                    times.append(end - sent)
            if drain:
                drain()


def _drain(sock: socket.socket) -> Callable[[], None]:
    """Return a function that empties a socket."""
    sock.setblocking(False)
    buffer = bytearray(_LARGEST)

    def drain() -> None:
        try:
            while True:
                sock.recv_into(buffer)
        except BlockingIOError:
            pass
    return drain


def consume(options: dict[str, str]) -> dict:
    """Take and release, asleep in between, until SIGTERM."""
    taken = batches = 0
    consumer = Consumer(options['rules'].split(','), control=options['control'],
                        watermark=64)
    try:
        print('ready', flush=True)
        for batch in consumer.batches():
            taken += len(batch)
            batches += 1
    except _Ended:
        pass
    wakes = consumer.statistics.wakes
    consumer.close()
    return {'received': taken, 'batches': batches, 'wakes': wakes,
            'cpu_seconds': time.process_time()}


def drain_pool(options: dict[str, str]) -> dict:
    """Fill the pool with `count` datagrams, then take and release them, `rounds` times."""
    count, datagram = int(options['count']), bytes(int(options['size']))
    to, rates, taken = (_ADDRESS, int(options['port'])), [], 0
    with Consumer(options['rules'].split(','), control=options['control']) as consumer, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        print('ready', flush=True)
        for _ in range(int(options['rounds'])):
            for _ in range(count):
                sock.sendto(datagram, to)
            in_round, begin = 0, time.perf_counter()
            while True:
                with consumer.read(0) as batch:
                    if not len(batch):
                        break
                    in_round += len(batch)
                    # What a consumer looks at, at the least: all lengths, all ports.
                    batch.descriptors['length'].sum()
            rates.append(in_round / (time.perf_counter() - begin))
            taken += in_round
    return {'received': taken, 'sent': count * len(rates), 'descriptors_per_s': median(rates)}


def summary(times: list[int]) -> dict[str, float]:
    """Return percentiles of nanoseconds, in microseconds; {} of none."""
    ordered = sorted(times)
    if not ordered:
        return {}
    return {name: ordered[len(ordered) * share // 100] / 1000
            for name, share in (('p10', 10), ('p50', 50), ('p99', 99))}


_ROLES = {'sender': send, 'reader': read, 'consume': consume, 'drain': drain_pool}

if __name__ == '__main__':
    main(sys.argv[1:])
