"""When a program that a bench started listens."""

from __future__ import annotations

import time

from ipc_bypass.kernel.errors import BypassError

_LISTEN = '0A'  # state of /proc/net/tcp


def wait_for_listener(port: int, timeout: float = 5.0, process: int | str = 'self') -> None:
    """
    Return once a TCP socket listens; raises BypassError.

    :param process: id of one that lives in the network namespace that is meant
    """
    wanted, deadline = f':{port:04X}', time.monotonic() + timeout
    while time.monotonic() < deadline:
        for name in ('tcp', 'tcp6'):
            with open(f'/proc/{process}/net/{name}') as stream:
                for line in stream:
                    words = line.split()
                    if words[1].endswith(wanted) and words[3] == _LISTEN:
                        return
        time.sleep(0.02)
    raise BypassError(f'wait for port {port}', 'nobody listens there')
