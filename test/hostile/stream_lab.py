"""Random conversations for a time, accelerated and plain: `stream_lab.py SECONDS`."""

import json
import os
from pathlib import Path
import sys
import time

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from isolation import isolate  # noqa: E402
from random_streams import converse  # noqa: E402
from support.leaks import PIN_PREFIX  # noqa: E402
from support.processes import PathProcess  # noqa: E402

_ENROLLED, _PLAIN, _AT_ONCE, _STEPS = 23800, 23999, 32, 80


def main():
    """Hold them, and print what went and how."""
    until = time.monotonic() + float(sys.argv[1])
    isolate()
    pins = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_streams'
    held = enrolled = plain = 0
    with PathProcess([[_ENROLLED, _ENROLLED]], budget_bytes=1 << 17, pin_directory=pins) as path:
        try:
            while time.monotonic() < until:
                enrolled += converse(_ENROLLED, held, _AT_ONCE, _STEPS)
                plain += converse(_PLAIN, held, _AT_ONCE, _STEPS)
                held += _AT_ONCE
            counters = path.ask('counters')
        finally:
            path.ask('cleanup')
    print(json.dumps({
        'conversations': held, 'enrolled_bytes': enrolled, 'plain_bytes': plain,
        **{name: count for name, count in counters.items() if count and name.startswith(
            ('redirected', 'passed', 'budget', 'returned'))}}))


if __name__ == '__main__':
    main()
