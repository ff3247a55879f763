"""Ways to send that Python has no words for, and receivers for what is sent."""

import ctypes
import socket

from support.connections import block

_libc = ctypes.CDLL(None, use_errno=True)
ADDRESSES = {4: '127.0.0.1', 6: '::1', 'mapped': '::ffff:127.0.0.1'}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6, 'mapped': socket.AF_INET6}


class _Segment(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = [('name', ctypes.c_void_p), ('name_length', ctypes.c_uint32),
                ('segments', ctypes.POINTER(_Segment)), ('segment_count', ctypes.c_size_t),
                ('control', ctypes.c_void_p), ('control_length', ctypes.c_size_t),
                ('flags', ctypes.c_int), ('_padding', ctypes.c_int), ('sent', ctypes.c_uint32)]


def send_many(sock, payloads):
    """Send datagrams over a connected socket with one sendmmsg(2)."""
    buffers = [ctypes.create_string_buffer(payload, len(payload)) for payload in payloads]
    segments = [_Segment(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    messages = (_Message * len(payloads))(*(
        _Message(segments=ctypes.pointer(segment), segment_count=1) for segment in segments))
    sent = _libc.sendmmsg(sock.fileno(), messages, len(messages), 0)
    assert sent == len(payloads), (sent, ctypes.get_errno())


def receiver(family, port):
    """Return a socket that datagrams to a port arrive at, on loopback."""
    kind = socket.AF_INET if family == 'mapped' else FAMILIES[family]
    sock = socket.socket(kind, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((ADDRESSES[4 if family == 'mapped' else family], port))
    return block(sock)


def sender(family, port=None):
    """Return a socket for datagrams, connected to a port or not."""
    sock = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
    if port is not None:
        sock.connect((ADDRESSES[family], port))
    return sock


def address_bytes(family):
    """Return the 16 bytes by which a descriptor names the loopback address of a family."""
    if family == 6:
        return socket.inet_pton(socket.AF_INET6, '::1')
    return bytes(10) + b'\xff\xff' + socket.inet_aton('127.0.0.1')
