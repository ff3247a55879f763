"""Programs on raw tracepoints: run at a tracepoint of the kernel, with its own arguments."""

from __future__ import annotations

import errno
import struct

from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.uapi import BpfCmd


def open_raw_tracepoint(name: str, program: int) -> int:
    """
    Run a program at a tracepoint until the returned descriptor is closed.

    :param name: of the tracepoint, without its group
    :param program: descriptor of a program of the kind RAW_TRACEPOINT (kernel 4.17)
    :raises UnsupportedError: when the kernel has no such tracepoint
    :raises PrivilegeError: when it takes a capability that is missing
    """
    text = buffer_of(name.encode() + b'\0')
    try:
        return bpf(BpfCmd.RAW_TRACEPOINT_OPEN,
                   bytearray(struct.pack('=QI4x', address(text), program)))
    except OSError as error:
        what = f'attach to the tracepoint {name}'
        if error.errno in (errno.EPERM, errno.EACCES):
            raise privilege_error(what, ['CAP_PERFMON', 'CAP_BPF'], error.errno) from error
        reason = 'the kernel has no such tracepoint' if error.errno == errno.ENOENT else ''
        raise UnsupportedError(what, reason, errno=error.errno or 0) from error
