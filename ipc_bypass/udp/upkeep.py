"""A thread that keeps what changes by itself on this host up to date, at a bounded price."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import select
import socket
import threading
import time

# uapi/linux/rtnetlink.h, uapi/linux/netlink.h
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID = 270, 8
#: Seconds that what changes together is waited for.
_TOGETHER = 0.05


class AddressEvents:
    """
    Tells when an address comes or goes in this namespace, or in a neighbour's.

    Neighbours are the namespaces that the kernel has given a number in ours, as it does for
    those at the other end of a veth (needs CAP_NET_BROADCAST; netlink(7)).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK,
                                     socket.NETLINK_ROUTE)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        self._socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._socket.fileno()

    def take(self) -> bool:
        """Return whether something changed since the last call."""
        changed = False
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return changed
            except OSError:  # ENOBUFS: more changed than was kept
                pass
            changed = True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Upkeep:
    """
    Calls tasks one after the other: now, every `interval` seconds, and when an address changes.

    `problems` is a line for each task whose last call failed, () when all is well.

    :param tasks: called without arguments; a BypassError, or an OSError or ValueError of what they
        read, becomes a line of `problems`
    :param share: of one processor, at most; where the tasks take more, they come more seldom
    """

    def __init__(self, *tasks: Callable[[], object], interval: float = 2.0,
                 share: float = 0.002) -> None:
        self._tasks, self._interval, self._share = tasks, interval, share
        self.problems: tuple[str, ...] = ()
        self._events = AddressEvents()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock, self._ending = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name='udp-upkeep', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the tasks called soon, as after a port was enrolled; nothing after close()."""
        with self._lock:
            if not self._ending:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread, after the call that it is in; once more is no error."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._events.close()
        os.close(self._wake)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._ending:
            before = time.thread_time()
            self._call()
            pause = max(self._interval, (time.thread_time() - before) / self._share)
            if poll.poll(pause * 1000):
                if not self._ending:
                    time.sleep(_TOGETHER)
                self._events.take()
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)

    def _call(self) -> None:
        problems = []
        for task in self._tasks:
            try:
                task()
            except Exception as error:  # the next call may work
                problems.append(str(error) or type(error).__name__)
        self.problems = tuple(problems)
