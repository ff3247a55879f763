"""
The loss ledger: what the kernel dropped, by process, port and topic where these are known.

Counters only grow, so that what was lost in a period is the difference of two looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import re

from ipc_bypass.graph.model import Endpoint, Loss, Participant, Process
from ipc_bypass.graph.pairs import ros_name

#: (kind, section, counter, whether data is lost for good), of /proc/net/snmp and netstat.
_COUNTERS = (
    ('udp_errors', 'Udp', 'RcvbufErrors', True), ('udp_errors', 'Udp', 'SndbufErrors', True),
    ('udp_errors', 'Udp', 'InErrors', True), ('udp_errors', 'Udp6', 'Udp6RcvbufErrors', True),
    ('reassembly', 'Ip', 'ReasmFails', True),
    ('tcp_retransmits', 'Tcp', 'RetransSegs', False),
    ('tcp_retransmits', 'TcpExt', 'TCPRcvQDrop', False))
# Counters of the node that mean a datagram was not captured, or did not arrive at all.
_STRANDED = ('udp_stranded',)
_PASSED = re.compile(r'udp_passed_(pool_full|no_slot|ring_full|stale_heartbeat|copy)$')


def read_losses(processes: Iterable[Process]) -> list[Loss]:
    """Return every counter that is tied to these processes, zeros too."""
    processes = list(processes)
    found = []
    for process in processes:
        # A port may have several sockets: one for each interface, or for IPv4 and IPv6.
        drops: dict[int, int] = {}
        for sock in process.sockets:
            if sock.transport == 'udp':
                drops[sock.local_port] = drops.get(sock.local_port, 0) + sock.drops
        found += [Loss('socket_drops', 'drops', count, _namespace(process), process.pid,
                       process.comm, port) for port, count in drops.items()]
    seen = set()
    for process in processes:
        inode = process.namespaces.get('net', 0)
        if inode not in seen:
            seen.add(inode)
            found += namespace_losses(process.pid, _namespace(process))
    return found


def namespace_losses(pid: int, where: str) -> list[Loss]:
    """Return the counters of the network namespace of a process."""
    counters = read_counters(pid)
    return [Loss(kind, f'{section}:{name}', counters[section, name], where, loses_data=loses)
            for kind, section, name, loses in _COUNTERS if (section, name) in counters]


def read_counters(pid: int) -> dict[tuple[str, str], int]:
    """Return {(section, name): value} of a process's /proc/net/snmp, snmp6 and netstat."""
    found = {}
    for file in ('snmp', 'netstat'):
        lines = _lines(f'/proc/{pid}/net/{file}')
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            section = names.partition(':')[0]
            for name, value in zip(names.split()[1:], values.split()[1:], strict=False):
                if value.lstrip('-').isdecimal():
                    found[section, name] = int(value)
    for line in _lines(f'/proc/{pid}/net/snmp6'):
        name, _, value = line.partition(' ')
        if value.strip().isdecimal():
            found['Udp6' if name.startswith('Udp6') else 'Ip6', name] = int(value)
    return found


def of_nodes(nodes: Iterable[dict]) -> list[Loss]:
    """Return what nodes of this package say they could not capture, or could not deliver."""
    return [Loss('node', counter['name'], counter['value'], node['name'],
                 loses_data=counter['name'] in _STRANDED)
            for node in nodes for counter in node['statistics']['counters']
            if counter['name'] in _STRANDED or _PASSED.match(counter['name'])]


def difference(before: Iterable[Loss], after: Iterable[Loss], *,
               new_sockets: bool = True) -> list[Loss]:
    """
    Return how much each counter grew.

    One of a namespace or a node that had no earlier look is left out: its past is not of this
    period. A socket that is new counts from zero.

    :param new_sockets: False leaves those out too, where a process may be new to the look only
    """
    known = {_identity(loss): loss.count for loss in before}
    return [replace(loss, count=max(0, loss.count - known.get(_identity(loss), 0)))
            for loss in after if _identity(loss) in known or (
                new_sockets and loss.kind == 'socket_drops')]


def name_topics(losses: Iterable[Loss], participants: Iterable[Participant],
                endpoints: Iterable[Endpoint]) -> list[Loss]:
    """Return the losses with the topics that are read at their port, where this is known."""
    by_prefix: dict[str, list[str]] = {}
    for endpoint in endpoints:
        if endpoint.role == 'subscriber':
            by_prefix.setdefault(endpoint.guid_prefix, []).append(ros_name(endpoint.topic))
    by_port: dict[tuple[int, int], set[str]] = {}
    for participant in participants:
        for locator in participant.locators:
            if locator.use == 'user' and locator.kind.startswith('UDP'):
                by_port.setdefault((participant.pid, locator.port), set()).update(
                    by_prefix.get(participant.guid_prefix, ()))
    return [replace(loss, topics=tuple(sorted(by_port.get((loss.pid, loss.port), ()))))
            if loss.port else loss for loss in losses]


def _identity(loss):
    return loss.kind, loss.counter, loss.where, loss.pid, loss.port


def _namespace(process):
    return f"network namespace {process.namespaces.get('net', 0)}"


def _lines(path):
    try:
        with open(path, encoding='ascii', errors='replace') as stream:
            return stream.read().splitlines()
    except OSError:
        return []
