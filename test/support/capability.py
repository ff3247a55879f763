"""Skip what this process may not do, with the name of what is missing."""

from ipc_bypass.kernel import capabilities
import pytest

#: What it takes to load programs, and to make namespaces.
PRIVILEGED = 'CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'


def need_capabilities(names=PRIVILEGED):
    """Skip the test where a capability is missing."""
    lacking = capabilities.missing(list(names))
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))
