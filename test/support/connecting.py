"""A send that waits for its connection: what it sends goes past the programs, by TCP."""

import errno
import socket
import time

from support.connections import accept, block, bridged, read, receive_some
from support.namespaces import bridged_pair
from support.traffic import Job, nothing_more
from support.waiting import wait_until


def send_while_connecting(port, stack, first=b'first' * 10_000, second=b'second', meddle=None):
    """
    Send a message in a thread while connecting, and one after it, over a bridge of our own.

    `meddle(client)` is called over and over while that thread sends, as another thread would
    send; it returns how many bytes it sent. Returns (client, what the server read).
    """
    pair = stack.enter_context(bridged_pair())
    place, server_space = bridged(pair), pair[0]
    buffer = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)] if meddle else []
    listener = stack.enter_context(place.listen(port, options=buffer))
    server_space.ip('link', 'set', 'eth0', 'down')  # the first SYN is lost: one second to wait
    client = stack.enter_context(place.socket('client'))
    if meddle:  # so that the queues are full soon, and empty soon
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    client.setblocking(False)
    assert client.connect_ex((place.address, port)) == errno.EINPROGRESS
    block(client)
    waiting = Job(lambda: client.sendall(first) or client.sendall(second))
    wait_until(lambda: _is_sleeping_in_send(waiting.native_id), 'the send waits')
    server_space.ip('link', 'set', 'eth0', 'up')
    server = stack.enter_context(accept(listener))
    if not meddle:
        waiting.result()  # before the first read: all of it is queued
        got = read(server, len(first) + len(second))
        nothing_more(server)
        return client, got
    more = 0
    reading = Job(_read_to_the_end, server, len(first) - 200_000)
    while waiting.is_alive():
        more += meddle(client)
    waiting.result()
    client.shutdown(socket.SHUT_WR)
    got = reading.result()
    assert len(got) == len(first) + len(second) + more
    return client, got


def _read_to_the_end(server, slow):
    """Read fast, so that queues run empty; from byte `slow` on slowly, so that they are full."""
    got = bytearray()
    while data := receive_some(server, 64 << 10 if len(got) < slow else 4 << 10):
        got += data
        if len(got) >= slow:
            time.sleep(0.005)
    return bytes(got)


def _is_sleeping_in_send(thread):
    with open(f'/proc/self/task/{thread}/syscall') as stream:
        # sendto on x86-64 and elsewhere; 'running' where it does not sleep.
        return stream.read().split()[0] in ('44', '206')
