"""Which process a participant belongs to: by the ports that it announces, and by what it says."""

from __future__ import annotations

from collections.abc import Iterable
import ipaddress
import os

from ipc_bypass.graph.model import Participant, Process
from ipc_bypass.graph.sockets import local_addresses

_IP_KINDS = ('UDPv4', 'UDPv6', 'TCPv4', 'TCPv6')
# A port that more processes share is multicast's, and names nobody.
_MOST_SHARING = 32


def addresses_of(processes: Iterable[Process]) -> dict[int, set[str]]:
    """Return the IPv4 addresses of the network namespaces of processes, and of our own."""
    found = {os.stat('/proc/self/ns/net').st_ino: local_addresses(os.getpid())}
    for process in processes:
        inode = process.namespaces.get('net', 0)
        if not found.get(inode):  # a process that ended has told nothing: the next one is asked
            found[inode] = local_addresses(process.pid)
    return found


def name_owners(participants: Iterable[Participant], processes: Iterable[Process],
                addresses: dict[int, set[str]]) -> None:
    """
    Set `pid`, `local` and `namespace` of participants.

    A port alone is no identity: the same one is open in many namespaces, and on other hosts that
    share an address with this one (a bridge of containers has the same everywhere). A pid counts
    in its own pid namespace. So port and pid have to agree, or one of them has to leave one
    process only and every address has to be of this host.
    """
    processes = list(processes)
    by_port: dict[tuple[str, int], dict[int, Process]] = {}
    for process in processes:
        for sock in process.sockets:
            if sock.state in ('', 'listen'):
                by_port.setdefault((sock.transport, sock.local_port), {})[process.pid] = process
    here = set().union(*addresses.values()) if addresses else set()
    for participant in participants:
        candidates = _with_port(participant, by_port, addresses)
        local = _is_local(participant, here)
        owner = _only([found for found in candidates if _says_pid(participant, found)])
        if owner is None and local:
            owner = _only([found for found in candidates if _is_local(
                participant, addresses.get(found.namespaces.get('net', 0), set()))]) or _only(
                [process for process in processes if _says_pid(participant, process)])
        if owner is not None:
            participant.pid, participant.local = owner.pid, True
            participant.namespace = owner.namespaces.get('net', participant.namespace)
        elif participant.local is None:
            participant.local = local


def participants_without_announcement(participants: Iterable[Participant],
                                      processes: Iterable[Process]) -> list[Participant]:
    """Return a participant, as its process shows it, for each process that none was heard of."""
    heard = {participant.pid for participant in participants}
    return [Participant('', process.kind, process.version, domain=domain, pid=process.pid,
                        user=process.user, local=True, source='process',
                        namespace=process.namespaces.get('net', 0))
            for process in processes if process.pid not in heard
            for domain in process.domains or [None]]


def _with_port(participant, by_port, addresses):
    """Return the processes that have a socket which a unicast locator names, each once."""
    found = {}
    for locator in participant.locators:
        if locator.multicast or locator.kind not in _IP_KINDS:
            continue
        sharing = by_port.get((locator.kind[:3].lower(), locator.port), {})
        if len(sharing) <= _MOST_SHARING:
            found.update((pid, process) for pid, process in sharing.items()
                         if _is_address_of(process, locator.address, participant, addresses))
    return list(found.values())


def _is_address_of(process, address, participant, addresses):
    """Return whether an announced address may be one of a process's namespace."""
    inode = process.namespaces.get('net', 0)
    found = ipaddress.ip_address(address)
    if found.is_loopback:
        return participant.namespace == inode
    # IPv6 addresses are not looked up: the port and the pid decide.
    return found.version == 6 or address in addresses.get(inode, ())


def _says_pid(participant, process):
    """Return whether what a participant says of its pid fits; Fast DDS may say 16 bits only."""
    if participant.vendor != process.kind and process.kind:
        return False
    said = participant.said_pid
    return bool(said) and said in (process.namespace_pid, process.namespace_pid & 0xffff)


def _is_local(participant, here):
    """Return whether all IPv4 addresses of a participant are among some; None without any."""
    announced = [ipaddress.ip_address(locator.address) for locator in participant.locators
                 if not locator.multicast and locator.kind in ('UDPv4', 'TCPv4')]
    announced = [address for address in announced if not address.is_unspecified]
    if not announced:
        return None
    return all(address.is_loopback or str(address) in here for address in announced)


def _only(processes):
    return processes[0] if len(processes) == 1 else None
