"""
Read BTF, the compiler's own description of types, of the kernel or of one of our programs.

The format is that of Documentation/bpf/btf.rst in the kernel's source.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
import os
import struct
import sys

from ipc_bypass.kernel.errors import UnsupportedError

# enum BTF_KIND_*
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = 9, 10, 11, 12, 13, 14, 15
_FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = 16, 17, 18, 19
_TRANSPARENT = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
_KINDS = {_INT: 'int', _PTR: 'pointer', _ARRAY: 'array', _STRUCT: 'struct', _UNION: 'union',
          _ENUM: 'enum', _ENUM64: 'enum', _FLOAT: 'float'}
# Bytes after the 12 of struct btf_type: fixed, and for each of `vlen` elements.
_EXTRA = [0] * 32
_EACH = [0] * 32
for _kind, _size in ((_INT, 4), (_ARRAY, 12), (_VAR, 4), (_DECL_TAG, 4)):
    _EXTRA[_kind] = _size
for _kind, _size in ((_STRUCT, 12), (_UNION, 12), (_ENUM, 8), (_FUNC_PROTO, 8), (_DATASEC, 12),
                     (_ENUM64, 12)):
    _EACH[_kind] = _size
_HEADER = struct.Struct('=HBBIIIII')
_MAGIC = 0xeb9f


@dataclass(frozen=True)
class Member:
    """A member of a struct or union; `bit_offset` from its start, `bits` 0 if no bit-field."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


class Btf:
    """
    A BTF object.

    :param data: the object's bytes
    :raises ValueError: when they are not BTF; later, from every method, when a type makes no sense
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, size, types, type_bytes, strings, string_bytes = _HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError(f'not BTF: {error}') from error
        if magic != _MAGIC:
            raise ValueError(f'not BTF of this byte order: magic {magic:#x}')
        self._data = data
        self._strings = data[size + strings:size + strings + string_bytes]
        if size + types + type_bytes > len(data):
            raise ValueError('not BTF: it is cut off')
        self._offsets = self._index(size + types, size + types + type_bytes)

    @classmethod
    def from_kernel(cls, path: str | os.PathLike = '/sys/kernel/btf/vmlinux') -> Btf:
        """
        Read the running kernel's BTF.

        :raises UnsupportedError: when the kernel offers none
        """
        try:
            with open(path, 'rb') as stream:
                return cls(stream.read())
        except (OSError, ValueError) as error:
            raise UnsupportedError(
                f'read type information of the kernel, {path}',
                getattr(error, 'strerror', None) or str(error),
                errno=getattr(error, 'errno', None) or 0,
                next_step='use a kernel with CONFIG_DEBUG_INFO_BTF (from 5.4; Debian 11, '
                'Ubuntu 20.10 and later have it)') from error

    def offset(self, type_name: str, path: str) -> int:
        """
        Return the offset of a member in bytes.

        :param type_name: name of a struct or union, for example 'tcp_sock'
        :param path: member, dotted for members of members ('__sk_common.skc_cookie'). Members
            of anonymous members count as the type's own, and so do those of a struct that
            stands at its very start ('tcp_sock', 'sk_protocol' is found in its sock).
        :raises UnsupportedError: when there is no such type or member, or it is a bit-field
        """
        for start, bits in self._places(type_name, path):
            if not bits and start % 8 == 0:
                return start // 8
        raise _missing(f'{type_name}.{path}', 'there is no such member')

    def bit_field(self, type_name: str, path: str) -> tuple[int, int]:
        """
        Return where a bit-field is: the offset of its byte, and its mask in that byte.

        :param type_name: as for offset()
        :param path: as for offset()
        :raises UnsupportedError: when there is no such bit-field, or it is not within one byte
        """
        for start, bits in self._places(type_name, path):
            if bits and start % 8 + bits <= 8:
                # Bits are counted as they are laid out: from the lowest one up on little-endian
                # machines, from the highest one down on the others.
                shift = start % 8 if sys.byteorder == 'little' else 8 - start % 8 - bits
                return start // 8, ((1 << bits) - 1) << shift
        raise _missing(f'{type_name}.{path}', 'there is no such bit-field of one byte')

    def enumerator(self, name: str) -> int:
        """Return the number of an enumeration's entry; raises UnsupportedError."""
        names = self._string_offsets(name)
        for type_id in range(1, len(self._offsets)):
            _, kind, signed, count, _ = self._head(type_id)
            if kind not in (_ENUM, _ENUM64):
                continue
            entry = struct.Struct(('=Ii' if signed else '=II') if kind == _ENUM else
                                  ('=Iq' if signed else '=IQ'))
            start = self._offsets[type_id] + 12
            for offset, number in entry.iter_unpack(
                    self._data[start:start + count * entry.size]):
                if offset in names:
                    return number
        raise _missing(name, 'there is no such enumerator')

    def size(self, type_name: str) -> int:
        """Return the size of a struct, union or typedef in bytes; raises UnsupportedError."""
        return self.type_size(self.struct_id(type_name))

    def struct_id(self, type_name: str) -> int:
        """Return the id of a struct, union, or of what a typedef of this name stands for."""
        for type_id in self._find(type_name, (_STRUCT, _UNION)):
            return type_id
        for type_id in self._find(type_name, (_TYPEDEF,)):
            return self.resolve(type_id)
        raise UnsupportedError(f'find type {type_name}', 'the type information has no such type')

    def kind(self, type_id: int) -> str:
        """Return 'int', 'pointer', 'array', 'struct', 'union', 'enum', 'float' or 'other'."""
        return _KINDS.get(self._head(type_id)[1] if type_id else 0, 'other')

    def name(self, type_id: int) -> str:
        """Return the type's name, '' for an anonymous one."""
        return self._string(self._head(type_id)[0]) if type_id else ''

    def resolve(self, type_id: int) -> int:
        """Return the type behind typedefs and qualifiers."""
        for _ in self._offsets:
            if not type_id:
                break
            _, kind, _, _, target = self._head(type_id)
            if kind not in _TRANSPARENT:
                break
            type_id = target
        else:
            raise ValueError('BTF whose types stand for each other')
        return type_id

    def type_size(self, type_id: int) -> int:
        """Return the size of a type in bytes."""
        times = 1
        for _ in self._offsets:
            type_id = self.resolve(type_id)
            kind = self._head(type_id)[1] if type_id else 0
            if kind != _ARRAY:
                break
            type_id, count = self.array(type_id)
            times *= count
        else:
            raise ValueError('BTF with an array of itself')
        if kind == _PTR:
            return times * struct.calcsize('P')
        if kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT):
            return times * self._head(type_id)[4]
        return 0

    def is_signed(self, type_id: int) -> bool:
        """Return whether an int or enum is signed."""
        _, kind, flag, _, _ = self._head(type_id)
        if kind == _INT:
            encoding, = struct.unpack_from('=I', self._data, self._offsets[type_id] + 12)
            return bool(encoding >> 24 & 1)
        return flag

    def array(self, type_id: int) -> tuple[int, int]:
        """Return the element's type id and the number of elements of an array type."""
        element, _, count = struct.unpack_from('=III', self._data, self._offsets[type_id] + 12)
        return element, count

    def members(self, type_id: int) -> Iterator[Member]:
        """Yield the members of a struct or union, in their order."""
        _, kind, flag, count, _ = self._head(type_id)
        if kind not in (_STRUCT, _UNION):
            raise ValueError(f'BTF whose type {type_id} has no members')
        for name, member, offset in struct.iter_unpack('=III', self._data[
                self._offsets[type_id] + 12:self._offsets[type_id] + 12 + 12 * count]):
            bits = offset >> 24 if flag else 0
            yield Member(self._string(name), member, offset & 0xffffff if flag else offset, bits)

    def _index(self, position: int, end: int) -> array:
        """Return where each type stands, by its id."""
        offsets = array('I', [0])
        append, read = offsets.append, struct.Struct('=I').unpack_from
        data, extra, each = self._data, _EXTRA, _EACH
        while position < end:
            append(position)
            if position + 12 > end:
                break
            info = read(data, position + 4)[0]
            kind = info >> 24 & 31
            position += 12 + extra[kind] + each[kind] * (info & 0xffff)
        if position != end:
            raise ValueError('not BTF: its last type is cut off')
        return offsets

    def _head(self, type_id: int) -> tuple[int, int, bool, int, int]:
        """Return name offset, kind, kind flag, number of elements, and size or type id."""
        if not 0 < type_id < len(self._offsets):
            raise ValueError(f'BTF without the type {type_id}')
        name, info, size = struct.unpack_from('=III', self._data, self._offsets[type_id])
        return name, info >> 24 & 31, bool(info >> 31), info & 0xffff, size

    def _string(self, offset: int) -> str:
        return self._strings[offset:self._strings.index(b'\0', offset)].decode()

    def _string_offsets(self, text: str) -> set[int]:
        """Return where a whole string stands among the strings."""
        wanted, found, position = b'\0' + text.encode() + b'\0', set(), -1
        while (position := self._strings.find(wanted, position + 1)) >= 0:
            found.add(position + 1)
        return found

    def _find(self, name: str, kinds: tuple[int, ...]) -> Iterator[int]:
        """Yield the ids of the types with this name, of these kinds."""
        names = self._string_offsets(name)
        read, data = struct.Struct('=II').unpack_from, self._data
        for type_id in range(1, len(self._offsets)):
            name_offset, info = read(data, self._offsets[type_id])
            if name_offset in names and info >> 24 & 31 in kinds:
                yield type_id

    def _places(self, type_name: str, path: str) -> Iterator[tuple[int, int]]:
        """Yield (offset in bits, length if a bit-field, else 0) in each type of a name."""
        for type_id in self._find(type_name, (_STRUCT, _UNION)):
            try:
                place = self._place(type_id, path.split('.'))
            except RecursionError:
                raise ValueError(f'BTF with a {type_name} that holds itself') from None
            if place is not None:
                yield place

    def _place(self, type_id: int, path: list[str]) -> tuple[int, int] | None:
        """Return the offset in bits, and the length if a bit-field, of a member of a type."""
        type_id = self.resolve(type_id)
        if self.kind(type_id) not in ('struct', 'union'):
            return None
        first = None
        for member in self.members(type_id):
            inner = None
            if member.name == path[0]:
                if len(path) == 1:
                    return member.bit_offset, member.bits
                inner = self._place(member.type_id, path[1:])
                if inner is None:
                    return None
            elif not member.name:
                inner = self._place(member.type_id, path)
            elif first is None and member.bit_offset == 0:
                first = member.type_id
            if inner is not None:
                return member.bit_offset + inner[0], inner[1]
        return None if first is None else self._place(first, path)


def _missing(what: str, reason: str) -> UnsupportedError:
    return UnsupportedError(f'find {what} in the type information', reason,
                            next_step=f'report the release of this kernel ({os.uname().release})')
