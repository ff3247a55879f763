"""A few BPF instructions as bytes, for programs so small that no compiler is needed."""

from __future__ import annotations

import struct
import sys

# Helpers' numbers, `enum bpf_func_id` in uapi/linux/bpf.h.
GET_CURRENT_PID_TGID = 14
SOCK_HASH_UPDATE = 70
MSG_REDIRECT_HASH = 71
MAP_POP_ELEM = 88
SK_STORAGE_GET = 107
PROBE_READ_KERNEL = 113
RINGBUF_OUTPUT = 130
SKC_TO_TCP_SOCK = 137


def move(register: int, value: int) -> bytes:
    """Return `register = value`."""
    return _instruction(0xb7, register, 0, 0, value)


def copy(register: int, source: int) -> bytes:
    """Return `register = source`."""
    return _instruction(0xbf, register, source)


def frame_address(register: int, offset: int) -> bytes:
    """Return `register = stack pointer + offset`; the offset is negative."""
    return copy(register, 10) + _instruction(0x07, register, 0, 0, offset)


def zero_frame(offset: int, size: int) -> bytes:
    """Return stores of zeros to `size` bytes of stack, a multiple of 8, from an offset on."""
    return b''.join(_instruction(0x7a, 10, 0, offset + step, 0) for step in range(0, size, 8))


def load64(register: int, source: int, offset: int) -> bytes:
    """Return `register = *(u64 *)(source + offset)`."""
    return _instruction(0x79, register, source, offset)


def load32(register: int, source: int, offset: int) -> bytes:
    """Return `register = *(u32 *)(source + offset)`."""
    return _instruction(0x61, register, source, offset)


def compare_exchange64(target: int, source: int, offset: int) -> bytes:
    """Return: where `*(u64 *)(target + offset)` is register 0, make it `source`, at once."""
    return _instruction(0xdb, target, source, offset, 0xf1)  # BPF_ATOMIC, BPF_CMPXCHG


def map_address(register: int, fd: int) -> bytes:
    """Return `register = address of the map behind fd` (two instructions)."""
    return _instruction(0x18, register, 1, 0, fd) + _instruction(0, 0, 0, 0, 0)


def skip_if_zero(register: int, skipped: bytes) -> bytes:
    """Return `skipped`, jumped over when the register is 0."""
    return _instruction(0x15, register, 0, len(skipped) // 8, 0) + skipped


def call(helper: int) -> bytes:
    """Return a call of a helper."""
    return _instruction(0x85, 0, 0, 0, helper)


def leave(value: int) -> bytes:
    """Return `return value`."""
    return move(0, value) + _instruction(0x95)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0,
                 value: int = 0) -> bytes:
    """Return a `struct bpf_insn`; the two register numbers share a byte."""
    registers = target | source << 4 if sys.byteorder == 'little' else target << 4 | source
    return struct.pack('=BBhi', code, registers, offset, value)
