"""
An object file with one program that goes on into another: what libxdp asks for, without clang.

libxdp takes an ELF file of a program with BTF, since its dispatcher calls programs by their
types. Ours are loaded without one. So the dispatcher gets a program of five instructions, written
here, that tail-calls what stands in its map, and passes where nothing stands there.
Layout: elf(5), the kernel's Documentation/bpf/btf.rst, libbpf's map definitions in BTF.
"""

from __future__ import annotations

import struct
import sys

from ipc_bypass.kernel import instructions
from ipc_bypass.kernel.uapi import MapType

#: The map with the one program that is gone on into.
MAP = 'xdp_entry'
_PASS, _TAIL_CALL = 2, 12
_ARRAY_BYTES = 32  # of the map's definition: four pointers
# enum btf kinds, uapi/linux/btf.h
_INT, _PTR, _ARRAY, _STRUCT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = 1, 2, 3, 4, 12, 13, 14, 15
_SIGNED, _GLOBAL = 1, 1
_BTF_MAGIC = 0xeb9f
# elf(5)
_PROGBITS, _SYMTAB, _STRTAB, _REL = 1, 2, 3, 9
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_EM_BPF, _R_BPF_64_64 = 247, 1
_OBJECT, _FUNCTION = 0x11, 0x12  # of global binding


class _Strings:
    """A table of strings, each ended by a zero; the first is empty."""

    def __init__(self) -> None:
        self.data = bytearray(b'\0')

    def add(self, text: str) -> int:
        """Add a string and return where it begins."""
        if not text:
            return 0
        at = len(self.data)
        self.data += text.encode('ascii') + b'\0'
        return at


def entry_object(name: str, *, section: str = 'xdp') -> bytes:
    """
    Return the object file.

    :param name: the program's name; the kernel keeps 15 bytes of it
    :param section: 'xdp', or 'xdp.frags' for a program that takes frames of several pieces
    """
    # struct xdp_md stands in register 1, where the helper wants it.
    code = (instructions.map_address(2, 0) + instructions.move(3, 0)
            + instructions.call(_TAIL_CALL) + instructions.leave(_PASS))
    # The map's address is filled in by the loader: no descriptor stands there.
    code = code[:1] + bytes([code[1] & 0x0f if sys.byteorder == 'little' else code[1] & 0xf0]) \
        + code[2:]
    btf, extension = _types(name, section)
    symbols = _Strings()
    # st_name, st_info, st_other, st_shndx, st_value, st_size; sections are counted below.
    table = bytes(24) + b''.join(
        struct.pack('=IBBHQQ', symbols.add(text), kind, 0, number, 0, size)
        for text, kind, number, size in ((name, _FUNCTION, 1, len(code)),
                                         (MAP, _OBJECT, 3, _ARRAY_BYTES),
                                         ('_license', _OBJECT, 4, 4)))
    relocation = struct.pack('=QQ', 0, 2 << 32 | _R_BPF_64_64)  # symbol 2 is the map
    return _elf([
        # name, type, flags, link, info, alignment, size of an entry, content
        (section, _PROGBITS, _ALLOC | _EXECUTE, 0, 0, 8, 0, code),
        (f'.rel{section}', _REL, 0, 7, 1, 8, 16, relocation),
        ('.maps', _PROGBITS, _ALLOC | _WRITE, 0, 0, 8, 0, bytes(_ARRAY_BYTES)),
        ('license', _PROGBITS, _ALLOC | _WRITE, 0, 0, 1, 0, b'GPL\0'),
        ('.BTF', _PROGBITS, 0, 0, 0, 4, 0, btf),
        ('.BTF.ext', _PROGBITS, 0, 0, 0, 4, 0, extension),
        ('.symtab', _SYMTAB, 0, 8, 1, 8, 24, table),
        ('.strtab', _STRTAB, 0, 0, 0, 1, 0, bytes(symbols.data)),
    ])


def _types(name: str, section: str) -> tuple[bytes, bytes]:
    """Return the sections .BTF and .BTF.ext; the numbers are those of the types before."""
    text = _Strings()

    def kind(number: int, named: str, value: int, *, count: int = 0) -> bytes:
        return struct.pack('=III', text.add(named), number << 24 | count, value)

    def array(elements: int) -> bytes:
        return kind(_ARRAY, '', 0) + struct.pack('=III', 1, 2, elements)

    def members(*pairs: tuple[str, int], bits: int) -> bytes:
        return b''.join(struct.pack('=III', text.add(member), number, index * bits)
                        for index, (member, number) in enumerate(pairs))

    fields = ('data', 'data_end', 'data_meta', 'ingress_ifindex', 'rx_queue_index',
              'egress_ifindex')
    types = b''.join((
        kind(_INT, 'int', 4) + struct.pack('=I', _SIGNED << 24 | 32),  # 1
        kind(_INT, '__ARRAY_SIZE_TYPE__', 4) + struct.pack('=I', 32),  # 2
        # A number in a map's definition is a pointer to an array of that many elements.
        array(MapType.PROG_ARRAY), kind(_PTR, '', 3),  # 3, 4
        array(4), kind(_PTR, '', 5),  # 5, 6
        array(1), kind(_PTR, '', 7),  # 7, 8
        kind(_STRUCT, '', _ARRAY_BYTES, count=4),  # 9
        members(('type', 4), ('key_size', 6), ('value_size', 6), ('max_entries', 8), bits=64),
        kind(_VAR, MAP, 9) + struct.pack('=I', _GLOBAL),  # 10
        kind(_DATASEC, '.maps', _ARRAY_BYTES, count=1),  # 11
        struct.pack('=III', 10, 0, _ARRAY_BYTES),
        kind(_INT, 'unsigned int', 4) + struct.pack('=I', 32),  # 12
        kind(_STRUCT, 'xdp_md', 4 * len(fields), count=len(fields)),  # 13
        members(*((field, 12) for field in fields), bits=32),
        kind(_PTR, '', 13),  # 14
        kind(_FUNC_PROTO, '', 1, count=1) + struct.pack('=II', text.add('ctx'), 14),  # 15
        kind(_FUNC, name, 15, count=_GLOBAL),  # 16
    ))
    place, line = text.add(section), text.add('return xdp_entry')
    btf = struct.pack('=HBBIIIII', _BTF_MAGIC, 1, 0, 24, 0, len(types), len(types),
                      len(text.data)) + types + text.data
    # Of each function: where its first instruction is, and its type.
    functions = struct.pack('=IIIII', 8, place, 1, 0, 16)
    # Of each line: the instruction, its file, its text, its number and column.
    lines = struct.pack('=IIIIIII', 16, place, 1, 0, line, line, 1 << 10)
    extension = struct.pack('=HBBIIIII', _BTF_MAGIC, 1, 0, 24, 0, len(functions),
                            len(functions), len(lines)) + functions + lines
    return btf, extension


def _elf(sections: list[tuple]) -> bytes:
    """Return a relocatable file of these sections, counted from 1, and one of their names."""
    names, body, headers = _Strings(), bytearray(64), [bytes(64)]
    sections = [*sections, ('.shstrtab', _STRTAB, 0, 0, 0, 1, 0, None)]
    places = [names.add(section[0]) for section in sections]
    for place, (_name, kind, flags, link, info, alignment, entry, given) in zip(
            places, sections, strict=True):
        content = bytes(names.data) if given is None else given
        body += bytes(-len(body) % alignment)
        headers.append(struct.pack('=IIQQQQIIQQ', place, kind, flags, 0, len(body), len(content),
                                   link, info, alignment, entry))
        body += content
    body += bytes(-len(body) % 8)
    order = 1 if sys.byteorder == 'little' else 2
    body[:64] = b'\x7fELF' + bytes([2, order, 1, 0]) + bytes(8) + struct.pack(
        '=HHIQQQIHHHHHH', 1, _EM_BPF, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(headers),
        len(headers) - 1)
    return bytes(body) + b''.join(headers)
