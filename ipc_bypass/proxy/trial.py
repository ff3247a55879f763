"""
Does the kernel path keep every byte here, and is it faster? Asked before it is used.

Connections go from a short-lived child through an engine of this process back to the child, by
splice(2) and by sk_skb: `python -m ipc_bypass.proxy.trial PORT SPLICE_PORT SK_SKB_PORT` is that
child, and prints what it measured as JSON. A kernel that loses its place in a segment which a slow
receiver took in part sends bytes twice (sk_psock_backlog); no version number tells which do.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

from ipc_bypass.kernel.child import run_module
from ipc_bypass.kernel.errors import ConformanceError
from ipc_bypass.proxy.choice import Ways
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.forward import Forward

_TIMEOUT = 20.0
_SLOW_BYTES, _BULK_BYTES, _ASKED = 6 << 20, 64 << 20, 600
#: The kernel path is taken where it is faster by so much, in both respects.
_WORTH_IT = 1.1


def try_out(shortcut, sk_skb) -> tuple[str, str]:
    """
    Return ('sk_skb' or 'splice', the figures behind it) for connections with ends elsewhere.

    :param shortcut: an active Shortcut, which notes the sockets
    :param sk_skb: a SkSkbPath
    :raises ConformanceError: when the kernel path does not keep every byte
    """
    engine = Engine(Ways(shortcut, sk_skb, 'sk_skb'), health_interval_s=0.0)
    try:
        with socket.create_server(('127.0.0.1', 0)) as free:
            backend = Endpoint('127.0.0.1', free.getsockname()[1])
        engine.start()
        ports = [_forward(engine, backend, path) for path in ('splice', 'sk_skb')]
        figures = _ask_child(backend.port, *ports)
        taken = engine.ended_by_path['sk_skb']
    finally:
        engine.close()
    what = 'check sk_skb on this kernel'
    if not taken:
        raise ConformanceError(what, 'no connection could be handed to the kernel',
                               next_step='connections are moved in user space')
    for path in ('splice', 'sk_skb'):
        fault = figures[path]['fault']
        if fault:
            raise ConformanceError(what, f'{path}: {fault}',
                                   next_step='connections are moved in user space')
    splice, kernel = figures['splice'], figures['sk_skb']
    told = (f"1 KB request and answer {kernel['ask_us']:.0f} us by sk_skb, "
            f"{splice['ask_us']:.0f} us by splice; bulk {kernel['gbit_s']:.1f} and "
            f"{splice['gbit_s']:.1f} Gbit/s")
    faster = splice['ask_us'] > _WORTH_IT * kernel['ask_us'] and \
        kernel['gbit_s'] > _WORTH_IT * splice['gbit_s']
    return 'sk_skb' if faster else 'splice', told


def _forward(engine: Engine, backend: Endpoint, path: str) -> int:
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    engine.add(Forward(Endpoint('127.0.0.1', port), backend, path=path))
    return port


def _ask_child(*ports: int) -> dict:
    try:
        answer = run_module(__name__, *map(str, ports), timeout=_TIMEOUT)
        return json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConformanceError('check sk_skb on this kernel', f'the trial failed: {error}',
                               next_step='connections are moved in user space') from error


# The child -----------------------------------------------------------------------------------


def _measure(listener: socket.socket, port: int) -> dict:
    """Return {'fault', 'ask_us', 'gbit_s'} of connections through a port."""
    found = {'fault': '', 'ask_us': 0.0, 'gbit_s': 0.0}
    try:
        found['fault'] = _slow_reader(listener, port)
        if not found['fault']:
            found['ask_us'] = _ask(listener, port)
            found['gbit_s'] = _bulk(listener, port)
    except OSError as error:
        found['fault'] = str(error)
    return found


def _pair(listener: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(('127.0.0.1', port), 5)
    server, _address = listener.accept()
    server.settimeout(5)
    # A byte each way, so that the connection has found its way before what is measured.
    for one, other in ((client, server), (server, client)):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(b'.')
        other.recv(1)
    time.sleep(0.02)
    return client, server


def _slow_reader(listener: socket.socket, port: int) -> str:
    """Send megabytes to one that does not read, half-close, and answer; return what is wrong."""
    client, server = _pair(listener, port)
    with client, server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        block = os.urandom(_SLOW_BYTES)

        def send() -> None:
            client.sendall(block)
            client.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        time.sleep(0.2)
        got = hashlib.sha256()
        size = 0
        while part := server.recv(1 << 16):
            got.update(part)
            size += len(part)
        sender.join(5)
        if size != len(block) or got.digest() != hashlib.sha256(block).digest():
            return f'{size} of {len(block)} bytes arrived, or others, by a slow reader'
        server.sendall(b'answer')
        server.shutdown(socket.SHUT_WR)
        answer = b''
        while part := client.recv(64):
            answer += part
        return '' if answer == b'answer' else 'no answer after a half-close'


def _ask(listener: socket.socket, port: int) -> float:
    """Return the microseconds of a request of 1 KB and its answer."""
    client, server = _pair(listener, port)
    with client, server:
        block, buffer = b'a' * 1024, bytearray(1024)

        def answer() -> None:
            for _ in range(_ASKED):
                server.recv_into(buffer)
                server.sendall(block)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        began = time.perf_counter()
        for _ in range(_ASKED):
            client.sendall(block)
            left = len(block)
            while left:
                left -= len(client.recv(left)) or left
        return (time.perf_counter() - began) / _ASKED * 1e6


def _bulk(listener: socket.socket, port: int) -> float:
    """Return Gbit/s of one stream."""
    client, server = _pair(listener, port)
    with client, server:
        block, buffer = bytes(1 << 20), bytearray(1 << 20)
        thread = threading.Thread(target=lambda: [client.sendall(block) for _ in range(
            _BULK_BYTES >> 20)], daemon=True)
        began, left = time.perf_counter(), _BULK_BYTES
        thread.start()
        while left > 0 and (got := server.recv_into(buffer)):
            left -= got
        return _BULK_BYTES * 8 / (time.perf_counter() - began) / 1e9


def main(arguments: list[str]) -> None:
    """Measure both ports and print the figures as JSON."""
    backend, splice, sk_skb = map(int, arguments)
    with socket.create_server(('127.0.0.1', backend)) as listener:
        listener.settimeout(5)
        print(json.dumps({'splice': _measure(listener, splice),
                          'sk_skb': _measure(listener, sk_skb)}))


if __name__ == '__main__':
    main(sys.argv[1:])
