"""
Look into an XSKMAP.

The kernel lets user space write its entries, not read them (nor can bpftool print them), but a
program may look an entry up and read struct bpf_xdp_sock (uapi/linux/bpf.h, from 5.3).
"""

from __future__ import annotations

import os
import struct
import sys

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.instructions import call, copy, frame_address, leave, load32, map_address
from ipc_bypass.kernel.uapi import ProgType

_MAP_LOOKUP_ELEM = 1  # enum bpf_func_id
# What is added to a queue in the program's answer: 0 is no entry.
_FOUND = 1
#: Bytes of the shortest packet that PROG_TEST_RUN takes, with a margin.
_PACKET = 64


def bound_queues(fd: int, entries: int) -> dict[int, int]:
    """
    Return {key: the queue that its socket is bound to} of the entries that hold a socket.

    :param fd: of the map
    :param entries: how many the map has
    :raises UnsupportedError: the kernel does not let a program do it
    """
    try:
        program = syscall.prog_load(ProgType.XDP, _code(fd), name='xsk_look')
    except OSError as error:
        raise UnsupportedError('look into an XSKMAP', errno=error.errno or 0,
                               next_step='use kernel 5.3 or later, with CAP_BPF and '
                               'CAP_NET_ADMIN') from error
    try:
        answers = {key: syscall.prog_test_run(
            program, struct.pack('=I', key).ljust(_PACKET, b'\0'))[0] for key in range(entries)}
    finally:
        os.close(program)
    return {key: answer - _FOUND for key, answer in answers.items() if answer >= _FOUND}


def _code(fd):
    """Return a program that looks up the key that stands at a packet's start."""
    found = load32(0, 0, 0) + _instruction(0x07, 0, 0, 0, _FOUND) + _instruction(0x95)
    look = (load32(5, 2, 0) + _instruction(0x63, 10, 5, -4)  # *(u32 *)(r10 - 4) = r5
            + map_address(1, fd) + frame_address(2, -4) + call(_MAP_LOOKUP_ELEM)
            + _instruction(0x15, 0, 0, len(found) // 8, 0) + found)  # if r0 == 0
    return (load32(2, 1, 0) + load32(3, 1, 4) + copy(4, 2)  # struct xdp_md: data, data_end
            + _instruction(0x07, 4, 0, 0, 4)
            + _instruction(0x2d, 4, 3, len(look) // 8, 0)  # if r4 > r3
            + look + leave(0))


def _instruction(code, target=0, source=0, offset=0, value=0):
    """Return a `struct bpf_insn`; the two register numbers share a byte."""
    registers = target | source << 4 if sys.byteorder == 'little' else target << 4 | source
    return struct.pack('=BBhi', code, registers, offset, value)
