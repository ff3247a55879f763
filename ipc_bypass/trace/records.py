"""The records of sends: read from the perf buffers of all processors by one thread."""

import bisect
from dataclasses import dataclass
import os
import re
import select
import struct
import threading
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.trace import perf

#: Mirrors of struct trace_record and struct trace_totals of trace_path.h, for kernels
#: that take no type information from the compiler; a test holds them against it.
RECORD = struct.Struct('=QQ16s16sHHBBHII')
TOTALS = struct.Struct('=8Q')
_TIME = struct.Struct('=Q')


@dataclass(frozen=True)
class Send:
    """
    A send that succeeded.

    Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, the source's zeros where the socket is bound
    to none; `length` is what the kernel took, `data` the first bytes of it; `cookie` 0 where the
    kernel has not numbered the socket.
    """

    capture_ns: int
    cookie: int
    source_address: bytes
    destination_address: bytes
    source_port: int
    destination_port: int
    family: int
    transport: str
    length: int
    sender_pid: int
    data: bytes


def unpack(sample):
    """Return the Send of a sample of the perf buffer."""
    (capture_ns, cookie, source, destination, source_port, destination_port, family, transport,
     copied, length, pid) = RECORD.unpack_from(sample)
    return Send(capture_ns, cookie, source, destination, source_port, destination_port, family,
                'tcp' if transport == 2 else 'udp', length, pid,
                sample[RECORD.size:RECORD.size + copied])


class RecordReader:
    """
    A thread that takes samples as they come and gives them to a function, in order of their times.

    `read` and `lost` count samples; those that the kernel had no room for are known when it has
    room again, or when the reader ends.
    """

    def __init__(self, map_fd, size, take):
        """
        Open the buffers and start.

        :param map_fd: the program's map of perf events, by processor
        :param size: bytes of a buffer, a power of two of pages
        :param take: called with a list of samples, in this thread
        :raises OSError: with the kernel's errno
        """
        self.read = self.lost = 0
        self._take, self._map_fd = take, map_fd
        self._buffers, self._poll = {}, select.poll()
        self._end_read, self._end_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = None
        try:
            for cpu in _online():
                buffer = perf.Buffer(cpu, size)
                self._buffers[buffer.fd] = buffer
                syscall.map_update(map_fd, struct.pack('=I', cpu), struct.pack('=I', buffer.fd))
                self._poll.register(buffer.fd, select.POLLIN)
        except BaseException:
            self._release()
            raise
        self._poll.register(self._end_read, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name='trace-records', daemon=True)
        self._thread.start()

    def close(self):
        """Take what is there, and end; nothing may write any more."""
        os.write(self._end_write, b'.')
        self._thread.join()
        self._release()

    def _run(self):
        held, ended = [], False
        while not ended:
            ended = any(fd == self._end_read for fd, _ in self._poll.poll(0 if held else None))
            # A sender may move to a processor whose buffer is read earlier: what came meanwhile
            # waits for the next round, so that samples are given in the order of their times.
            now = time.monotonic_ns()
            for buffer in self._buffers.values():
                samples, lost = buffer.read()
                held += samples
                self.lost += lost
            held.sort(key=_capture_ns)
            ready = len(held) if ended else bisect.bisect_left(held, now, key=_capture_ns)
            self._take(held[:ready])
            self.read += ready
            del held[:ready]

    def _release(self):
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        os.close(self._end_read)
        os.close(self._end_write)


def _capture_ns(sample):
    return _TIME.unpack_from(sample)[0]


def _online(path='/sys/devices/system/cpu/online'):
    """Yield the numbers of the processors that are there."""
    with open(path) as stream:
        for first, last in re.findall(r'(\d+)(?:-(\d+))?', stream.read()):
            yield from range(int(first), int(last or first) + 1)
