"""What tools see of a connection."""

import os
import socket
import struct
import time

from semantics_tools import arrived, behaviour, PAUSE, read

TCP_INFO = 11
BYTES_ACKED, BYTES_RECEIVED, BYTES_SENT = 120, 128, 200  # struct tcp_info, uapi/linux/tcp.h
ETH_P_ALL = 3


def tcp_info(sock, offset):
    """Return a 64-bit number of struct tcp_info."""
    info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
    return struct.unpack_from('=Q', info, offset)[0]


def receive_queue(sock):
    """Return the receive queue of a socket as /proc/net/tcp (and ss as Recv-Q) shows it."""
    number = os.stat(f'/proc/self/fd/{sock.fileno()}').st_ino
    table = '/proc/net/tcp' if sock.family == socket.AF_INET else '/proc/net/tcp6'
    with open(table, encoding='ascii') as stream:
        for line in stream:
            fields = line.split()
            if fields[9] == str(number):
                return int(fields[4].partition(':')[2], 16)
    raise LookupError(number)


@behaviour(plain=(1000, 1000), redirected=(0, 0))
def test_tcp_info(pair):
    """TCP_INFO: bytes_sent of the one end, bytes_received of the other, after 1000 bytes."""
    pair.client.sendall(b'x' * 1000)
    read(pair.server, 1000)
    return tcp_info(pair.client, BYTES_SENT), tcp_info(pair.server, BYTES_RECEIVED)


@behaviour(plain=1000, redirected=0, passed=1000)
def test_receive_queue_in_proc(pair):
    """Recv-Q of ss, with 1000 bytes unread."""
    pair.client.sendall(b'x' * 1000)
    arrived(pair.server, 1000)
    return receive_queue(pair.server)


@behaviour(plain=True, redirected=False)
def test_packet_capture(pair):
    """Whether a packet socket on lo (tcpdump) sees the bytes."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as capture:
        capture.bind(('lo', 0))
        capture.settimeout(PAUSE)
        pair.client.sendall(b'to be seen on the wire')
        read(pair.server, 22)
        end, seen = time.monotonic() + 4 * PAUSE, False
        while not seen and time.monotonic() < end:
            try:
                seen = b'to be seen on the wire' in capture.recv(65536)
            except TimeoutError:
                break
    return seen
