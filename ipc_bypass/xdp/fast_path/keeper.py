"""
The thread that keeps the tables true: takes out at the kernel's word, puts in after a look.

What a message casts doubt upon goes out of use before anything else is done. It comes back after
all was read anew, if nothing came meanwhile. That this thread has read every message up to a time
is what it says to the program: without that, everything goes by the bridge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import errno
import fcntl
import os
import select
import threading
import time
from typing import Protocol

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.errors import AttachError
from ipc_bypass.xdp.fast_path.attach import (
    other_programs,
    remove_leftovers,
    TcAttachments,
)
from ipc_bypass.xdp.fast_path.changes import Changes, Doubt
from ipc_bypass.xdp.fast_path.containers import BridgePort, other_traffic_control, Picture, read
from ipc_bypass.xdp.fast_path.rtnetlink import Asking, Link, Listening, PLACES, TABLES

#: Seconds without a further change before all is read anew; at most so long after the first.
_QUIET, _LONGEST_WAIT = 0.02, 0.2
#: Seconds until another look after an error.
_AGAIN = 0.5
_BEATS = 4  # within the time after which the tables are stale
_NOTHING = Picture({}, {}, {})


class KeptTables(Protocol):
    """What a keeper writes; see tables.Tables."""

    def disable(self, indices: Iterable[int] | None = None) -> None:
        """Take ports out of use at once, by ifindex; all of them for None."""

    def write(self, ports: Mapping[int, BridgePort]) -> list[int]:
        """Prepare what these ports are; return those that are to be activated."""

    def activate(self, indices: Iterable[int]) -> None:
        """Bring prepared ports into use."""

    def beat(self, until_ns: int) -> None:
        """Say that the tables are good until then."""


class Keeper:
    """
    Works in the network namespace of the thread that makes it, from then until close().

    `problem` is what went wrong at the last look, '' when all is well.

    :param bridges: globs of names
    :param attachments: keeps the program at every port, and ends with this; None where others do
    :param past_xdp: whether frames go past an XDP program in the container
    :param heartbeat_ms: how long the tables are good without a word from here
    :param interval: seconds between two looks without a message
    :param share: of one processor that looks may take; where that is more they come more seldom
    :raises BypassError: when the kernel tells nothing, or nothing can be attached
    """

    def __init__(self, tables: KeptTables, bridges: Sequence[str],
                 attachments: TcAttachments | None, *, past_xdp: bool = True,
                 heartbeat_ms: int = 500, interval: float = 2.0, share: float = 0.005) -> None:
        self._tables, self._bridges = tables, tuple(bridges)
        self._heartbeat_ns, self._interval, self._share = heartbeat_ms * 10**6, interval, share
        self._attachments, self._past_xdp = attachments, past_xdp
        self._picture, self._changes = _NOTHING, Changes(_NOTHING)
        self.problem, self._pending, self._unsafe = '', False, False
        self._ending, self._closed = False, False
        self._parts = contextlib.ExitStack()
        try:
            if attachments is not None:
                self._parts.callback(os.close, _take_namespace())
                self._parts.callback(attachments.detach_all)
            self._asking = self._parts.enter_context(Asking())
            self._listening = [Listening(PLACES, neighbours=True),
                               Listening(TABLES, neighbours=False)]
            for each in self._listening:
                self._parts.callback(each.close)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._parts.callback(os.close, self._wake)
            if attachments is not None:
                remove_leftovers(self._asking)
            self._pending = not self._look()
            self._beat()
        except OSError as error:
            self._parts.close()
            raise BypassError('read the bridges and their ports', errno=error.errno or 0,
                              next_step='needs CAP_NET_ADMIN; see: ip link') from error
        except BaseException:
            self._parts.close()
            raise
        self._thread = threading.Thread(target=self._run, name='fast-path-keeper', daemon=True)
        self._thread.start()

    @property
    def way(self) -> str:
        """Return how the program is attached: 'tcx', 'clsact', '' where it is nowhere yet."""
        return self._attachments.way if self._attachments else ''

    @property
    def ports(self) -> dict[int, BridgePort]:
        """Return the ports as they were at the last look, by ifindex."""
        return self._picture.ports

    def look_soon(self) -> None:
        """Have all read anew, as after something that no message tells of."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Take everything out of use, and detach; once more is no error."""
        if self._closed:
            return
        self._closed = True
        self._ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._parts.close()

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with contextlib.ExitStack() as ending:
                if self._attachments is not None:
                    # Here, as this thread is in the namespace of the interfaces.
                    ending.callback(self._attachments.detach_all)
                self._tables.disable()

    def _work(self) -> None:
        poll = select.poll()
        for each in (*self._listening, self._wake):
            poll.register(each, select.POLLIN)
        beat = self._heartbeat_ns / 1e9 / _BEATS
        first_change = last_change = time.monotonic()
        next_look = first_change + self._interval
        while not self._ending:
            due = next_look
            if self._pending:
                due = min(last_change + _QUIET, first_change + _LONGEST_WAIT)
            poll.poll(max(0.0, min(beat, due - time.monotonic())) * 1000)
            try:
                changed = self._beat()
            except Exception as error:  # all goes by the bridge; a later look may end well
                self._give_up(error)
                changed = True
                time.sleep(beat)
            now = time.monotonic()
            if changed:
                first_change = first_change if self._pending else now
                self._pending, last_change = True, now
                due = min(last_change + _QUIET, first_change + _LONGEST_WAIT)
            if now >= due and not self._ending:
                before = time.thread_time()
                self._pending = not self._try_look()
                first_change = last_change = time.monotonic()
                took = (time.thread_time() - before) / self._share
                next_look = last_change + (_AGAIN if self.problem
                                           else max(self._interval, took))

    def _beat(self) -> bool:
        """Read what has come, then say that the tables are good; return whether to look anew."""
        now = time.monotonic_ns()
        if self._unsafe:
            self._put_out()
        doubt = self._take()
        self._tables.beat(now + self._heartbeat_ns)
        with contextlib.suppress(BlockingIOError):
            doubt.look |= bool(os.eventfd_read(self._wake))
        return doubt.look

    def _take(self) -> Doubt:
        """Read what has come, and put out of use what is not sure any more."""
        doubt = Doubt()
        for each in self._listening:
            for message in each.take():
                self._changes.take(message, doubt)
                if doubt.everything:
                    self._tables.disable()
                elif doubt.ports:
                    self._tables.disable(doubt.ports)
        return doubt

    def _try_look(self) -> bool:
        """Look anew; return False where that has to be done again at once."""
        try:
            ended = self._look()
        except Exception as error:  # the next one may end well
            self._give_up(error)
            return True
        self.problem = ''
        return ended

    def _look(self) -> bool:
        """Read all, and write what changed; return False where something came meanwhile."""
        picture = read(self._asking, self._bridges, self._traffic_control,
                       past_xdp=self._past_xdp)
        self._picture = picture
        self._changes = Changes(picture, every_link=not self._past_xdp)
        if self._attachments is not None:
            self._attach()
        written = self._tables.write(picture.ports)
        # Messages since the beginning of the reading, held against what was read.
        doubt = self._take()
        if not doubt.everything:
            self._tables.activate(set(written) - doubt.ports)
        return not doubt.look

    def _attach(self) -> None:
        for index in self._attachments.indices() - self._picture.ports.keys():
            self._attachments.detach(index)
        for index in self._picture.ports:
            try:
                self._attachments.attach(index)
            except BypassError as error:
                if error.errno != errno.ENODEV:  # it has just gone
                    raise

    def _traffic_control(self, port: Link, kinds: set[str]) -> str:
        ours = self._attachments.program_id if self._attachments else 0
        return other_traffic_control(kinds) or other_programs(self._asking, port.index, kinds,
                                                              ours)

    def _give_up(self, error: Exception) -> None:
        """Put everything out of use after an error; the next look may end well."""
        self.problem = str(error) or type(error).__name__
        with contextlib.suppress(Exception):  # then the tables are stale without a beat
            self._put_out()

    def _put_out(self) -> None:
        """Put everything out of use; until that is done, nothing says that the tables are good."""
        self._unsafe = True
        self._tables.disable()
        self._unsafe = False


def _take_namespace() -> int:
    """
    Return a descriptor that is this process's right to the namespace, until it is closed.

    Two would each take the other's program for a stranger's, and a filter for a leftover.
    """
    fd = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise AttachError('attach the container fast path', 'another process has it in this '
                          'network namespace', errno=error.errno,
                          next_step='stop that node') from error
    return fd
