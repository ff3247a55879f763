"""The TCP connections between two processes of this host, also across network namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import ipaddress

from ipc_bypass.graph.model import Process, Socket


@dataclass(frozen=True)
class Connection:
    """
    A connection, from one of its two ends.

    :param port: of the end that listens, which a rule would name
    """

    pid: int
    peer_pid: int
    local: tuple[str, int]
    remote: tuple[str, int]
    port: int


def find_connections(processes: Iterable[Process]) -> dict[tuple[int, int], list[Connection]]:
    """
    Return the established connections by (pid, pid of the peer), each from both of its ends.

    One whose addresses are translated on the way has no other end here, and is left out.
    """
    processes = list(processes)
    ends: dict[tuple, list[tuple[Process, Socket]]] = {}
    for process in processes:
        for sock in process.sockets:
            if sock.transport == 'tcp' and sock.state == 'established':
                ends.setdefault(_ends(sock), []).append((process, sock))
    listening = {process.pid: {sock.local_port for sock in process.sockets
                               if sock.state == 'listen'} for process in processes}
    found: dict[tuple[int, int], list[Connection]] = {}
    for (local, remote), owners in ends.items():
        for process, _ in owners:
            for peer, _ in ends.get((remote, local), ()):
                if _apart(process, peer, local[0]):
                    continue
                served = local[1] if local[1] in listening[process.pid] else remote[1]
                found.setdefault((process.pid, peer.pid), []).append(
                    Connection(process.pid, peer.pid, local, remote, served))
    return found


def _ends(sock):
    return (sock.local_address, sock.local_port), (sock.remote_address, sock.remote_port)


def _apart(process, peer, address):
    """Return whether two loopback ends are of two namespaces, and so not of one connection."""
    return (ipaddress.ip_address(address).is_loopback
            and process.namespaces.get('net') != peer.namespaces.get('net'))
