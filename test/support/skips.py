"""
Which tests may be skipped in CI, on a host that can run BPF programs.

A skip there hides a failure: the host is capable, so that the reason has to be one of these.
"""

import os

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.uapi import MapType

#: Beginnings of reasons.
ALLOWED = (
    'launch_ros is in no registry',
    'the memory controller of cgroup v1 is not mounted',
    'the kernel has no kprobes',  # test/vm runs these where it has, and allows no skip there
    'the kernel lets no program extend another',  # test/xdp/test_xdp_dispatcher.py says more
    'the kernel does not tell of XDP features',
)


def bpf_works():
    """Return whether this process can make a map, by making one."""
    try:
        os.close(syscall.map_create(MapType.HASH, 4, 4, 1, name='ipcb_test_probe'))
    except OSError:
        return False
    return True


def refused(reasons):
    """Return those of {test: reason of its skip} that are not allowed, as lines."""
    return [f'{test}: {reason}' for test, reason in sorted(reasons.items())
            if not reason.startswith(ALLOWED)]
