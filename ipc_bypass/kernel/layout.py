"""
Where the fields of a compiled struct stand, taken from what the compiler wrote.

BCC's own description of a map's types leaves out `__attribute__((aligned))`, so offsets made
from it are wrong; the BTF that the compiler writes has the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math
import struct

from ipc_bypass.kernel.btf import Btf

_FORMATS = {(1, False): 'B', (2, False): 'H', (4, False): 'I', (8, False): 'Q',
            (1, True): 'b', (2, True): 'h', (4, True): 'i', (8, True): 'q'}


@dataclass(frozen=True)
class FieldLayout:
    """
    One field.

    `offset` and `size` in bytes, from the start of the struct and of the whole field; `format`
    a letter of the module struct ('s': `size` bytes of text or of something without a number
    form, '': a struct, in `nested`); `shape` the lengths of an array, () for one value.
    """

    offset: int
    size: int
    format: str  # noqa: A003
    shape: tuple[int, ...] = ()
    nested: StructLayout | None = None


@dataclass(frozen=True)
class StructLayout:
    """
    A struct as compiled: its name, its size in bytes, its fields in their order.

    Members of anonymous members are the struct's own; bit-fields are left out.
    """

    name: str
    size: int
    fields: dict[str, FieldLayout]

    def dtype_dict(self) -> dict:
        """Return what `numpy.dtype()` takes, with offsets and itemsize as compiled."""
        return {'names': list(self.fields), 'itemsize': self.size,
                'offsets': [field.offset for field in self.fields.values()],
                'formats': [_numpy_format(field) for field in self.fields.values()]}

    def unpack(self, data: bytes | bytearray | memoryview, offset: int = 0) -> dict:
        """
        Return the fields of a struct that starts at a byte of `data`.

        A number is an int, an array of numbers a flat tuple, text is bytes up to its first NUL,
        a struct is a dict, an array of structs a list of dicts.

        :raises struct.error: when `data` is too short
        """
        values: dict = {}
        for name, field, form, many in self._plan:
            start = offset + field.offset
            if form is None:
                each = field.nested.size
                values[name] = [field.nested.unpack(data, start + each * index)
                                for index in range(math.prod(field.shape))]
            else:
                values[name] = form.unpack_from(data, start)
            if field.format == 's':
                values[name] = values[name][0].split(b'\0', 1)[0]
            elif not many:
                values[name] = values[name][0]
        return values

    def pack(self, values: dict) -> bytes:
        """
        Return a struct with these values, zeros for what is not named.

        :raises KeyError: when there is no such field
        """
        block = bytearray(self.size)
        for name, value in values.items():
            field = self.fields[name]
            many = value if field.shape and field.format != 's' else [value]
            if field.nested is not None:
                for index, one in enumerate(many):
                    start = field.offset + index * field.nested.size
                    block[start:start + field.nested.size] = field.nested.pack(one)
            else:
                struct.pack_into(_struct_format(field), block, field.offset, *many)
        return bytes(block)

    @classmethod
    def from_btf(cls, btf: Btf, type_id: int) -> StructLayout:
        """Return the layout of a struct or union of a BTF object; raises ValueError."""
        fields: dict[str, FieldLayout] = {}
        try:
            _collect(btf, type_id, 0, fields)
        except RecursionError:
            raise ValueError(f'a struct {btf.name(type_id)} that holds itself') from None
        return cls(btf.name(type_id), btf.type_size(type_id), fields)

    @classmethod
    def from_dict(cls, entry: dict | None) -> StructLayout | None:
        """Return what `dataclasses.asdict` and JSON made of a layout; None of None."""
        if entry is None:
            return None
        return cls(entry['name'], entry['size'], {
            name: FieldLayout(**{**field, 'shape': tuple(field['shape']),
                                 'nested': cls.from_dict(field['nested'])})
            for name, field in entry['fields'].items()})

    @cached_property
    def _plan(self) -> list[tuple[str, FieldLayout, struct.Struct | None, bool]]:
        return [(name, field,
                 None if field.nested else struct.Struct(_struct_format(field)),
                 bool(field.shape)) for name, field in self.fields.items()]


def _collect(btf: Btf, type_id: int, base: int, fields: dict[str, FieldLayout]) -> None:
    """Add the members of a type that starts at byte `base`."""
    for member in btf.members(type_id):
        resolved = btf.resolve(member.type_id)
        offset = base + member.bit_offset // 8
        if not member.name:
            _collect(btf, resolved, offset, fields)
        elif not member.bits:
            fields[member.name] = _field(btf, resolved, offset)


def _field(btf: Btf, type_id: int, offset: int) -> FieldLayout:
    size, shape = btf.type_size(type_id), []
    while btf.kind(type_id) == 'array':
        element, count = btf.array(type_id)
        shape.append(count)
        type_id = btf.resolve(element)
    kind = btf.kind(type_id)
    if kind in ('struct', 'union'):
        return FieldLayout(offset, size, '', tuple(shape), StructLayout.from_btf(btf, type_id))
    if kind == 'pointer':
        return FieldLayout(offset, size, 'Q', tuple(shape))
    if kind == 'int' and btf.name(type_id) == '_Bool':
        return FieldLayout(offset, size, '?', tuple(shape))
    form = None
    if kind in ('int', 'enum') and not (shape and btf.name(type_id) == 'char'):
        form = _FORMATS.get((btf.type_size(type_id), btf.is_signed(type_id)))
    return FieldLayout(offset, size, form or 's', tuple(shape) if form else ())


def _struct_format(field: FieldLayout) -> str:
    return f'={field.size}s' if field.format == 's' else \
        f'={math.prod(field.shape)}{field.format}'


def _numpy_format(field: FieldLayout):
    if field.nested is not None:
        form = field.nested.dtype_dict()
    elif field.format == 's':
        return f'S{field.size}'
    elif field.format == '?':
        form = '?'
    else:
        form = ('i' if field.format.islower() else 'u') + str(struct.calcsize('=' + field.format))
    return (form, field.shape) if field.shape else form
