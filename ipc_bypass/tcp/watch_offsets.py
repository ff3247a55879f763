"""Where this kernel keeps what the program that watches readers looks at, from its BTF."""

import platform

from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.prebuilt_files import UNKNOWN

#: Number of splice(2), the member of struct pt_regs that holds a system call's number, and what
#: may be left free below the registers (TOP_OF_KERNEL_STACK_PADDING, asm/thread_info.h), in bytes.
_MACHINES = {'x86_64': (275, 'orig_ax', (0, 16)), 'aarch64': (76, 'syscallno', (0,))}
#: THREAD_SIZE of both, but with KASAN or large pages; a trial says whether it is right.
_STACK_BYTES = 16384


def watch_definitions(btf):
    """
    Return what bpf/tcp_watch.bpf.c may be told of a kernel, from its Btf: a list.

    The first of which a trial shows that it is right holds. Empty where the kernel lacks a part.
    """
    number, member, paddings = _MACHINES.get(platform.machine(), (0, '', ()))
    try:
        found = {'OFFSET_COOKIE': btf.offset('sock', '__sk_common.skc_cookie'),
                 'OFFSET_RCVTIMEO': btf.offset('sock', 'sk_rcvtimeo'),
                 'OFFSET_STACK': btf.offset('task_struct', 'stack'), 'NUMBER_SPLICE': number,
                 'OFFSET_OWNED': _owned(btf)}
        if not paddings:
            return [{**found, 'OFFSET_SYSCALL': 0}]
        foot = _STACK_BYTES - btf.size('pt_regs') + btf.offset('pt_regs', member)
    except UnsupportedError:
        return []
    return [{**found, 'OFFSET_SYSCALL': foot - padding} for padding in paddings]


def _owned(btf):
    """Return where a socket says that a system call has it; UNKNOWN where it cannot be had."""
    try:
        return btf.offset('sock', 'sk_lock.owned')
    except UnsupportedError:
        return UNKNOWN
