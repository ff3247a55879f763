"""
Compile a program file so that some of its definitions can be filled in later.

It is compiled three times, each open definition standing for other numbers: two that nothing else
would be, and a small one. The results must be the same but for immediate values, and each of
those must be the same sum of the open definitions in all three. Where the compiler has done
anything else with such a number, as to compare it or to take a part of it, the build fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import mmap
from pathlib import Path
import re
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import CompileError
from ipc_bypass.kernel.headers import HeaderTree
from ipc_bypass.kernel.loader import ProgramSpec, read_source, run_compiler
from ipc_bypass.kernel.prebuilt import Number, Prebuilt, PrebuiltMap
from ipc_bypass.kernel.prebuilt_files import is_open
from ipc_bypass.kernel.uapi import MapFlag, MapType

_WIDE = 'OFFSET_'
_INSTRUCTION = struct.Struct('=BBhI')
_ARRAY_OF_MAPS, _LOAD_64, _PSEUDO_MAP_FD = 12, 0x18, 1
_INNER = re.compile(r'^BPF_ARRAY_OF_MAPS\((\w+), "(\w+)"', re.MULTILINE)
_OF_DEVICES = (MapType.DEVMAP, MapType.DEVMAP_HASH)
# Sums of up to two of each have one reading only, up to 2 GiB, for 15 definitions; far from what
# a field of 16 bits could hold, so that no offset of a load takes them in.
_UNIT, _BASE, _MOST = 64, 3, 15
# Even, since one mask of a byte has its lowest bit clear; never a single bit, which the
# compiler would test in another way.
_BYTES = ((0x2c, 0x5a, 0x06), (0x34, 0x6a, 0x0a), (0x1a, 0x56, 0x12))
_SIZES = ((1008, 1010, 48), (1014, 1022, 50))


def compile_prebuilt(source: Path, definitions: Mapping[str, int | str],
                     programs: Sequence[ProgramSpec], headers: HeaderTree) -> Prebuilt:
    """
    Return a program file as it can be loaded for any values of its open definitions.

    :param definitions: as for `loader.load_object`; the values of open ones say nothing, but for
        `prebuilt_files.UNKNOWN`
    :raises CompileError: when it does not compile, or an open definition went where it cannot be
        filled in
    """
    opened = [name for name, value in sorted(definitions.items()) if is_open(name, value)]
    stand_ins = _stand_ins(opened)
    first, *others = (_Compiled(source, {**definitions, **numbers}, programs, headers)
                      for numbers in (stand_ins if opened else stand_ins[:1]))
    reader = _Reader(source.name, stand_ins)
    inner = dict(_INNER.findall(read_source(source)))
    walked = {name: reader.walk(name, first, others) for name in first.code}
    return Prebuilt(
        source.name, {name: _without_maps(block, walked[name][0])
                      for name, block in first.code.items()},
        {name: _map_of(name, [first, *others], reader, inner.get(name, ''))
         for name in first.maps},
        {name: places for name, (places, _) in walked.items()},
        {name: values for name, (_, values) in walked.items()})


class _Compiled:
    """What the compiler made of a file: `code`, `maps`, and the numbers by which it names them."""

    def __init__(self, source, definitions, programs, headers) -> None:
        with run_compiler(source, definitions, programs, None, headers=headers,
                          template=True) as (found, answer):
            self.code = {name: bytes.fromhex(text) for name, text in answer['code'].items()}
            self.map_names = {answer['numbers'][name]: name for name in answer['numbers']}
            self.maps = {name: (syscall.map_info(entry.fd), entry.key, entry.value)
                         for name, entry in found.maps.items()}


class _Reader:
    """Reads what became of open definitions, from the numbers that stand for a sum of them."""

    def __init__(self, source_name: str, stand_ins: Sequence[Mapping[str, int]]) -> None:
        self._source_name, self._stand_ins = source_name, stand_ins
        self._wide = sorted((name for name in stand_ins[0] if name.startswith(_WIDE)),
                            key=lambda name: -stand_ins[0][name])

    def number(self, values: Sequence[int], where: str) -> Number:
        """Return what stands for these, one of each result."""
        if len(set(values)) == 1:
            return Number(values[0], {})
        found = next((Number(0, {name: 1}) for name in self._stand_ins[0]
                      if self._stand_ins[0][name] == values[0]), None) or self._sum(values[0])
        if [found.value(numbers) for numbers in self._stand_ins] != list(values):
            raise self._error(f'{where} is made of open definitions in another way than by a sum')
        return found

    def _sum(self, value: int) -> Number:
        times, rest = {}, value + _UNIT // 2
        for name in self._wide:
            count, rest = divmod(rest, self._stand_ins[0][name])
            if count:
                times[name] = count
        return Number(rest - _UNIT // 2, times)

    def walk(self, program: str, first: _Compiled, others: Sequence[_Compiled]):
        """
        Compare a program's results.

        :returns: [(offset in bytes, map name)] of the instructions that name a map, and
            [(offset in bytes, Number)] of those with an open value
        """
        compiled = [first, *others]
        blocks = [each.code[program] for each in compiled]
        if len({len(block) for block in blocks}) != 1:
            raise self._error(f'{program} is not of the same length for other numbers')
        places, values, upper = [], [], False
        for offset in range(0, len(blocks[0]), 8):
            seen = [_INSTRUCTION.unpack_from(block, offset) for block in blocks]
            where = f'instruction {offset // 8} of {program}'
            if len({each[:3] for each in seen}) != 1:
                raise self._error(f'{where} is another one for other numbers')
            (code, registers, _, _), immediates = seen[0], [each[3] for each in seen]
            wide = code == _LOAD_64 and not upper
            if wide and registers >> 4 == _PSEUDO_MAP_FD:
                names = {each.map_names.get(fd)
                         for each, fd in zip(compiled, immediates, strict=True)}
                if len(names) != 1 or None in names:
                    raise self._error(f'{where} names another map for other numbers')
                places.append((offset, names.pop()))
            elif len(set(immediates)) != 1:
                if wide or upper:
                    raise self._error(f'{where} has an open value of 64 bits')
                values.append((offset, self.number(immediates, where)))
            upper = wide
        return places, values

    def _error(self, reason: str) -> CompileError:
        return CompileError(f'compile {self._source_name} for later', reason, next_step='write '
                            'the program otherwise, or keep the definition closed '
                            '(ipc_bypass.kernel.prebuilt_files)')


def _stand_ins(opened: Sequence[str]) -> list[dict[str, int]]:
    """Return three sets of numbers for the open definitions, by name."""
    wide = [name for name in opened if name.startswith(_WIDE)]
    sizes = [name for name in opened if name.startswith('MAX_')]
    small = [name for name in opened if name not in (*wide, *sizes)]
    if len(wide) > _MOST or len(sizes) > len(_SIZES) or len(small) > len(_BYTES):
        raise CompileError('compile for later', 'there are too many open definitions')
    found: list[dict[str, int]] = [{}, {}, {}]
    for number, name in enumerate(wide):
        found[0][name] = _UNIT * _BASE ** (number + 1)
        found[1][name] = _UNIT * _BASE ** (len(wide) - number) + _UNIT * (number % 2)
        found[2][name] = 24 + 8 * number
    for names, numbers in ((small, _BYTES), (sizes, _SIZES)):
        for name, row in zip(names, numbers, strict=False):
            for each, value in zip(found, row, strict=True):
                each[name] = value
    return found


def _without_maps(code: bytes, places: Sequence[tuple[int, str]]) -> bytes:
    """Return the instructions without this build's numbers of maps: two builds are the same."""
    block = bytearray(code)
    for offset, _ in places:
        block[offset + 4:offset + 8] = bytes(4)
    return bytes(block)


def _map_of(name: str, compiled: Sequence[_Compiled], reader: _Reader, inner: str) -> PrebuiltMap:
    info, key, value = compiled[0].maps[name]
    flags = info.flags
    # The kernel sets this flag itself, and takes it from none.
    if info.type in _OF_DEVICES:
        flags &= ~MapFlag.RDONLY_PROG
    if info.type == _ARRAY_OF_MAPS and inner not in compiled[0].maps:
        raise CompileError('compile for later', f'it is not said what maps {name} has')
    if info.type == MapType.PERF_EVENT_ARRAY:
        entries = None
    elif info.type == MapType.RINGBUF:
        entries = Number(info.max_entries // mmap.PAGESIZE, {})
    else:
        entries = reader.number([each.maps[name][0].max_entries for each in compiled],
                                f'the size of {name}')
    return PrebuiltMap(info.type, info.key_size, info.value_size, entries, flags, key, value,
                       inner)
