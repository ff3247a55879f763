"""How a connection ends: half close, close, reset, and what the other end is told."""

import os
import select
import signal
import socket
import time

from semantics_tools import (
    arrived,
    behaviour,
    Call,
    Child,
    outcome,
    PAUSE,
    read,
    readable,
    set_linger,
)

BLOCK = bytes(range(256)) * 4096


@behaviour(same=(BLOCK, b'', b'answer', b''))
def test_half_close_by_client(pair):
    """The client's end comes after its data; the other direction goes on."""
    sender = Call(pair.client.sendall, BLOCK)
    question = read(pair.server, len(BLOCK))
    sender.result()
    pair.client.shutdown(socket.SHUT_WR)
    end = outcome(pair.server.recv, 1)
    pair.server.sendall(b'answer')
    pair.server.close()
    return question, end, read(pair.client, 6), outcome(pair.client.recv, 1)


@behaviour(same=(b'last', b'', b'answer', b''))
def test_half_close_by_server(pair):
    """The same from the accepted end, with the data unread when the end comes."""
    pair.server.sendall(b'last')
    pair.server.shutdown(socket.SHUT_WR)
    last = read(pair.client, 4), outcome(pair.client.recv, 1)
    pair.client.sendall(b'answer')
    pair.client.close()
    return *last, read(pair.server, 6), outcome(pair.server.recv, 1)


@behaviour(same=(BLOCK, b''))
def test_close_after_data(pair):
    """A close right after the data: all of it is read, then the end."""
    reader = Call(read, pair.server, len(BLOCK))
    pair.client.sendall(BLOCK)
    pair.client.close()
    return reader.result(), outcome(pair.server.recv, 1)


@behaviour(same=b'')
def test_end_wakes_a_blocked_reader(pair):
    """A reader that is blocked in recv() when the end comes gets it from this call."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    reader = Call(pair.server.recv, 1).blocked(pair.server)
    pair.client.shutdown(socket.SHUT_WR)
    return reader.result()


@behaviour(same=(b'data', b''))
def test_sender_is_killed(pair):
    """What a process sent before SIGKILL is read, then the end."""
    def send_and_die():
        pair.server.close()
        pair.client.sendall(b'data')
        os.kill(os.getpid(), signal.SIGKILL)

    child = Child(send_and_die)
    pair.client.close()
    child.result()
    return read(pair.server, 4), outcome(pair.server.recv, 1)


@behaviour(same=(b'data', 'ECONNRESET'))
def test_reset_after_data(pair):
    """A RST (SO_LINGER 0) leaves what was sent before it readable."""
    pair.client.sendall(b'data')
    arrived(pair.server, 4)
    set_linger(pair.client, 0)
    pair.client.close()
    return read(pair.server, 4), outcome(pair.server.recv, 1)


@behaviour(plain='ECONNRESET', redirected='EAGAIN', passed='EAGAIN')
def test_reset_wakes_a_blocked_reader(pair):
    """A reader that is blocked in recv() when a RST comes."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    reader = Call(pair.server.recv, 1).blocked(pair.server)
    set_linger(pair.client, 0)
    pair.client.close()
    return reader.result()


@behaviour(plain='ECONNRESET', redirected=b'', passed=b'')
def test_unread_data_at_close(pair):
    """The other end closes and leaves data unread: what this end reads then."""
    pair.client.sendall(b'unread')
    arrived(pair.server, 6)
    pair.server.close()
    return outcome(pair.client.recv, 1)


@behaviour(same=(1, 'EPIPE', b''), may_pass=True)
def test_send_to_a_closed_end(pair):
    """The first send after the other end closed succeeds, the second fails."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    pair.server.close()
    readable(pair.client)
    first = outcome(pair.client.send, b'1')
    second = outcome(pair.client.send, b'2')
    return first, second, outcome(pair.client.recv, 1)


@behaviour(same=[signal.SIGPIPE], may_pass=True)
def test_sigpipe(pair):
    """A send on a reset connection raises SIGPIPE, not with MSG_NOSIGNAL."""
    caught = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: caught.append(number))
    try:
        pair.client.sendall(b'x')
        read(pair.server, 1)
        pair.server.close()
        readable(pair.client)
        pair.client.send(b'1')
        outcome(pair.client.send, b'2', socket.MSG_NOSIGNAL)
        outcome(pair.client.send, b'3')
    finally:
        signal.signal(signal.SIGPIPE, before)
    return caught


@behaviour(same=('EPIPE', b''), may_pass=True)
def test_send_after_own_shutdown(pair):
    """A send after shutdown(SHUT_WR): its answer, and what the other end reads."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    pair.client.shutdown(socket.SHUT_WR)
    readable(pair.server)
    return outcome(pair.client.send, b'late'), outcome(pair.server.recv, 4)


@behaviour(same=(b'', 'EPIPE', b''), may_pass=True)
def test_send_after_own_shutdown_was_read(pair):
    """The same when the other end has read the end: its answer, and what is read then."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    pair.client.shutdown(socket.SHUT_WR)
    end = outcome(pair.server.recv, 4)
    time.sleep(PAUSE)
    return end, outcome(pair.client.send, b'late'), outcome(pair.server.recv, 4)


@behaviour(same=(b'', b'late', b''))
def test_shutdown_of_reading(pair):
    """After shutdown(SHUT_RD): the end, unless something comes, which is read."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    pair.server.shutdown(socket.SHUT_RD)
    end = outcome(pair.server.recv, 4)
    pair.client.sendall(b'late')
    arrived(pair.server, 4)
    return end, outcome(pair.server.recv, 4), outcome(pair.server.recv, 4)


@behaviour(plain=(b'', b''), redirected=('EAGAIN', b''), passed=('EAGAIN', b''))
def test_shutdown_wakes_a_blocked_reader(pair):
    """Another thread's shutdown(SHUT_RDWR) while this one is blocked in recv()."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    reader = Call(pair.server.recv, 1).blocked(pair.server)
    pair.server.shutdown(socket.SHUT_RDWR)
    return reader.result(), outcome(pair.server.recv, 1)


@behaviour(same=(select.EPOLLIN | select.EPOLLRDHUP, b'', b'answer'))
def test_epoll_tells_a_half_close(pair):
    """EPOLLRDHUP and EPOLLIN tell that the other end sends no more."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    with select.epoll() as poll:
        poll.register(pair.server, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        poll.poll(PAUSE)
        pair.client.shutdown(socket.SHUT_WR)
        events = poll.poll(1)
    end = outcome(pair.server.recv, 1)
    pair.server.sendall(b'answer')
    return events[0][1], end, read(pair.client, 6)


@behaviour(same=(select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP,
                 'ECONNRESET'))
def test_epoll_tells_a_reset(pair):
    """EPOLLERR and EPOLLHUP tell of a RST; the error is read once."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    with select.epoll() as poll:
        poll.register(pair.server, select.EPOLLIN | select.EPOLLRDHUP)
        set_linger(pair.client, 0)
        pair.client.close()
        events = poll.poll(1)
    return events[0][1], outcome(pair.server.recv, 1)


@behaviour(same=(None, b'data', b''))
def test_lingering_close(pair):
    """A close with SO_LINGER of some seconds returns; the data is there."""
    set_linger(pair.client, 3)
    pair.client.sendall(b'data')
    closed = outcome(pair.client.close)
    return closed, read(pair.server, 4), outcome(pair.server.recv, 1)
