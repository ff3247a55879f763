"""
The rate of this host's time-stamp counter, which is that of an emulated machine, too.

A kernel finds it out at its start, by counting while a timer runs. Where qemu has to wait for a
processor meanwhile, it is wrong by any factor, and the machine's clock with it: seconds become a
fraction of one, and whatever waits for something gives up too early. So the kernel is told.
"""

import ctypes
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ = b'\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3'
_SECONDS, _LOOKS = 0.2, 20


def counter_khz():
    """Return the rate in kHz, None where the processor has another kind of counter."""
    if platform.machine() != 'x86_64':
        return None
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
                   ) as page:
        page.write(_READ)
        place = ctypes.c_char.from_buffer(page)
        try:
            read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
            first = _look(read)
            time.sleep(_SECONDS)
            last = _look(read)
        finally:
            del place
    return round((last[1] - first[1]) * 1e6 / (last[0] - first[0]))


def _look(read):
    """Return (nanoseconds, counter), of the look that took the shortest time."""
    def look():
        before = time.monotonic_ns()
        value = read()
        after = time.monotonic_ns()
        return after - before, (before + after) / 2, value
    return min(look() for _ in range(_LOOKS))[1:]
