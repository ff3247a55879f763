"""The places that the two ends of a pair run in, by placement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import subprocess

from ipc_bypass.bench.containers import Containers, Namespace, NamespaceError, SUBNET
from ipc_bypass.compare.ways import CONTAINERS

# A host has more than its loopback interface: zenoh's scouting, for one, leaves that out.
_INTERFACE = ('ip link add eth0 type veth peer name eth1 && ip link set eth1 up && '
              f'ip link set eth0 up && ip addr add {SUBNET}.1/24 dev eth0')


@contextmanager
def both(placement: str) -> Iterator[tuple[Namespace, Namespace]]:
    """Give the two places; on one host they are one and the same. Raises NamespaceError."""
    if placement == CONTAINERS:
        with Containers() as containers:
            yield containers
        return
    with Namespace('host') as place:
        done = subprocess.run(place.command('sh', '-c', _INTERFACE), capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise NamespaceError(f'give {place.name} an interface', done.stderr)
        yield place, place
