"""
Put inputs that a fuzzer found into the corpus: `distil.py NAME FOLDER`.

libFuzzer keeps what reaches something new; some kilobytes of that are taken, by chance. Files
whose names are words are inputs that failed once, and stay.
"""

import hashlib
from pathlib import Path
import re
import sys

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from mutations import CORPUS, load  # noqa: E402

_MOST_BYTES, _MOST_FILES, _LONGEST = 6 << 10, 40, 600


def main():
    """Replace what was taken before."""
    name, found = sys.argv[1], Path(sys.argv[2])
    known = {*load(name).seeds()}
    inputs = sorted({path.read_bytes() for path in found.iterdir()} - known, key=_digest)
    target = CORPUS / name
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if re.fullmatch('[0-9a-f]{12}', path.name):
            path.unlink()
    kept = total = 0
    for data in inputs:
        if kept < _MOST_FILES and len(data) <= _LONGEST and total + len(data) <= _MOST_BYTES:
            (target / _digest(data)).write_bytes(data)
            kept, total = kept + 1, total + len(data)
    print(f'{name}: {kept} of {len(inputs)} inputs, {total} bytes')


def _digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


if __name__ == '__main__':
    main()
