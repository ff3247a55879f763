"""What recv() and its relatives answer."""

import os
import socket
import struct
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

MSG_TRUNC = 0x20
SO_PEEK_OFF = 42
SO_TIMESTAMP = 29
TCP_INQ = 36
PARTS = b'first', b'second', b'third'


@behaviour(same=(1000, 600, 0))
def test_fionread(pair):
    """FIONREAD counts what is unread."""
    pair.client.sendall(b'x' * 1000)
    arrived(pair.server, 1000)
    before = fionread(pair.server)
    read(pair.server, 400)
    middle = fionread(pair.server)
    read(pair.server, 600)
    return before, middle, fionread(pair.server)


@behaviour(same=(b'fir', b'firstsecondthird', 16, b'firstsecondthird'))
def test_peek(pair):
    """MSG_PEEK looks over the limits of sends, and takes nothing."""
    for part in PARTS:
        pair.client.sendall(part)
    arrived(pair.server, 16)
    return (pair.server.recv(3, socket.MSG_PEEK), pair.server.recv(100, socket.MSG_PEEK),
            fionread(pair.server), pair.server.recv(100))


@behaviour(same=b'firstsecondthird')
def test_one_read_takes_several_sends(pair):
    """A large recv() takes what several sends left."""
    for part in PARTS:
        pair.client.sendall(part)
    arrived(pair.server, 16)
    return pair.server.recv(100)


@behaviour(same=('EAGAIN', 'EAGAIN', b'x'))
def test_nothing_to_read(pair):
    """A non-blocking recv() of an empty socket answers EAGAIN, by flag and by mode."""
    pair.client.sendall(b'x')
    arrived(pair.server, 1)
    first = pair.server.recv(10)
    by_flag = outcome(pair.server.recv, 1, socket.MSG_DONTWAIT)
    pair.server.setblocking(False)
    return by_flag, outcome(pair.server.recv, 1), first


@behaviour(same='EAGAIN')
def test_receive_timeout(pair):
    """SO_RCVTIMEO ends a blocking recv() with EAGAIN."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    set_timeouts(pair.server, PAUSE)
    return outcome(pair.server.recv, 1)


@behaviour(same=[b'f', b'irsts', b'econdthird'])
def test_scattered_read(pair):
    """One recvmsg() into several buffers."""
    for part in PARTS:
        pair.client.sendall(part)
    arrived(pair.server, 16)
    buffers = [bytearray(1), bytearray(5), bytearray(10)]
    pair.server.recvmsg_into(buffers)
    return [bytes(buffer) for buffer in buffers]


@behaviour(plain=b'firstsecond', redirected=b'first', passed=b'first')
def test_waitall(pair):
    """MSG_WAITALL: what one call returns when half of it comes later."""
    pair.client.sendall(b'first')
    arrived(pair.server, 5)
    reader = Call(pair.server.recv, 11, socket.MSG_WAITALL)
    early = reader.result(PAUSE)
    pair.client.sendall(b'second')
    return early if early != 'did not return' else reader.result()


@behaviour(plain=(False, b'x'), redirected=(True, b'x'), passed=(False, 'EAGAIN'))
def test_below_the_low_water_mark(pair):
    """SO_RCVLOWAT of 100 with one byte there: poll(), and a non-blocking recv()."""
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    pair.client.sendall(b'x')
    told = readable(pair.server, PAUSE)
    return told, outcome(pair.server.recv, 100, socket.MSG_DONTWAIT)


@behaviour(plain=('did not return', 100), redirected=(b'x', 99), passed=('did not return', 100))
def test_waiting_for_the_low_water_mark(pair):
    """A recv() that is blocked, with SO_RCVLOWAT of 100: after one byte, and after 99 more."""
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    reader = Call(pair.server.recv, 100).blocked(pair.server)
    pair.client.sendall(b'x')
    early = reader.result(PAUSE)
    pair.client.sendall(b'y' * 99)
    late = reader.result() if early == 'did not return' else outcome(pair.server.recv, 100)
    return early, len(late)


@behaviour(plain=(5, b'.....', b'second'), redirected=(5, b'first', b'second'),
           passed=(5, b'first', b'second'))
def test_discarding_read(pair):
    """MSG_TRUNC takes bytes without copying them: the count, the buffer, and what follows."""
    pair.client.sendall(b'firstsecond')
    arrived(pair.server, 11)
    buffer = bytearray(b'.....')
    count = pair.server.recv_into(buffer, 5, MSG_TRUNC)
    return count, bytes(buffer), pair.server.recv(100)


@behaviour(plain=(b'firs', b'tsec'), redirected=(b'firs', b'firs'),
           passed=(b'firs', b'firs'))
def test_peek_offset(pair):
    """SO_PEEK_OFF: a second peek goes on where the first one ended."""
    pair.server.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    pair.client.sendall(b'firstsecond')
    arrived(pair.server, 11)
    return tuple(pair.server.recv(4, socket.MSG_PEEK) for _ in range(2))


@behaviour(plain='EAGAIN', redirected=b'', passed=b'')
def test_read_of_no_bytes(pair):
    """A recvmsg() that asks for no byte, when none is there."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    answer = outcome(pair.server.recvmsg, 0, 0, socket.MSG_DONTWAIT)
    return answer[0] if isinstance(answer, tuple) else answer


@behaviour(plain=4, redirected='EAGAIN', passed='EAGAIN')
def test_splice_from_a_socket(pair):
    """splice(2) from a socket that has data."""
    pair.client.sendall(b'data')
    arrived(pair.server, 4)
    out, into = os.pipe()
    try:
        pair.server.setblocking(False)
        return outcome(os.splice, pair.server.fileno(), into, 4)
    finally:
        os.close(out)
        os.close(into)


@behaviour(plain=4, redirected='EAGAIN', passed='EAGAIN')
def test_blocking_splice_from_a_socket(pair):
    """splice(2) that waits for data: what it answers when data comes."""
    out, into = os.pipe()
    try:
        set_timeouts(pair.server, 4 * PAUSE)
        splice = Call(os.splice, pair.server.fileno(), into, 4).blocked(pair.server)
        pair.client.sendall(b'data')
        return splice.result()
    finally:
        os.close(out)
        os.close(into)


@behaviour(plain=[(socket.SOL_SOCKET, SO_TIMESTAMP)], redirected=[], passed=[])
def test_receive_timestamp(pair):
    """SO_TIMESTAMP: the kinds of ancillary data that come with the bytes."""
    pair.server.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    ancillary = []
    for _ in range(10):  # the kernel turns its clock on a little later
        pair.client.sendall(b'data')
        arrived(pair.server, 4)
        ancillary = ancillary or pair.server.recvmsg(4, 256)[1]
        time.sleep(PAUSE / 10)
    return [message[:2] for message in ancillary]


@behaviour(plain=[7], redirected=[], passed=[])
def test_rest_in_ancillary_data(pair):
    """TCP_INQ: how much is left, as ancillary data."""
    pair.server.setsockopt(socket.IPPROTO_TCP, TCP_INQ, 1)
    pair.client.sendall(b'firstsecond')
    arrived(pair.server, 11)
    _, ancillary, _, _ = pair.server.recvmsg(4, 256)
    return [struct.unpack('i', message[2])[0] for message in ancillary]


@behaviour(plain=(b'ab', b'!', b'cd'), redirected=(b'ab!cd', 'EAGAIN', b''),
           passed=(b'ab!cd', 'EAGAIN', b''))
def test_urgent_data(pair):
    """MSG_OOB: what recv() reads, what recv(MSG_OOB) reads, and what is left."""
    pair.client.sendall(b'ab')
    pair.client.send(b'!', socket.MSG_OOB)
    pair.client.sendall(b'cd')
    time.sleep(PAUSE)
    first = pair.server.recv(100)
    urgent = outcome(pair.server.recv, 1, socket.MSG_OOB | socket.MSG_DONTWAIT)
    pair.client.close()
    return first, urgent, read(pair.server, 100)


@behaviour(plain=[b'x', b'y'], redirected=['EAGAIN', b'x'], passed=['EAGAIN', b'x'])
def test_two_blocked_readers(pair):
    """Two threads blocked in recv() of one socket, when one byte comes and later another."""
    readers = [Call(pair.server.recv, 1).blocked(pair.server) for _ in range(2)]
    pair.client.sendall(b'x')
    for reader in readers:
        reader.result(PAUSE)
    pair.client.sendall(b'y')
    return sorted((reader.result() for reader in readers), key=str)
