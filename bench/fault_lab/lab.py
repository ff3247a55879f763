"""A place for faults: a cgroup, a folder of pins, ports, and the node that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
import itertools
import os
from pathlib import Path
import shutil
import tempfile
import time

from fault_lab.node import Node
from fault_lab.streams import Pair, RATE, Streams
from ipc_bypass.kernel import bpffs, syscall
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.rules.rtps import tcp_ports

_ATTACH_TYPES = (AttachType.CGROUP_SOCK_OPS, AttachType.CGROUP_INET_EGRESS,
                 AttachType.CGROUP_INET4_CONNECT, AttachType.CGROUP_INET6_CONNECT,
                 AttachType.CGROUP_UDP4_SENDMSG, AttachType.CGROUP_UDP6_SENDMSG,
                 AttachType.CGROUP_INET4_POST_BIND, AttachType.CGROUP_INET6_POST_BIND)
_labs = itertools.count()
#: DDS domains whose ports a lab of this process has: up to 101, no port is an ephemeral one.
_DOMAINS = range(52, 102)
_taken: set[int] = set()
#: Seconds in which the kernel frees what has no user any more.
_GRACE = 30.0


class LabError(BypassError):
    """The lab is not what a fault needs it to be."""


class Lab:
    """
    Everything that one node and its streams need, theirs alone; a context manager.

    What nodes of the lab held of the kernel is noted by `note`, and missed by `left`.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._seen: dict[str, set[int]] = {'map': set(), 'prog': set(), 'link': set()}
        self._names = itertools.count()

    def __enter__(self) -> Lab:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(
                tempfile.TemporaryDirectory(prefix='ipc_bypass_soak_')))
            self.cgroup = Path(tempfile.mkdtemp(prefix='ipc_bypass_soak_', dir=find_cgroup2()))
            stack.callback(remove_cgroup, self.cgroup)
            bpffs.ensure_bpffs(mount=True)
            number = next(_labs)
            self.pins = f'{bpffs.MOUNT_POINT}/ipcb_soak_{os.getpid()}_{number}'
            # What a trial that was cut off has left: the nodes are gone by then.
            stack.callback(shutil.rmtree, self.pins, ignore_errors=True)
            # Labs may outlive many others: in turn, and none twice.
            start = (os.getpid() + number) % len(_DOMAINS)
            self.domain = next(domain for domain in (*_DOMAINS[start:], *_DOMAINS[:start])
                               if domain not in _taken)
            _taken.add(self.domain)
            stack.callback(_taken.discard, self.domain)
            first, last = tcp_ports(self.domain)
            self.ports = range(first, last + 1)
            self._free_ports = iter(self.ports)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception) -> None:
        self._stack.close()

    def enter(self, context):
        """Enter a context that lasts as long as the lab; return what it gives."""
        return self._stack.enter_context(context)

    def port(self) -> int:
        """Return another port of the domain that the node serves."""
        return next(self._free_ports)

    def inside(self) -> list[str]:
        """Return the words before a command that have it run in the cgroup."""
        return ['sh', '-c', f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"', 'sh']

    def node(self, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None,
             **parameters: object) -> Node:
        """Start the node for this lab, unconfigured; it lasts as long as the lab at most."""
        number = next(self._names)
        return self.enter(Node({
            'tcp_path': 'sk_msg', 'udp_path': 'loopback', 'cgroup_path': str(self.cgroup),
            'pin_directory': self.pins, 'domains': [str(self.domain)], 'max_connections': 64,
            'control_socket': str(self.folder / f'pool_{number}.sock'), **parameters},
            prefix=prefix, environment={**self.environment(), **(environment or {})}))

    def environment(self) -> dict[str, str]:
        """Return what a node has in its environment: a domain of the lab's own."""
        return {'ROS_DOMAIN_ID': str(self.domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                'ROS_LOG_DIR': str(self.folder / 'log')}

    def active(self, **how) -> Node:
        """Start the node and bring it up; raises LabError."""
        node = self.node(**how)
        self.bring_up(node)
        return node

    def bring_up(self, node: Node) -> None:
        """Configure and activate; raises LabError."""
        if not node.change('configure', 'activate'):
            raise LabError('bring the node up', ' / '.join(node.errors()) or 'it says nothing')
        self.note(node)

    def streams(self, count: int = 1, *, rate: float = RATE) -> Streams:
        """Start pairs of numbered streams on this host's loopback, in the cgroup."""
        return Streams([self.enter(Pair('127.0.0.1', self.port(), rate=rate,
                                        server_prefix=self.inside(),
                                        client_prefix=self.inside())) for _ in range(count)])

    # What is left -----------------------------------------------------------------------------

    def note(self, node: Node) -> None:
        """Remember what a node holds now."""
        for kind, numbers in node.held().items():
            self._seen[kind] |= numbers

    def attached(self) -> int:
        """Return how many programs are attached to the cgroup."""
        fd = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sum(len(syscall.prog_query(fd, kind)) for kind in _ATTACH_TYPES)
        finally:
            os.close(fd)

    def pinned(self) -> list[str]:
        """Return what is in the folder of pins."""
        return sorted(str(path) for path in Path(self.pins).rglob('*'))

    def left(self, *, wait: float = _GRACE) -> list[str]:
        """Return what noted nodes have left in the kernel, one line each."""
        deadline = time.monotonic() + wait
        while True:
            lists = {'map': syscall.map_ids, 'prog': syscall.prog_ids, 'link': syscall.link_ids}
            found = [f'{kind} {number}' for kind, list_ids in lists.items()
                     for number in sorted(self._seen[kind] & set(list_ids()))]
            if os.path.exists(self.cgroup) and self.attached():
                found.append(f'{self.attached()} programs attached')
            if os.path.exists(self.pins):
                found.append(f'pins {self.pins}: {self.pinned()}')
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def remove_cgroup(path: Path, wait: float = _GRACE) -> bool:
    """Remove a cgroup when its last process has ended; return whether it is gone."""
    deadline = time.monotonic() + wait
    while path.exists():
        with suppress(OSError):
            path.rmdir()
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
