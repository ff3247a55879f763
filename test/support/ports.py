"""Ports for tests: blocks of twenty, each taken by one test of one session on this host."""

import socket

FIRST, LAST, BLOCK = 23000, 23999, 20


class PortBlock:
    """
    Twenty ports that no other test session uses; `ports` counts up, `first` and `last` inclusive.

    An abstract Unix socket is the lock: the kernel gives it back whatever happens to us.
    """

    def __init__(self):
        """Take a free block; raises AssertionError when there is none."""
        self._lock = socket.socket(socket.AF_UNIX)
        for first in range(FIRST, LAST, BLOCK):
            try:
                self._lock.bind(f'\0ipc_bypass_test_ports_{first}')
            except OSError:
                continue
            self.first, self.last = first, first + BLOCK - 1
            self.ports = iter(range(self.first, self.last + 1))
            return
        self._lock.close()
        raise AssertionError(f'no free block of ports in {FIRST} to {LAST}')

    def __next__(self):
        """Return the next port of the block."""
        return next(self.ports)

    def close(self):
        """Give the block back."""
        self._lock.close()
