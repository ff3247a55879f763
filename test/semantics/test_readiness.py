"""What poll, select and epoll tell, and when."""

import fcntl
import os
import select
import signal

from semantics_tools import arrived, behaviour, outcome, PAUSE, read, readable

IN, OUT, EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET


def ready(poll, wait=1):
    """Return the events of the only descriptor of an epoll, 0 for none."""
    events = poll.poll(wait)
    return events[0][1] if events else 0


@behaviour(same=[0, IN, IN, 0])
def test_level_triggered_epoll(pair):
    """Level: told as long as something is unread, also in part."""
    with select.epoll() as poll:
        poll.register(pair.server, IN)
        seen = [ready(poll, 0)]
        pair.client.sendall(b'data')
        seen.append(ready(poll))
        read(pair.server, 2)
        seen.append(ready(poll, 0))
        read(pair.server, 2)
        return [*seen, ready(poll, 0)]


@behaviour(same=[0, IN, 0, IN, 0])
def test_edge_triggered_epoll(pair):
    """Edge: told once for each arrival, read or not."""
    with select.epoll() as poll:
        poll.register(pair.server, IN | EDGE)
        seen = [ready(poll, 0)]
        pair.client.sendall(b'data')
        seen += ready(poll), ready(poll, 0)
        pair.client.sendall(b'more')
        seen += ready(poll), ready(poll, 0)
    read(pair.server, 8)
    return seen


@behaviour(same=[IN, IN, 0])
def test_epoll_added_late(pair):
    """A socket that is added with data unread is told at once; so is one that is modified."""
    pair.client.sendall(b'data')
    arrived(pair.server, 4)
    with select.epoll() as poll:
        poll.register(pair.server, IN | EDGE)
        seen = [ready(poll, 0)]
        poll.modify(pair.server, IN | EDGE)
        seen.append(ready(poll, 0))
        read(pair.server, 4)
        poll.modify(pair.server, IN | EDGE)
        return [*seen, ready(poll, 0)]


@behaviour(same=[False, True, False])
def test_poll(pair):
    """poll(2) before, with and after data."""
    seen = [readable(pair.server, 0)]
    pair.client.sendall(b'data')
    seen.append(readable(pair.server))
    read(pair.server, 4)
    return [*seen, readable(pair.server, 0)]


@behaviour(same=[0, 1, 0])
def test_select(pair):
    """select(2) before, with and after data."""
    seen = [len(select.select([pair.server], [], [], 0)[0])]
    pair.client.sendall(b'data')
    seen.append(len(select.select([pair.server], [], [], 1)[0]))
    read(pair.server, 4)
    return [*seen, len(select.select([pair.server], [], [], 0)[0])]


@behaviour(same=(b'ab', b'cd', 'EAGAIN'))
def test_short_read_after_an_edge(pair):
    """A read that gets less than it asked for has emptied the socket: epoll(7), question 9."""
    pair.server.setblocking(False)
    with select.epoll() as poll:
        poll.register(pair.server, IN | EDGE)
        got = []
        for part in (b'ab', b'cd'):
            pair.client.sendall(part)
            ready(poll)
            got.append(pair.server.recv(100))
    return *got, outcome(pair.server.recv, 100)


@behaviour(same=[signal.SIGIO])
def test_sigio(pair):
    """O_ASYNC: a signal when data comes."""
    caught = []
    before = signal.signal(signal.SIGIO, lambda number, _: caught.append(number))
    try:
        fcntl.fcntl(pair.server, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pair.server, fcntl.F_SETFL, os.O_ASYNC)
        pair.client.sendall(b'data')
        read(pair.server, 4)
        fcntl.fcntl(pair.server, fcntl.F_SETFL, 0)
    finally:
        signal.signal(signal.SIGIO, before)
    return caught[:1]


@behaviour(same=[OUT, 0, OUT], may_pass=True, families=('ipv4',))
def test_writable(pair):
    """EPOLLOUT: there, gone when the other end does not read for long, back when it does."""
    pair.client.setblocking(False)
    with select.epoll() as poll:
        poll.register(pair.client, OUT)
        seen, sent = [ready(poll)], 0
        block = bytes(1 << 20)
        while ready(poll, PAUSE):
            sent += pair.client.send(block)
        seen.append(ready(poll, 0))
        read(pair.server, sent)
        return [*seen, ready(poll)]


def test_short_read_over_the_change(connections, path):
    """
    One read takes what was redirected and what passed after it.

    Runtimes that wait for an edge take a short read for an empty socket (epoll(7), question 9).
    If a read stopped between the two, they would wait for an edge that has been.
    """
    with connections('redirected', 'ipv4', may_pass=True) as pair, select.epoll() as poll:
        poll.register(pair.server, IN | EDGE)
        pair.client.sendall(b'redirected')
        path.deactivate()
        try:
            pair.client.sendall(b'passed')
            arrived(pair.server, 16)
        finally:
            path.activate()
        assert ready(poll) == IN
        assert pair.server.recv(100) == b'redirectedpassed'
        assert ready(poll, 0) == 0


test_short_read_over_the_change.differs = False
