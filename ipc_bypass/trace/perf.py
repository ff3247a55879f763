"""perf_event_open(2) and its buffers, as in uapi/linux/perf_event.h; only what tracing takes."""

import ctypes
import fcntl
import mmap
import os
import platform
import struct

from ipc_bypass.kernel.ordering import full_barrier, WEAK

_libc = ctypes.CDLL(None, use_errno=True)
# System call numbers of perf_event_open(2), arch/*/entry/syscalls and uapi/asm-generic/unistd.h.
_NUMBERS = {'x86_64': 298, 'i386': 336, 'i686': 336, 'aarch64': 241, 'riscv64': 241,
            'loongarch64': 241, 'armv6l': 364, 'armv7l': 364, 'ppc64le': 319, 's390x': 331}
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408

TYPE_SOFTWARE, TYPE_TRACEPOINT = 1, 2
_COUNT_SW_BPF_OUTPUT = 10
_SAMPLE_RAW = 1 << 10
# struct perf_event_attr up to config2, PERF_ATTR_SIZE_VER1: type, size, config, sample_period,
# sample_type, read_format, flags, wakeup_events, bp_type, config1, config2.
_ATTR = struct.Struct('=IIQQQQQIIQQ')
# Words of struct perf_event_mmap_page.
_DATA_HEAD, _DATA_TAIL = 1024 // 8, 1032 // 8
_RECORD_LOST, _RECORD_SAMPLE = 2, 9
_HEADER = struct.Struct('=IHH')


def open_event(kind, config, cpu, *, sample_type=0, wakeup_events=0, config1=0, config2=0):
    """
    Open an event of all processes on a processor and return its descriptor.

    :raises OSError: with the kernel's errno
    """
    attr = ctypes.create_string_buffer(_ATTR.pack(
        kind, _ATTR.size, config, 1 if wakeup_events else 0, sample_type, 0, 0, wakeup_events,
        0, config1, config2))
    fd = _libc.syscall(ctypes.c_long(_NUMBERS.get(platform.machine(), -1)), attr, -1, cpu, -1,
                       ctypes.c_ulong(_FLAG_FD_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f'perf_event_open: {os.strerror(number)}')
    return fd


def run_program(event, program):
    """Have a program run at each occurrence of a probe's event, from now on."""
    fcntl.ioctl(event, _IOC_SET_BPF, program)
    fcntl.ioctl(event, _IOC_ENABLE, 0)


class Buffer:
    """What programs on one processor wrote, in the order in which they wrote it."""

    def __init__(self, cpu, size):
        """Map `size` bytes, a power of two of pages; raises OSError."""
        self.fd = open_event(TYPE_SOFTWARE, _COUNT_SW_BPF_OUTPUT, cpu, sample_type=_SAMPLE_RAW,
                             wakeup_events=1)
        try:
            self._map = mmap.mmap(self.fd, mmap.PAGESIZE + size)
            fcntl.ioctl(self.fd, _IOC_ENABLE, 0)
        except BaseException:
            os.close(self.fd)
            raise
        self._words = memoryview(self._map).cast('Q')
        self._data = memoryview(self._map)[mmap.PAGESIZE:]
        self._size = size

    def read(self):
        """Return (samples as bytes, how many were lost since the last read)."""
        head, tail = self._words[_DATA_HEAD], self._words[_DATA_TAIL]
        samples, lost = [], 0
        if WEAK:
            full_barrier()
        while tail < head:
            kind, _, size = _HEADER.unpack(self._bytes(tail, _HEADER.size))
            body = self._bytes(tail + _HEADER.size, size - _HEADER.size)
            if kind == _RECORD_SAMPLE:
                length, = struct.unpack_from('=I', body)
                samples.append(body[4:4 + length])
            elif kind == _RECORD_LOST:
                lost += struct.unpack_from('=QQ', body)[1]
            tail += size
        if WEAK:
            full_barrier()
        self._words[_DATA_TAIL] = tail
        return samples, lost

    def close(self):
        """Unmap and close."""
        self._words.release()
        self._data.release()
        self._map.close()
        os.close(self.fd)

    def _bytes(self, place, size):
        """Return a copy of so many bytes; the buffer is a ring."""
        start = place % self._size
        first = bytes(self._data[start:start + size])
        return first + bytes(self._data[:size - len(first)]) if len(first) < size else first
