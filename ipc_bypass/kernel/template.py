"""
A program that is compiled once and loaded often, each time with maps of its own.

The compiler's child hands over the instructions; maps and programs are then made by bpf(2)
alone, in about a millisecond and without a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import errno
import os
from pathlib import Path
import struct

from ipc_bypass.kernel import logs, syscall
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import BypassError, LoaderError, UnsupportedError, VerifierError
from ipc_bypass.kernel.headers import HeaderTree
from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.kernel.loader import LoadedMap, LoadedObject, ProgramSpec, run_compiler
from ipc_bypass.kernel.uapi import MapFlag, MapType, ProgFlag

# BPF_LD | BPF_DW | BPF_IMM with a map's descriptor, uapi/linux/bpf.h.
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1
_WITH_INNER_MAP = (12, 13)  # array and hash of maps
_OF_DEVICES = (MapType.DEVMAP, MapType.DEVMAP_HASH)
_CAPABILITIES = ('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')
_LOG_BYTES = 1 << 24


@dataclass(frozen=True)
class MapShape:
    """A map as declared: sizes in bytes, and the structs that are its key and value."""

    type: int  # noqa: A003
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: StructLayout | None
    value: StructLayout | None


@dataclass(frozen=True)
class Template:
    """
    A compiled program file: `code` and `kinds` by program, `maps` by name.

    `places` are, by program, the offsets of the instructions that name a map, in bytes.
    """

    name: str
    code: dict[str, bytes]
    kinds: dict[str, ProgramSpec]
    maps: dict[str, MapShape]
    places: dict[str, tuple[tuple[int, str], ...]] = field(repr=False)

    def instantiate(self, *, reuse: Mapping[str, int] | None = None,
                    sizes: Mapping[str, int] | None = None, frags: bool = False,
                    ) -> LoadedObject:
        """
        Make the maps and load the programs.

        :param reuse: descriptors of maps to use instead of new ones; they are duplicated
        :param sizes: other numbers of entries, by map
        :param frags: whether XDP programs may see packets of several buffers
        :raises VerifierError: when the kernel refuses a program
        :raises PrivilegeError: when a capability is missing
        :raises BypassError: when a map cannot be made
        """
        reuse, sizes = reuse or {}, sizes or {}
        loaded = LoadedObject()
        try:
            for name, shape in self.maps.items():
                loaded.maps[name] = self._map(name, shape, reuse.get(name), sizes.get(name))
            for name in self.code:
                loaded.programs[name] = self._load(name, loaded.maps, frags)
                loaded.program_info[name] = syscall.prog_info(loaded.programs[name])
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _map(self, name: str, shape: MapShape, fd: int | None, size: int | None) -> LoadedMap:
        entries = size or shape.max_entries
        if fd is not None:
            info = syscall.map_info(fd)
            if (info.type, info.key_size, info.value_size) != (
                    shape.type, shape.key_size, shape.value_size):
                raise LoaderError(f'load {self.name}', f'the map {name} has another shape',
                                  next_step='do not keep the maps of the earlier program')
            new, entries = os.dup(fd), info.max_entries
        else:
            try:
                new = syscall.map_create(shape.type, shape.key_size, shape.value_size, entries,
                                         shape.flags, name)
            except OSError as error:
                raise _map_error(f'create map {name} of {self.name}', error) from error
        return LoadedMap(new, shape.type, shape.key_size, shape.value_size, entries, shape.key,
                         shape.value)

    def _load(self, name: str, maps: Mapping[str, LoadedMap], frags: bool) -> int:
        code, spec = bytearray(self.code[name]), self.kinds[name]
        for offset, map_name in self.places[name]:
            struct.pack_into('=i', code, offset + 4, maps[map_name].fd)
        what = f'load program {name} of {self.name}'
        try:
            return syscall.prog_load(
                spec.prog_type, bytes(code), name=name, attach_type=spec.attach_type or 0,
                flags=ProgFlag.XDP_HAS_FRAGS if frags else 0, log_bytes=_LOG_BYTES)
        except syscall.ProgLoadError as error:
            if error.errno == errno.EPERM and not error.log:
                raise privilege_error(what, _CAPABILITIES, error.errno) from error
            if error.errno == errno.EINVAL and not error.log.strip():
                raise UnsupportedError(what, 'the kernel does not know this kind of program, or '
                                       'this flag', errno=error.errno,
                                       next_step='see: ipc-bypass doctor') from error
            raise VerifierError(what, logs.verifier_reason(error.log) or os.strerror(error.errno),
                                errno=error.errno, log=error.log,
                                next_step='the full log is given at log level debug') from error


def compile_template(source: Path, definitions: Mapping[str, int | str],
                     programs: Sequence[ProgramSpec], *, layouts: Sequence[str] = (),
                     headers: HeaderTree | None = None) -> Template:
    """
    Compile a file and return what it takes to load it.

    :param source: a .bpf.c file; headers beside it, and ours, are found
    :param definitions: names and values as if by #define
    :param programs: the functions to load
    :param layouts: names of further structs whose layout is wanted; a map must hold them
    :raises BypassError: as `loader.load_object` does
    """
    with run_compiler(source, definitions, programs, None, layouts=layouts, headers=headers,
                      template=True) as (found, answer):
        numbers = {answer['numbers'][name]: name for name in answer['numbers']}
        code = {name: bytes.fromhex(text) for name, text in answer['code'].items()}
        shapes = {}
        for name, entry in found.maps.items():
            info = syscall.map_info(entry.fd)
            if info.type in _WITH_INNER_MAP:
                raise LoaderError(f'compile {source.name}', f'{name} is a map of maps',
                                  next_step='load it by loader.load_object')
            flags = info.flags
            # The kernel sets this flag itself, and takes it from none.
            if info.type in _OF_DEVICES:
                flags &= ~MapFlag.RDONLY_PROG
            shapes[name] = MapShape(info.type, info.key_size, info.value_size, info.max_entries,
                                    flags, entry.key, entry.value)
    return Template(source.name, code, {spec.name: spec for spec in programs}, shapes,
                    {name: tuple(_places(block, numbers, source.name))
                     for name, block in code.items()})


def _places(code: bytes, numbers: Mapping[int, str], source_name: str):
    """Yield (offset, map name) for each instruction that loads a map's address."""
    for offset in range(0, len(code), 8):
        opcode, registers, _jump, value = struct.unpack_from('=BBhi', code, offset)
        if opcode == _LOAD_64 and registers >> 4 == _PSEUDO_MAP_FD:
            if value not in numbers:
                raise LoaderError(f'compile {source_name}', 'it names a map that it does not '
                                  'declare', next_step='declare it by one of the BPF_ macros')
            yield offset, numbers[value]


def _map_error(what: str, error: OSError) -> BypassError:
    if error.errno == errno.EPERM:
        return privilege_error(what, _CAPABILITIES, error.errno)
    if error.errno == errno.EINVAL:
        return UnsupportedError(what, 'the kernel knows no such map, or not of this size',
                                errno=error.errno, next_step='see: ipc-bypass doctor')
    return BypassError(what, errno=error.errno or 0, next_step='make it smaller')
