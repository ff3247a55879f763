"""Clients and backends around a proxy."""

import socket
import struct

from support.streams import connect, echoing, listening, read_all, read_exactly, settle

__all__ = ['connect', 'echoing', 'listening', 'PATHS', 'read_all', 'read_exactly', 'reset',
           'settle']
#: Every way that bytes may take; a connection has to behave alike on each.
PATHS = ('splice', 'sk_skb', 'shortcut')


def reset(sock):
    """Close a socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('=ii', 1, 0))
    sock.close()
