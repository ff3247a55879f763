"""Bytes for fuzz targets: a corpus of files, its mutations, and values taken from bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import importlib
from pathlib import Path
import random

HERE = Path(__file__).resolve().parent
CORPUS = HERE / 'corpus'
#: Most bytes of a mutated input.
LONGEST = 4096
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff,
            0x7fffffff, 0x80000000, 0xffffffff, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def targets() -> list[str]:
    """Return the names of all targets: those of the files fuzz_NAME.py."""
    return sorted(path.stem.removeprefix('fuzz_') for path in HERE.glob('fuzz_*.py'))


def load(name: str):
    """Return the module of a target: `seeds()` yields inputs, `one(data)` tries one."""
    return importlib.import_module(f'fuzz_{name}')


def inputs(name: str) -> list[bytes]:
    """Return the seeds of a target and the files of its corpus."""
    files = sorted((CORPUS / name).glob('*')) if (CORPUS / name).is_dir() else []
    return [*load(name).seeds(), *(path.read_bytes() for path in files)]


def mutated(whole: Sequence[bytes], count: int, seed: object) -> Iterator[bytes]:
    """Yield so many mutations of inputs, the same ones for the same seed."""
    chance = random.Random(str(seed))
    for _ in range(count):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            data = _mutated_once(data, whole, chance)
        yield bytes(data[:LONGEST])


def _mutated_once(data, whole, chance):
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(8)
    if kind == 0:
        data[at:at + 1] = bytes([chance.randrange(256)])
    elif kind == 1 and data:
        data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
    elif kind == 2:
        size = chance.choice((1, 2, 4, 8))
        number = chance.choice(_NUMBERS) & (1 << 8 * size) - 1
        data[at:at + size] = number.to_bytes(size, chance.choice(('little', 'big')))
    elif kind == 3:
        del data[at:at + chance.randint(1, 16)]
    elif kind == 4:
        data[at:at] = chance.randbytes(chance.randint(1, 16))
    elif kind == 5:
        other = chance.choice(whole)
        start = chance.randrange(len(other) + 1)
        data[at:] = other[start:]
    elif kind == 6:
        data[at:at] = data[at:at + chance.randint(1, 64)] * chance.randint(1, 4)
    else:
        del data[at:]
    return data


class Values:
    """Takes values from bytes; when they are used up, numbers are 0 and texts are empty."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self._data, self._at = data, 0

    def __len__(self) -> int:
        """Return how many bytes are left."""
        return max(0, len(self._data) - self._at)

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        self._at += count
        return self._data[self._at - count:self._at]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self))

    def number(self, size: int = 1) -> int:
        """Return an unsigned number of so many bytes."""
        return int.from_bytes(self.take(size), 'little')

    def choice(self, options: Sequence):
        """Return one of some options."""
        return options[self.number() % len(options)]


def only(errors: type[BaseException] | tuple[type[BaseException], ...], function,
         *arguments, **options):
    """Return what a function returns, None where it raises one of these errors."""
    try:
        return function(*arguments, **options)
    except errors:
        return None
