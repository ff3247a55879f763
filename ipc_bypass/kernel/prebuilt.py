"""
A program that was compiled when the package was built: loaded without compiler and headers.

What a program must know of the kernel (where a struct has a member) or of the settings (how many
entries a map has) was left open by the build, as places in the instructions that are filled in
here. `ipc_bypass.prebuilt.compiling` finds those places, `prebuilt_files` the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
from dataclasses import dataclass
import errno
import mmap
import os
import struct
from typing import TYPE_CHECKING

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.kernel.uapi import MapType

if TYPE_CHECKING:
    from ipc_bypass.kernel.loader import LoadedObject, ProgramSpec
    from ipc_bypass.kernel.template import Template

_CAPABILITIES = ('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')
_WORD = 1 << 32
_BTF_HEADER, _BTF_TYPE = struct.Struct('=HBBIIIII'), struct.Struct('=III')
_BTF_MAGIC, _BTF_INT, _BTF_STRUCT = 0xeb9f, 1, 4


@dataclass(frozen=True)
class Number:
    """A number that the build left open: `constant`, and so many times each definition."""

    constant: int
    times: Mapping[str, int]

    def value(self, definitions: Mapping[str, int | str]) -> int:
        """Return it for these definitions."""
        return self.constant + sum(int(definitions[name]) * times
                                   for name, times in self.times.items())


@dataclass(frozen=True)
class PrebuiltMap:
    """
    A map as declared, sizes in bytes.

    `entries` counts pages for a ring buffer; None: one for each possible processor. `inner`
    names the map whose shape those in a map of maps have.
    """

    type: int  # noqa: A003
    key_size: int
    value_size: int
    entries: Number | None
    flags: int
    key: StructLayout | None
    value: StructLayout | None
    inner: str = ''


@dataclass(frozen=True)
class Prebuilt:
    """
    A compiled program file.

    `code` by program; `places` the offsets in bytes of instructions that name a map, `opened`
    of those whose immediate value the build left open, both by program.
    """

    name: str
    code: Mapping[str, bytes]
    maps: Mapping[str, PrebuiltMap]
    places: Mapping[str, Sequence[tuple[int, str]]]
    opened: Mapping[str, Sequence[tuple[int, Number]]]

    def template(self, programs: Sequence[ProgramSpec],
                 definitions: Mapping[str, int | str]) -> Template:
        """Return the Template of some of the programs, with everything filled in."""
        from ipc_bypass.kernel.template import MapShape, Template  # it imports the loader
        code = {}
        for spec in programs:
            block = bytearray(self.code[spec.name])
            for offset, number in self.opened[spec.name]:
                struct.pack_into('=I', block, offset + 4, number.value(definitions) % _WORD)
            code[spec.name] = bytes(block)
        shapes = {name: MapShape(entry.type, entry.key_size, entry.value_size,
                                 _entries(entry, definitions), entry.flags, entry.key, entry.value)
                  for name, entry in self.maps.items()}
        return Template(self.name, code, {spec.name: spec for spec in programs}, shapes,
                        {name: tuple(self.places[name]) for name in code})

    def load(self, programs: Sequence[ProgramSpec], maps: Sequence[str],
             definitions: Mapping[str, int | str]) -> LoadedObject:
        """
        Make the maps, load programs, and hand over the maps that are named.

        :raises BypassError: as `template.Template.instantiate` does
        """
        template = self.template(programs, definitions)
        with contextlib.ExitStack() as stack:
            made = {}
            for name, entry in self.maps.items():
                if entry.type == MapType.SK_STORAGE or entry.inner:
                    made[name] = self._special_map(name, template)
                    stack.callback(os.close, made[name])
            loaded = template.instantiate(reuse=made)
        for name in set(loaded.maps) - set(maps):
            os.close(loaded.maps.pop(name).fd)
        return loaded

    def _special_map(self, name: str, template: Template) -> int:
        """Make a map that takes more than its sizes: the types in it, or a map as those in it."""
        shape, inner = template.maps[name], template.maps.get(self.maps[name].inner)
        try:
            if inner is None:
                like = {'btf_fd': syscall.btf_load(storage_types(shape.value_size)),
                        'btf_key_type': 1, 'btf_value_type': 2}
            else:
                like = {'inner_fd': syscall.map_create(inner.type, inner.key_size,
                                                       inner.value_size, inner.max_entries,
                                                       inner.flags)}
            try:
                return syscall.map_create(shape.type, shape.key_size, shape.value_size,
                                          shape.max_entries, shape.flags, name, **like)
            finally:
                os.close(like.get('btf_fd') or like['inner_fd'])
        except OSError as error:
            what = f'create map {name} of {self.name}'
            if error.errno == errno.EPERM:
                raise privilege_error(what, _CAPABILITIES, error.errno) from error
            raise UnsupportedError(what, errno=error.errno or 0,
                                   next_step='see: ipc-bypass doctor') from error


def storage_types(value_size: int) -> bytes:
    """
    Return BTF of a number of 4 bytes (id 1) and a struct of so many (id 2), as sockets' storage.

    The kernel wants to be told the types of these, and looks at their sizes only
    (kernel/bpf/bpf_local_storage.c); Documentation/bpf/btf.rst has the form.
    """
    names = b'\0word\0value\0'
    types = _BTF_TYPE.pack(1, _BTF_INT << 24, 4) + struct.pack('=I', 32) + _BTF_TYPE.pack(
        names.index(b'value'), _BTF_STRUCT << 24, value_size)
    return _BTF_HEADER.pack(_BTF_MAGIC, 1, 0, _BTF_HEADER.size, 0, len(types), len(types),
                            len(names)) + types + names


def _entries(entry: PrebuiltMap, definitions: Mapping[str, int | str]) -> int:
    if entry.entries is None:
        return syscall.possible_cpus()
    number = entry.entries.value(definitions)
    # A page has 4, 16 or 64 KiB: the machine that it runs on says which.
    return number * mmap.PAGESIZE if entry.type == MapType.RINGBUF else number
