"""When a program that a bench started listens."""

from __future__ import annotations

import time

from ipc_bypass.kernel.errors import BypassError

_LISTEN = '0A'  # state of /proc/net/tcp


def wait_for_listener(port: int, timeout: float = 5.0) -> None:
    """Return once a TCP socket of this network namespace listens; raises BypassError."""
    wanted, deadline = f':{port:04X}', time.monotonic() + timeout
    while time.monotonic() < deadline:
        for name in ('/proc/net/tcp', '/proc/net/tcp6'):
            with open(name) as stream:
                for line in stream:
                    words = line.split()
                    if words[1].endswith(wanted) and words[3] == _LISTEN:
                        return
        time.sleep(0.02)
    raise BypassError(f'wait for port {port}', 'nobody listens there')
