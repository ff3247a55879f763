"""
What the kernel's verifier takes to check a program: the instructions that it processes.

It walks all ways through a program and gives up after LIMIT; how many that are differs from
kernel to kernel, with the same program.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct

from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.loader import LoadedObject
from ipc_bypass.kernel.template import Template
from ipc_bypass.kernel.uapi import BpfCmd

#: BPF_COMPLEXITY_LIMIT_INSNS of include/linux/bpf.h, from 5.2, for who has CAP_BPF.
LIMIT = 1_000_000
# BPF_LOG_STATS of include/linux/bpf_verifier.h: the figures and no steps.
_STATISTICS = 4
_LOG_BYTES = 1 << 16


def costs(template: Template, loaded: LoadedObject) -> dict[str, int]:
    """
    Return the instructions processed by program.

    :param loaded: what `template` became, with all its maps
    :raises OSError: when the kernel does not take a program again
    """
    return {name: info.verified_insns or processed(_log(template, name, loaded))
            for name, info in loaded.program_info.items()}


def processed(log: str) -> int:
    """Return the number of instructions in a verifier's log; raises ValueError without one."""
    match = re.search(r'^processed (\d+) insns', log, re.MULTILINE)
    if not match:
        raise ValueError('the log does not tell how many instructions were processed')
    return int(match[1])


def _log(template: Template, name: str, loaded: LoadedObject) -> str:
    """Load a program once more for its log, as kernels before 5.16 tell it nowhere else."""
    code, spec = bytearray(template.code[name]), template.kinds[name]
    for offset, map_name in template.places[name]:
        struct.pack_into('=i', code, offset + 4, loaded.maps[map_name].fd)
    block, licence = buffer_of(bytes(code)), buffer_of(b'GPL\0')
    log = ctypes.create_string_buffer(_LOG_BYTES)
    # union bpf_attr for BPF_PROG_LOAD, uapi/linux/bpf.h
    descriptor = bpf(BpfCmd.PROG_LOAD, bytearray(struct.pack(
        '=IIQQIIQII16sII', spec.prog_type, len(code) // 8, address(block), address(licence),
        _STATISTICS, _LOG_BYTES, address(log), 0, 0, name.encode()[:15], 0,
        spec.attach_type or 0)))
    os.close(descriptor)
    return log.value.decode('utf-8', 'replace')
