"""Wait until programs have ended, by the kernel's own grace periods."""

import ctypes
import platform
import time

#: System call number of membarrier(2) by machine.
_MEMBARRIER = {'x86_64': 324, 'aarch64': 283, 'riscv64': 283}
_GLOBAL = 1


def wait_for_programs():
    """
    Wait until every program that was running when this was called has ended.

    A global membarrier(2) is a grace period of RCU, under which programs run, and a full memory
    barrier on every thread of every process; where the kernel refuses it (nohz_full), a tenth of
    a second has to do.
    """
    number = _MEMBARRIER.get(platform.machine())
    if number is None or ctypes.CDLL(None).syscall(number, _GLOBAL, 0, 0) != 0:
        time.sleep(0.1)
