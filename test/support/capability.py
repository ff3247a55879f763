"""Skip what this process may not do, with the name of what is missing."""

import os
import re

from ipc_bypass.kernel import capabilities
import pytest

#: What it takes to load programs, and to make namespaces.
PRIVILEGED = 'CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'


def need_capabilities(names=PRIVILEGED):
    """Skip the test where a capability is missing."""
    lacking = capabilities.missing(list(names))
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))


def kernel_version():
    """Return (major, minor) of the running kernel."""
    return tuple(map(int, re.match(r'(\d+)\.(\d+)', os.uname().release).groups()))


def need_xdp_features():
    """
    Skip the test before 6.3.

    By the version: where xdp_features() tells nothing on a later kernel, it is at fault.
    """
    if kernel_version() < (6, 3):
        pytest.skip('the kernel does not tell of XDP features (from 6.3)')
