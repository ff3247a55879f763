"""One look at the graph of this host: everything in this room, in its order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
import os
import time

from ipc_bypass.graph import losses, model
from ipc_bypass.graph.connections import find_connections
from ipc_bypass.graph.joins import Joined, Joins, places
from ipc_bypass.graph.limits import limit_findings, MESSAGE_BYTES
from ipc_bypass.graph.listener import Listener
from ipc_bypass.graph.model import Graph
from ipc_bypass.graph.ownership import (
    addresses_of,
    name_owners,
    participants_without_announcement,
)
from ipc_bypass.graph.pairs import MOST_PAIRS, process_pairs, topic_pairs
from ipc_bypass.graph.ports import port_findings
from ipc_bypass.graph.processes import MOST_PROCESSES, Scan, scan_processes
from ipc_bypass.graph.profiles import profile_findings
from ipc_bypass.graph.ways import decide, Surroundings, without_guesses
from ipc_bypass.kernel import capabilities
from ipc_bypass.kernel.namespaces import network_namespaces


@dataclass(frozen=True)
class Request:
    """
    What to look at.

    :param domain: this DDS domain only, None for every one that is in use here
    :param message_bytes: size of the largest message, for the limits
    :param loss_seconds: count losses over this time, 0 for since boot
    :param join: whether to join the domains as a ROS node, which shows topics
    """

    domain: int | None = None
    message_bytes: int = MESSAGE_BYTES
    loss_seconds: float = 0.0
    join: bool = True


def survey(request: Request = Request()) -> Graph:
    """
    Look for about five seconds, or for as long as losses are to be counted, and return the graph.

    Nothing of another process is touched. Where this user may not look, `cannot_see` says so.
    """
    begun = time.monotonic()
    first = scan_processes()
    namespaces = network_namespaces()
    before = losses.read_losses(first.processes)
    where = places(first.processes, namespaces, request.domain)
    graph = Graph(loss_seconds=request.loss_seconds)
    joined = later = Joined()
    with ExitStack() as stack:
        if first.processes or first.unseen:
            lived_in = {os.stat('/proc/self/ns/net').st_ino, *(
                process.namespaces.get('net', 0) for process in first.processes)}
            listener = stack.enter_context(Listener(
                [namespaces[inode] for inode in namespaces if inode in lived_in],
                {place.domain for place in where}))
            if request.join:
                joined = later = stack.enter_context(Joins(where)).wait()
            time.sleep(listener.heard_enough())
            joined.endpoints = [endpoint for endpoint in joined.endpoints
                                if request.domain in (None, endpoint.domain)]
            graph.participants = _once(list(listener.participants.values()), joined.own)
            graph.cannot_see += listener.cannot
        time.sleep(max(0.0, begun + request.loss_seconds - time.monotonic()))
        if request.loss_seconds and joined.nodes:
            later = stack.enter_context(Joins(where)).wait()
    # Once more: what is open and mapped now, after discovery had its time.
    scan = scan_processes()
    _take(graph, request, scan, joined)
    owners_seen = not scan.unseen or not capabilities.missing(['CAP_SYS_PTRACE'])
    graph.limits = [
        *limit_findings(graph.processes, namespaces, request.message_bytes),
        *port_findings(scan.processes, request.domain, scan.tables if owners_seen else None)]
    graph.profiles = profile_findings(graph.processes)
    counted = [*losses.read_losses(graph.processes), *losses.of_nodes(later.nodes)]
    if request.loss_seconds:
        counted = losses.difference([*before, *losses.of_nodes(joined.nodes)], counted)
    graph.losses = losses.name_topics(counted, graph.participants, joined.endpoints)
    graph.cannot_see += joined.cannot
    if scan.unseen:
        graph.cannot_see.append(_unseen(scan.unseen))
    if scan.left_out:
        graph.cannot_see.append(f'{scan.left_out} DDS processes beyond the first '
                                f'{MOST_PROCESSES}')
    if len(graph.pairs) >= MOST_PAIRS:
        graph.cannot_see.append(f'pairs beyond the first {MOST_PAIRS}: use --domain')
    return graph


def _unseen(count):
    """Say how many processes are out of sight, and what would show them."""
    text = f'{count} process{"" if count == 1 else "es"} of others'
    if capabilities.missing(['CAP_SYS_PTRACE']):
        return f'{text}: needs CAP_SYS_PTRACE; run with sudo'
    return f'{text}, which the kernel keeps from every user'


def _take(graph: Graph, request: Request, scan: Scan, joined: Joined) -> None:
    """Put processes, participants and pairs together."""
    processes = [process for process in scan.processes
                 if request.domain is None or request.domain in process.domains]
    # What the listener heard of another domain, or of a process that ended, is left out below.
    name_owners(graph.participants, scan.processes, addresses_of(scan.processes))
    graph.participants = [participant for participant in graph.participants
                          if request.domain is None or participant.domain in (
                              None, request.domain)]
    graph.participants += participants_without_announcement(graph.participants, processes)
    graph.processes = processes
    graph.nodes = [node['name'] for node in joined.nodes]
    connections = find_connections(scan.processes)
    remote = {participant.guid_prefix for participant in graph.participants
              if participant.local is False}
    pairs = [pair for pair in topic_pairs(joined.endpoints, graph.participants)
             if not {pair.publisher.guid[:24], pair.subscriber.guid[:24]} <= remote]
    pairs += process_pairs(processes, pairs, connections)
    around = Surroundings(
        {process.pid: process for process in scan.processes},
        {participant.guid_prefix: participant for participant in graph.participants
         if participant.guid_prefix}, connections, joined.nodes,
        any(process.bypass_node for process in scan.processes), scan.unseen)
    decide(pairs, around)
    graph.pairs = without_guesses(pairs, around)


def _once(participants, own):
    """Return each participant once, without those that the joins made."""
    found = {}
    for participant in participants:
        if participant.guid_prefix not in own:
            found.setdefault(participant.guid_prefix, participant)
    return list(found.values())


def by_way(pairs) -> dict[str, int]:
    """Return how many of some pairs take each way, the ways that occur, the shortest first."""
    counts = dict.fromkeys(model.WAYS, 0)
    for pair in pairs:
        counts[pair.way] += 1
    return {way: count for way, count in counts.items() if count}
