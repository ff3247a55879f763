"""A thread that tells when interfaces come, go and change, at a bounded price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import contextlib
from dataclasses import fields
import os
import select
import socket
import struct
import threading
import time

from ipc_bypass.xdp.interfaces import (
    check_patterns,
    Interface,
    interfaces,
    matching,
    RTM_DELLINK,
)
from ipc_bypass.xdp.netlink import messages

_RTMGRP_LINK = 0x1  # uapi/linux/rtnetlink.h
_INDEX_AT = 4  # in struct ifinfomsg
#: Seconds that what changes together is waited for.
_TOGETHER = 0.05
#: Seconds that it sleeps at most between two looks, whatever they take.
_LONGEST_PAUSE = 1.0
# What counts as a change; a name has its own callback, and the program is ours to know.
_CHANGES = tuple(field.name for field in fields(Interface)
                 if field.name not in ('name', 'index', 'xdp_program_id', 'xdp_mode'))

Told = Callable[[Interface], object]
ToldBoth = Callable[[Interface, Interface], object]


class InterfaceWatcher:
    """
    Tells of the interfaces that patterns name, in the namespace of the thread that makes this.

    The callbacks come one after the other in the watcher's thread, what vanished first. An
    interface that vanished and came back, be it with the same index, is told as both. When
    events storm, they are taken together, and the looks at the interfaces spaced out. `problems`
    has a line for each callback that failed in the last round.

    :param patterns: as for interfaces.select; they may name nothing yet
    :param appeared: called with an interface that came, or that a new name made ours
    :param vanished: called with an interface, as it was, that is gone, or is ours no more
    :param renamed: called with (before, now)
    :param changed: called with (before, now) when the MTU, up, the MAC, the peer, the master or
        the queues are others
    :param looked: called after each look and what it told
    :param known: those that are known already; None: all that are there when this is made. Those
        that are there and not known are told as appeared
    :param interval: seconds after which it looks even without events
    :param share: of one processor, at most; where looks take more, they come more seldom, yet
        every second. Callbacks are not counted
    :raises InterfaceError: when a pattern makes no sense
    """

    def __init__(self, patterns: Sequence[str], appeared: Told | None = None,
                 vanished: Told | None = None, *, renamed: ToldBoth | None = None,
                 changed: ToldBoth | None = None, looked: Callable[[], object] | None = None,
                 known: Iterable[Interface] | None = None, interval: float = 10.0,
                 share: float = 0.01) -> None:
        check_patterns(patterns)
        self._appeared, self._vanished = appeared, vanished
        self._renamed, self._changed, self._looked = renamed, changed, looked
        self._interval, self._share = interval, share
        self._patterns = tuple(patterns)
        self.problems: tuple[str, ...] = ()
        self.looks = 0
        # Before the first look, so that nothing falls in between.
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK
                                     | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._wake = -1
        try:
            self._socket.bind((0, _RTMGRP_LINK))
            present = matching(self._patterns, interfaces()) if known is None else known
            self._known = {interface.index: interface for interface in present}
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._socket.close()
            raise
        self._lock, self._ending = threading.Lock(), False
        if known is not None:
            os.eventfd_write(self._wake, 1)
        # A thread begins in the namespace of the one that starts it.
        self._thread = threading.Thread(target=self._run, name='xdp-interfaces', daemon=True)
        self._thread.start()

    def present(self) -> list[Interface]:
        """Return the interfaces that were told and are there, as they were last seen."""
        return [*self._known.copy().values()]

    def set_patterns(self, patterns: Sequence[str]) -> None:
        """
        Watch other patterns from now on; what they add or drop is told soon.

        :raises InterfaceError: when a pattern makes no sense; nothing changes then
        """
        check_patterns(patterns)
        with self._lock:
            self._patterns = tuple(patterns)
            if not self._ending:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """
        End the thread, after the callback that it is in; once more is no error.

        The caller must hold no lock that a callback waits for.
        """
        with self._lock:
            if not self._ending:
                self._ending = True
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        pause = 0.0
        try:
            while not self._ending:
                # What comes during the pause waits in the socket, or overflows it: one look does.
                self._sleep(pause)
                try:
                    poll.poll(self._interval * 1000)
                    self._sleep(_TOGETHER)
                    if not self._ending:
                        pause = min(self._round() / self._share, _LONGEST_PAUSE)
                except Exception as error:  # whatever it is, the next look may succeed
                    self._note(error, 'look at the interfaces: ')
                    pause = _LONGEST_PAUSE
        finally:
            # Under the lock: whoever sees that it has not ended may write to `_wake`.
            with self._lock:
                self._ending = True
                self._socket.close()
                os.close(self._wake)

    def _round(self) -> float:
        """Look once and tell; return the seconds of a processor that the look took."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self.problems = ()
        before = time.thread_time()
        found = self._look(self._take())
        took = time.thread_time() - before
        for callback, *told in found:
            self._tell(callback, *told)
        self._tell(self._looked)
        return took

    def _sleep(self, seconds: float) -> None:
        """Sleep, unless it ends."""
        deadline = time.monotonic() + seconds
        while not self._ending and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _take(self) -> set[int]:
        """Empty the socket; return the indices of interfaces that were said to be gone."""
        gone = set()
        while not self._ending:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: more changed than was kept; the look finds it
                continue
            for kind, _flags, _sequence, body in messages(data):
                # Of a bridge (AF_BRIDGE) it says that a port left, not that it is gone.
                if kind == RTM_DELLINK and body[:1] == b'\0':
                    gone.add(struct.unpack_from('=i', body, _INDEX_AT)[0])
        return gone

    def _look(self, gone: set[int]) -> list[tuple]:
        """Compare what is there with what was; return what to tell, as (callback, *arguments)."""
        self.looks += 1
        present = {interface.index: interface
                   for interface in matching(self._patterns, interfaces())}
        known, found = self._known, []
        self._known = present
        for index, before in [*known.items()]:
            if index not in present or index in gone:
                del known[index]
                found.append((self._vanished, before))
        for index, now in present.items():
            before = known.get(index)
            if before is None:
                found.append((self._appeared, now))
                continue
            if before.name != now.name:
                found.append((self._renamed, before, now))
            if any(getattr(before, name) != getattr(now, name) for name in _CHANGES):
                found.append((self._changed, before, now))
        return found

    def _tell(self, callback: Callable | None, *arguments: Interface) -> None:
        if callback is None or self._ending:
            return
        try:
            callback(*arguments)
        except Exception as error:  # the other interfaces are told all the same
            self._note(error)

    def _note(self, error: Exception, what: str = '') -> None:
        self.problems += (f'{what}{str(error) or type(error).__name__}',)
