"""Addresses, options and descriptors of a connection."""

import array
import ctypes
import os
import socket
import struct
import time

from semantics_tools import arrived, behaviour, Child, outcome, PAUSE, read


@behaviour(same=True)
def test_names(pair):
    """getpeername() of each end is getsockname() of the other."""
    pair.client.sendall(b'x')
    read(pair.server, 1)
    return (pair.client.getpeername() == pair.server.getsockname()
            and pair.server.getpeername() == pair.client.getsockname())


@behaviour(same=(0, 1, socket.SOCK_STREAM, socket.IPPROTO_TCP))
def test_options(pair):
    """SO_ERROR, SO_KEEPALIVE, SO_TYPE, SO_PROTOCOL."""
    pair.client.sendall(b'x')
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return tuple(pair.client.getsockopt(socket.SOL_SOCKET, name) for name in (
        socket.SO_ERROR, socket.SO_KEEPALIVE, socket.SO_TYPE, socket.SO_PROTOCOL))


@behaviour(same=(b'before', b'after'), families=('ipv4',))
def test_keepalive(pair):
    """A connection with keepalive every second lives on without traffic."""
    for name, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1),
                        (socket.TCP_KEEPCNT, 1)):
        pair.client.setsockopt(socket.IPPROTO_TCP, name, value)
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pair.client.sendall(b'before')
    got = read(pair.server, 6)
    time.sleep(2.2)
    pair.client.sendall(b'after')
    return got, read(pair.server, 5)


@behaviour(same=(b'onetwo', b'answer'))
def test_dup(pair):
    """A duplicate of a descriptor sends and reads the same stream."""
    with socket.socket(fileno=os.dup(pair.client.fileno())) as twin:
        pair.client.sendall(b'one')
        twin.sendall(b'two')
        pair.server.sendall(b'answer')
        return read(pair.server, 6), read(twin, 6)


@behaviour(same=(b'onetwo', "b'answer'", b''))
def test_fork(pair):
    """A child sends and reads on its parent's socket; the end comes when both closed it."""
    pair.client.sendall(b'one')

    def talk():
        pair.server.close()
        pair.client.sendall(b'two')
        return pair.client.recv(6)

    child = Child(talk)
    got = read(pair.server, 6)
    pair.server.sendall(b'answer')
    answer = child.result()
    pair.client.close()
    return got, answer, outcome(pair.server.recv, 1)


@behaviour(same=(b'unreadmore', b'answer'))
def test_passed_over_a_unix_socket(pair):
    """A socket handed on by SCM_RIGHTS, with data unread in it."""
    pair.client.sendall(b'unread')
    arrived(pair.server, 6)
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b'.'], [pair.server.fileno()])
        pair.server.close()
        _, ancillary, _, _ = right.recvmsg(1, 64)
    number = array.array('i', ancillary[0][2][:4])[0]
    with socket.socket(fileno=number) as taken:
        pair.client.sendall(b'more')
        taken.sendall(b'answer')
        return read(taken, 10), read(pair.client, 6)


@behaviour(plain=b'new', redirected=b'oldnew', passed=b'oldnew', families=('ipv4',))
def test_socket_used_again(pair):
    """connect(AF_UNSPEC) with data unread, then another connection: what that one reads."""
    pair.server.sendall(b'old')
    arrived(pair.client, 3)
    nowhere = struct.pack('=H14x', socket.AF_UNSPEC)
    assert not ctypes.CDLL(None).connect(pair.client.fileno(), nowhere, len(nowhere))
    with socket.create_server(('127.0.0.1', 0)) as listener:
        pair.client.connect(listener.getsockname())
        server, _ = listener.accept()
    with server:
        server.sendall(b'new')
        time.sleep(PAUSE)
        return pair.client.recv(100)
