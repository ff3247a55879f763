"""Programs on frames by PROG_TEST_RUN, and two namespaces joined by one veth pair."""

from contextlib import contextmanager
import subprocess

from ipc_bypass.kernel import syscall

from support.frames import FAR, FAR_MAC, FAR_V6, NEAR, NEAR_MAC, NEAR_V6
from support.namespaces import Namespace

ABORTED, DROP, PASS, TX, REDIRECT = range(5)


def run_on(program, frame):
    """Return (answer, frame as the program left it); a metadata area in front is kept."""
    return syscall.prog_test_run(program, frame)


@contextmanager
def veth_lab(mtu=1500, *, plain_checksums=True):
    """
    Yield (near, far) Namespace, joined by a veth pair: `near0` and `far0`.

    Addresses are NEAR and FAR, NEAR_V6 and FAR_V6, with MACs NEAR_MAC and FAR_MAC. With
    `plain_checksums`, both ends compute checksums themselves, so that frames which XDP takes are
    whole.
    """
    with Namespace('n') as near, Namespace('f') as far:
        near.ip('link', 'add', 'near0', 'address', text_of(NEAR_MAC), 'mtu', str(mtu), 'type',
                'veth', 'peer', 'name', 'far0', 'address', text_of(FAR_MAC), 'mtu', str(mtu),
                'netns', far.name)
        for space, name, address, address_v6 in ((near, 'near0', NEAR, NEAR_V6),
                                                 (far, 'far0', FAR, FAR_V6)):
            space.ip('address', 'add', f'{address}/24', 'dev', name)
            space.ip('address', 'add', f'{address_v6}/64', 'dev', name, 'nodad')
            space.ip('link', 'set', name, 'up')
            if plain_checksums:
                subprocess.run(space.command('ethtool', '-K', name, 'tx', 'off'), check=True,
                               capture_output=True)
        yield near, far


def text_of(mac):
    """Return a MAC address as text."""
    return mac.hex(':')
