"""
Try the corpus and mutations of it, without atheris: `replay.py COUNT NAME...`.

Prints a JSON object a target: name, tried, seconds, failed (None, or the input in hexadecimal and
what it raised). The same mutations each time; what a target writes to standard output is no
concern of anybody's.
"""

import json
import os
from pathlib import Path
import sys
import time
import traceback

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from isolation import isolate  # noqa: E402
from mutations import inputs, load, mutated  # noqa: E402


def main():
    """Try each; return 0, or 1 where an input failed."""
    count, names = int(sys.argv[1]), sys.argv[2:]
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    isolate()
    failed = False
    for name in names:
        found = _replay(name, count)
        failed |= found['failed'] is not None
        print(json.dumps(found), file=out, flush=True)
    return int(failed)


def _replay(name, count):
    target, begun, tried = load(name), time.monotonic(), 0
    whole = inputs(name)
    failed = None
    for data in (*whole, *mutated(whole, count // getattr(target, 'COST', 1), name)):
        tried += 1
        try:
            target.one(data)
        except Exception as error:
            traceback.print_exc()
            failed = f'{data.hex()}: {type(error).__name__}: {error}'
            break
    return {'name': name, 'tried': tried, 'failed': failed,
            'seconds': round(time.monotonic() - begun, 2)}


if __name__ == '__main__':
    sys.exit(main())
