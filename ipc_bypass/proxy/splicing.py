"""
One direction of a connection, moved by this process.

Small reads are copied; as soon as a read fills the buffer, the bytes go by splice(2): their pages
move from socket to pipe to socket. What the target does not take waits, and nothing more is read
meanwhile, so that TCP's own back-pressure reaches the sender.
"""

from __future__ import annotations

import fcntl
import os
import socket

#: Bytes that are copied at most at once; a read of so many goes on by splice(2).
COPY = 64 << 10
#: Bytes that splice(2) is asked for, which is what an ordinary user's pipe may hold.
CHUNK = 1 << 20
# Below this, a copy takes fewer instructions than two calls that move pages.
_WORTH_A_SPLICE = 16 << 10
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
#: How often splice(2) may see nothing where there is something, one time after the other.
_MISSES = 3
#: Rounds for one direction before others have their turn.
_ROUNDS = 4


class PipePool:
    """Pipes for what is on its way; kept when they are empty, so that few calls make them."""

    def __init__(self, keep: int = 64) -> None:
        self._free: list[tuple[int, int]] = []
        self._keep = keep

    def take(self) -> tuple[int, int]:
        """Return the (reading, writing) descriptors of an empty pipe; raises OSError."""
        if self._free:
            return self._free.pop()
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, CHUNK)
        except OSError:
            pass  # more than this user may have: it holds less
        return reading, writing

    def give(self, pipe: tuple[int, int]) -> None:
        """Take back a pipe that is empty."""
        if len(self._free) < self._keep:
            self._free.append(pipe)
        else:
            self.drop(pipe)

    @staticmethod
    def drop(pipe: tuple[int, int]) -> None:
        """Close a pipe, with what it holds."""
        for fd in pipe:
            os.close(fd)

    def close(self) -> None:
        """Close those that are free."""
        while self._free:
            self.drop(self._free.pop())


class Direction:
    """
    From one socket to the other, both non-blocking.

    `moved` counts the bytes that the target took; `blocked` says that it does not take more now,
    `dry` that the source had no more at the last read, `ended` that it never will, `shut` that the
    target was told so.
    """

    __slots__ = ('source', 'target', 'moved', 'blocked', 'dry', 'ended', 'shut', '_pipes', '_pipe',
                 '_piped', '_rest', '_large', '_may_splice',
                 '_misses', '_buffer')

    def __init__(self, source: socket.socket, target: socket.socket, pipes: PipePool,
                 buffer: bytearray) -> None:
        """
        Move nothing yet.

        :param buffer: of COPY bytes, that directions of one thread share
        """
        self.source, self.target = source, target
        self.moved = 0
        self.blocked = self.dry = self.ended = self.shut = False
        self._pipes, self._buffer = pipes, buffer
        self._pipe: tuple[int, int] | None = None
        self._misses = 0
        self._piped, self._rest, self._large, self._may_splice = 0, b'', False, True

    @property
    def empty(self) -> bool:
        """Return whether all that was read was written."""
        return not self._piped and not self._rest

    @property
    def read(self) -> int:
        """Return how many bytes were read of the source."""
        return self.moved + self._piped + len(self._rest)

    def copy_only(self) -> None:
        """Use no splice(2) for this source from now on."""
        self._may_splice = self._large = False

    def pump(self) -> bool:
        """
        Move what there is, as far as the target takes it; return whether there may be more.

        :raises OSError: when one of the two sockets failed
        """
        if not self.flush():
            return False
        if self.ended:
            return False
        for _ in range(_ROUNDS):
            if not (self._splice() if self._large else self._copy()):
                return False
        return True

    def flush(self) -> bool:
        """Write what was read before; return whether all of it is written. Raises OSError."""
        if self._rest:
            try:
                sent = self.target.send(self._rest)
            except BlockingIOError:
                sent = 0
            self.moved += sent
            self._rest = self._rest[sent:]
        if not self._rest and self._piped:
            self._drain()
        self.blocked = not self.empty
        if self.ended and not self.blocked and not self.shut:
            self.shut = True
            self.target.shutdown(socket.SHUT_WR)
        return not self.blocked

    def drop(self) -> None:
        """Let go of what was not written."""
        self._rest = b''
        if self._pipe is not None:
            (self._pipes.drop if self._piped else self._pipes.give)(self._pipe)
            self._pipe, self._piped = None, 0

    def _copy(self) -> bool:
        """Copy one read; return whether there may be more to read now."""
        try:
            got = self.source.recv_into(self._buffer)
        except BlockingIOError:
            self.dry = True
            return False
        self.dry = False
        if not got:
            return self._end()
        self._large = got == COPY and self._may_splice
        with memoryview(self._buffer) as view:
            try:
                sent = self.target.send(view[:got])
            except BlockingIOError:
                sent = 0
            self.moved += sent
            if sent < got:
                self._rest = bytes(view[sent:got])
                self.blocked = True
        return got == COPY and not self.blocked

    def _splice(self) -> bool:
        """Move one pipe full; return whether there may be more to read now."""
        if self._pipe is None:
            self._pipe = self._pipes.take()
        try:
            got = os.splice(self.source.fileno(), self._pipe[1], CHUNK, flags=_FLAGS)
        except BlockingIOError:
            self._give_back()
            return self._copy_after_all()
        self.dry, self._misses = False, 0
        if not got:
            self._give_back()
            return self._end()
        self._piped += got
        self._large = got >= _WORTH_A_SPLICE
        self._drain()
        self.blocked = self._piped > 0
        return not self.blocked

    def _copy_after_all(self) -> bool:
        """Copy what splice(2) does not see: of a socket in a sockmap it always answers EAGAIN."""
        before = self.read
        more = self._copy()
        if self.read != before:
            self._misses += 1
            if self._misses == _MISSES:
                self.copy_only()
        return more

    def _drain(self) -> None:
        """Move the pipe's bytes into the target, as far as it takes them."""
        while self._piped:
            try:
                sent = os.splice(self._pipe[0], self.target.fileno(), self._piped, flags=_FLAGS)
            except BlockingIOError:
                return
            if not sent:
                raise BrokenPipeError('the target takes no more')
            self._piped -= sent
            self.moved += sent
        self._give_back()

    def _give_back(self) -> None:
        if self._pipe is not None and not self._piped:
            self._pipes.give(self._pipe)
            self._pipe = None

    def _end(self) -> bool:
        """Tell the target that no more comes; return False."""
        self.ended = True
        self.flush()
        return False
