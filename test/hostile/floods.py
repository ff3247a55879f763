"""
Floods of connections at enrolled ports, in a network namespace of this process alone.

`scan`, `syn_flood`, `hold` and `churn` each return figures; a Bystander measures meanwhile what
an enrolled connection and one that is not take for an echo.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import struct
import threading
import time

from ipc_bypass.udp.packets import word_sum
from support.streams import connect, echoing, read_exactly

_ECHO = b'how are you?'


class Bystander:
    """
    Two connections to servers that echo, one of them enrolled; a thread asks them in turn.

    :param ports: (the enrolled one's, the other one's)
    """

    def __init__(self, ports):
        self._ports, self._end = ports, threading.Event()
        self._took = {port: [] for port in ports}
        self._stack = contextlib.ExitStack()
        self.failed = []

    def __enter__(self):
        """Connect and begin."""
        with contextlib.ExitStack() as stack:
            self._socks = {}
            for port in self._ports:
                stack.enter_context(echoing(port=port))
                self._socks[port] = stack.enter_context(connect(port))
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception):
        """End it."""
        self._end.set()
        self._thread.join()
        self._stack.close()

    def medians(self):
        """Return the median round trip of each since the last call, in microseconds."""
        took = {port: list(self._took[port]) for port in self._ports}
        for port in self._ports:
            self._took[port] = []
        return tuple(statistics.median(took[port]) * 1e6 if took[port] else 0.0
                     for port in self._ports)

    def _run(self):
        try:
            while not self._end.wait(0.002):
                for port, sock in self._socks.items():
                    begun = time.perf_counter()
                    sock.sendall(_ECHO)
                    assert read_exactly(sock, len(_ECHO)) == _ECHO
                    self._took[port].append(time.perf_counter() - begun)
        except Exception as error:
            self.failed.append(error)


def resident(pid):
    """Return the resident memory of a process, in bytes."""
    with open(f'/proc/{pid}/statm', encoding='ascii') as stream:
        return int(stream.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def scan(first, last):
    """Try to connect to every port of a range, as a scanner does; return how many are open."""
    open_ones = 0
    for port in range(first, last + 1):
        with socket.socket() as sock:
            sock.settimeout(1.0)
            open_ones += not sock.connect_ex(('127.0.0.1', port))
    return open_ones


def syn_flood(port, count, seed=1):
    """
    Send SYN segments to a port of the loopback from addresses of 127.0.0.0/8; nobody answers.

    :returns: segments that the kernel took
    """
    chance, sent = random.Random(seed), 0
    target = socket.inet_aton('127.0.0.1')
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(count):
            source = bytes((127, *(chance.randrange(1, 255) for _ in range(3))))
            head = struct.pack('!HHIIBBHHH', chance.randrange(1024, 65536), port,
                               chance.getrandbits(32), 0, 5 << 4, 2, 64_240, 0, 0)
            total = word_sum(source + target + struct.pack('!HH', 6, len(head)) + head)
            head = head[:16] + struct.pack('=H', 0xffff - total) + head[18:]
            packet = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(head), number & 0xffff, 0, 64, 6,
                                 0) + source + target + head
            with contextlib.suppress(OSError):
                raw.sendto(packet, ('127.0.0.1', 0))
                sent += 1
    return sent


def hold(port, count):
    """Return (server's listener, [sockets]) of so many connections, each of which said a word."""
    listener = socket.create_server(('127.0.0.1', port), backlog=1024)
    held = []
    try:
        for number in range(count):
            client = socket.socket()
            # One address has 28,000 ports of its own to connect from.
            client.bind((f'127.1.{number >> 12 & 255}.1', 0))
            client.connect(('127.0.0.1', port))
            server, _ = listener.accept()
            held += [client, server]
            client.sendall(_ECHO)
            assert read_exactly(server, len(_ECHO)) == _ECHO
    except BaseException:
        release(listener, held)
        raise
    return listener, held


def release(listener, held):
    """Close what `hold` opened; no connection is left waiting."""
    for sock in held:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('=ii', 1, 0))
        sock.close()
    listener.close()


def churn(port, count):
    """Open and close connections one after the other, each with a word and its answer."""
    with socket.create_server(('127.0.0.1', port), backlog=64) as listener:
        for number in range(count):
            with socket.socket() as client:
                client.bind((f'127.2.{number >> 13 & 255}.1', 0))
                client.connect(('127.0.0.1', port))
                server, _ = listener.accept()
                with server:
                    client.sendall(_ECHO)
                    assert read_exactly(server, len(_ECHO)) == _ECHO
                    if number & 1:
                        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                          struct.pack('=ii', 1, 0))
    return count
