"""Tells systemd that a service is ready (sd_notify(3)), where it waits for that."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """
    Send a state, for example 'READY=1', to the socket in NOTIFY_SOCKET.

    Return whether it was sent; where nobody waits, or the socket is gone, nothing happens.
    """
    address = os.environ.get('NOTIFY_SOCKET', '')
    if not address.startswith(('/', '@')):
        return False
    if address.startswith('@'):  # an abstract address begins with a zero byte
        address = '\0' + address[1:]
    with contextlib.suppress(OSError), \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)
        return True
    return False
