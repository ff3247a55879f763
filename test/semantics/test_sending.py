"""What send() and its relatives do."""

import contextlib
import os
import select
import signal
import socket
import struct
import tempfile
import threading
import time

from semantics_tools import (
    arrived,
    behaviour,
    Call,
    fionread,
    outcome,
    PAUSE,
    read,
    readable,
    set_timeouts,
)
from support.connections import unacknowledged

SO_MAX_PACING_RATE = 47
SO_TIMESTAMPING = 37
SO_SNDBUFFORCE = 32
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
MEGABYTE = 1 << 20
BLOCK = os.urandom(MEGABYTE)


def completions(sock):
    """Return what is in the error queue, as (low, high) of struct sock_extended_err."""
    found, end = [], time.monotonic() + 4 * PAUSE
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            _, ancillary, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            found += [struct.unpack('=IBBBBII', data[:16])[5:] for level, _, data in ancillary
                      if level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6)]
            continue
        time.sleep(0.005)
    return found


def send_from(start, sock, data):
    """Send when everybody is there; return how much one call sent."""
    start.wait()
    return sock.send(data)


@behaviour(same=(MEGABYTE, True))
def test_sendfile(pair):
    """sendfile(2) of a file."""
    with tempfile.TemporaryFile() as file:
        file.write(BLOCK)
        file.flush()
        reader = Call(read, pair.server, MEGABYTE)
        sent = 0
        while sent < MEGABYTE:
            sent += os.sendfile(pair.client.fileno(), file.fileno(), sent, MEGABYTE - sent)
        return sent, reader.result() == BLOCK


@behaviour(plain=b'second', redirected=b'first.', passed=b'first.')
def test_file_changed_after_sendfile(pair):
    """What is read when a file is changed after sendfile(2): whether its pages were copied."""
    with tempfile.TemporaryFile() as file:
        file.write(b'first.')
        file.flush()
        os.sendfile(pair.client.fileno(), file.fileno(), 0, 6)
        os.pwrite(file.fileno(), b'second', 0)
        return read(pair.server, 6)


@behaviour(same=(True, True))
def test_many_buffers(pair):
    """sendmsg() of 1,000 buffers goes in one call, and arrives in order."""
    buffers = [bytes([number % 251]) * (number % 10 + 1) for number in range(1000)]
    whole = b''.join(buffers)
    return pair.client.sendmsg(buffers) == len(whole), read(pair.server, len(whole)) == whole


@behaviour(same=(12, b'firstsecond!'))
def test_writev(pair):
    """writev(2) on the descriptor."""
    sent = os.writev(pair.client.fileno(), [b'first', b'second', b'!'])
    return sent, read(pair.server, 12)


@behaviour(same=(True, True), may_pass=True, families=('ipv4',))
def test_non_blocking_sends(pair):
    """What a non-blocking sender was told it sent is what arrives, past EAGAIN."""
    pair.client.setblocking(False)
    source = BLOCK * 24
    sent, refused = 0, False
    with memoryview(source) as view:
        while sent < len(source):
            count = outcome(pair.client.send, view[sent:sent + 3_000_001])
            if count == 'EAGAIN':
                refused = True
                break
            sent += count
    return refused, read(pair.server, sent) == source[:sent]


@behaviour(same=(True, True), may_pass=True, families=('ipv4',))
def test_interrupted_sends(pair):
    """What a blocked sender was told it sent is what arrives, with signals all the time."""
    source, counts, end = BLOCK * 40, [], threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)

    def send_all():
        with memoryview(source) as view:
            while sum(counts) < len(source):
                counts.append(pair.client.send(view[sum(counts):]))

    def interrupt():
        while not end.wait(0.0005):
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(sender.ident, signal.SIGUSR1)

    try:
        sender = Call(send_all)
        interrupter = Call(interrupt)
        time.sleep(PAUSE)
        whole = read(pair.server, len(source)) == source
        end.set()
        interrupter.result()
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    return len(counts) > 1, whole


@behaviour(plain=False, redirected=True)
def test_buffer_sizes(pair):
    """Whether 2 MB fit between SO_SNDBUF and SO_RCVBUF of 64 KiB, unread."""
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    set_timeouts(pair.client, PAUSE)
    return outcome(pair.client.send, BLOCK + BLOCK) == 2 * MEGABYTE


@behaviour(same='EAGAIN', may_pass=True, families=('ipv4',))
def test_send_timeout(pair):
    """SO_SNDTIMEO ends a blocking send() when the other end does not read."""
    set_timeouts(pair.client, PAUSE)
    answer = 0
    while answer != 'EAGAIN':
        answer = outcome(pair.client.send, BLOCK)
    return answer


@behaviour(plain=(False, b'partrest'), redirected=(True, b'partrest'))
def test_more_to_come(pair):
    """MSG_MORE: whether the first part arrives alone; what arrives in the end."""
    pair.client.send(b'part', socket.MSG_MORE)
    alone = readable(pair.server, PAUSE)
    pair.client.sendall(b'rest')
    return alone, read(pair.server, 8)


@behaviour(plain=(False, b'partrest'), redirected=(True, b'partrest'))
def test_cork(pair):
    """TCP_CORK: whether the first part arrives alone; what arrives in the end."""
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    pair.client.send(b'part')
    alone = readable(pair.server, PAUSE)
    pair.client.sendall(b'rest')
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return alone, read(pair.server, 8)


@behaviour(same=(1, 0, b'data'))
def test_nodelay(pair):
    """TCP_NODELAY is kept; with and without it the data arrives."""
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    on = pair.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    pair.client.sendall(b'da')
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    pair.client.sendall(b'ta')
    return (on, pair.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            read(pair.server, 4))


@behaviour(plain=([(0, 0)], True), redirected=([], True),
           passed=([(0, 1)], True))
def test_zerocopy(pair):
    """MSG_ZEROCOPY: the completions, and whether the bytes arrive."""
    pair.client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    block = BLOCK[:60_000]
    pair.client.send(block, MSG_ZEROCOPY)
    whole = read(pair.server, len(block)) == block
    return completions(pair.client), whole


@behaviour(plain=True, redirected=False)
def test_sent_timestamp(pair):
    """SO_TIMESTAMPING of what is sent: whether the error queue tells of it."""
    software, sent_software, number = 1 << 4, 1 << 1, 1 << 7
    pair.client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, software | sent_software | number)
    pair.client.sendall(b'data')
    read(pair.server, 4)
    return bool(completions(pair.client))


@behaviour(plain=True, redirected=False)
def test_unsent_bytes(pair):
    """SIOCOUTQ: whether it counts what the other end has not taken."""
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    set_timeouts(pair.client, PAUSE)
    outcome(pair.client.send, BLOCK)
    return unacknowledged(pair.client) > 0


@behaviour(plain=False, redirected=True, families=('ipv4',))
def test_pacing(pair):
    """SO_MAX_PACING_RATE of 100 kB/s: whether 300 kB are there at once."""
    pair.client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 100_000)
    pair.client.sendall(BLOCK[:300_000])
    return fionread(pair.server) == 300_000


@behaviour(plain=True, redirected=False, passed=True, families=('ipv4',))
def test_large_sends_of_two_threads(pair):
    """Whether large sends of two threads on one socket arrive each in one piece."""
    size, whole = 4 * MEGABYTE, True
    pair.client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 * size)
    for _ in range(40):
        start = threading.Barrier(2)
        senders = [Call(send_from, start, pair.client, byte * size) for byte in (b'a', b'b')]
        got = read(pair.server, 2 * size)
        for sender in senders:
            sender.result()
        whole = whole and got.count(b'ab') + got.count(b'ba') == 1
        if not whole:
            break
    return whole


@behaviour(same=[select.EPOLLOUT, b'request', b'answer'])
def test_both_ways(pair):
    """A socket with unread data can be written to."""
    pair.server.sendall(b'answer')
    arrived(pair.client, 6)
    with select.epoll() as poll:
        poll.register(pair.client, select.EPOLLOUT)
        events = poll.poll(1)
    pair.client.sendall(b'request')
    return [events[0][1], read(pair.server, 7), read(pair.client, 6)]
