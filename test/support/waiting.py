"""Wait for something that the kernel or another process does in its own time."""

import os
import time

#: Seconds. A test never asserts a time; this is when it gives up, later in an emulated machine.
PATIENCE = 30.0 * float(os.environ.get('IPC_BYPASS_TEST_PATIENCE', '1'))


def wait_until(condition, what, timeout=PATIENCE, interval=0.01):
    """Return the first true answer of `condition()`; raises AssertionError naming `what`."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f'{what}: not within {timeout:g} s, last answer {answer!r}')
        time.sleep(interval)
