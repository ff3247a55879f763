"""The ports of the domains in use: how many are left, and who else has some."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_bypass.graph.model import Finding, NOTE, OK, Process, Socket, WARNING
from ipc_bypass.graph.sockets import SocketTables
from ipc_bypass.rules.rtps import (
    DOMAIN_GAIN,
    last_participant,
    PARTICIPANT_GAIN,
    PORT_BASE,
    UNICAST_DISCOVERY,
)

_PORT_RANGE = '/proc/sys/net/ipv4/ip_local_port_range'
#: Participants that should still find a port.
_SPARE = 10


def port_findings(processes: Iterable[Process], domain: int | None = None,
                  tables: SocketTables | None = None) -> list[Finding]:
    """
    Return a finding for each domain in use.

    :param processes: every DDS process, of other domains too
    :param domain: this one only, None for all
    :param tables: the sockets of every process, where their owners could be seen
    """
    processes = list(processes)
    found = [*_participants(processes), *_strangers(processes, tables), *_ephemeral(processes)]
    return [finding for finding in found
            if domain is None or finding.what.endswith(f' domain {domain}')]


def _participants(processes):
    """Say where a domain's ports are at their end: participants, and foreigners on them."""
    used: dict[tuple[int, int], set[int]] = {}
    for process in processes:
        for sock in process.sockets:
            domain = _discovery_domain(sock)
            if domain in process.domains:
                participant = (sock.local_port - PORT_BASE - DOMAIN_GAIN * domain
                               - UNICAST_DISCOVERY) // PARTICIPANT_GAIN
                used.setdefault((process.namespaces.get('net', 0), domain), set()).add(participant)
    for (inode, domain), participants in used.items():
        most = last_participant(domain) + 1
        level = WARNING if len(participants) > most - _SPARE else OK
        yield Finding(level, f'participants of domain {domain}',
                      f'{len(participants)} of {most} have a port',
                      'spread the processes over two domains, or several nodes over one process'
                      if level == WARNING else '', f'network namespace {inode}')


def _strangers(processes, tables):
    """Say which ports of a domain in use belong to something that speaks no DDS."""
    owned = {sock.inode for process in processes for sock in process.sockets}
    domains = {(process.namespaces.get('net', 0), domain) for process in processes
               for domain in process.domains}
    taken: dict[tuple[int, int], set[int]] = {}
    for inode, sock in tables.every_udp() if tables else ():
        number = (sock.local_port - PORT_BASE) // DOMAIN_GAIN
        if (inode, number) in domains and sock.inode not in owned:
            taken.setdefault((inode, number), set()).add(sock.local_port)
    for (inode, domain), ports in taken.items():
        shown = ' '.join(map(str, sorted(ports)[:8]))
        yield Finding(NOTE, f'ports of domain {domain}', f'UDP ports {shown} belong to processes '
                      'that speak no DDS, or that nobody may look into',
                      'give those processes other ports, or the graph another ROS_DOMAIN_ID',
                      f'network namespace {inode}')


def _ephemeral(processes):
    """Say where a domain lies among the ports that the kernel gives to anybody."""
    try:
        with open(_PORT_RANGE, encoding='ascii') as stream:
            first, last = map(int, stream.read().split())
    except (OSError, ValueError):
        return
    for domain in sorted({domain for process in processes for domain in process.domains}):
        port = PORT_BASE + DOMAIN_GAIN * domain
        if first <= port <= last:
            yield Finding(NOTE, f'ports of domain {domain}', f'they begin at {port}, among those '
                          f'that the kernel gives to any socket ({first} to {last})',
                          'use a ROS_DOMAIN_ID of 0 to 101')


def _discovery_domain(sock: Socket) -> int | None:
    """Return the domain whose unicast discovery a UDP socket serves by its number, or None."""
    domain, offset = divmod(sock.local_port - PORT_BASE, DOMAIN_GAIN)
    if sock.transport != 'udp' or sock.local_port < PORT_BASE or offset < UNICAST_DISCOVERY:
        return None
    return None if offset % PARTICIPANT_GAIN else domain
