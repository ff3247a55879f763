"""Publishers and subscribers that belong together: by topic, type and domain, or by process."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations
import re

from ipc_bypass.graph.connections import Connection
from ipc_bypass.graph.model import End, Endpoint, Pair, Participant, Process
from ipc_bypass.tcp.owners import comm

# Topics of ROS that every node has, or that only its tools use.
_INFRASTRUCTURE = re.compile(
    r'ros_discovery_info$|/(rosout|parameter_events)$|'
    r'.*/(describe_parameters|get_parameters|get_parameter_types|list_parameters|'
    r'set_parameters|set_parameters_atomically|get_type_description) \((request|answer)\)$')
# How ROS names topics and services in DDS (design.ros2.org, topic and service names).
_ROS_PREFIXES = {'rt/': ('/{}', ''), 'rq/': ('/{} (request)', 'Request'),
                 'rr/': ('/{} (answer)', 'Reply')}
#: Pairs that are kept: a graph of more is no longer looked at pair by pair.
MOST_PAIRS = 20000


def ros_name(topic: str) -> str:
    """Return a DDS topic as ROS names it: '/chatter' of 'rt/chatter'; others as they are."""
    form, suffix = _ROS_PREFIXES.get(topic[:3], ('', ''))
    return form.format(topic[3:].removesuffix(suffix)) if form else topic


def topic_pairs(endpoints: Iterable[Endpoint], participants: Iterable[Participant]) -> list[Pair]:
    """
    Return a pair for each publisher and subscriber of a topic, those of other hosts only too.

    Two that no join saw both live in networks that do not meet. Their way is not decided yet.
    """
    pids = {found.guid_prefix: found.pid for found in participants if found.guid_prefix}
    names = {pid: comm(pid) for pid in {0, *pids.values()}}
    by_topic: dict[tuple, tuple[list, list]] = {}
    for endpoint in endpoints:
        writers, readers = by_topic.setdefault(
            (endpoint.domain, endpoint.topic, endpoint.type), ([], []))
        (writers if endpoint.role == 'publisher' else readers).append(endpoint)
    found = []
    for (domain, topic, kind), (writers, readers) in sorted(
            by_topic.items(), key=lambda item: (item[0][0] or 0, *item[0][1:])):
        name = ros_name(topic)
        for writer in writers:
            for reader in readers:
                if _apart(writer, reader):
                    continue
                if len(found) >= MOST_PAIRS:
                    return found
                found.append(Pair(
                    name, kind, _end(writer, pids, names), _end(reader, pids, names),
                    domain=domain,
                    infrastructure=bool(_INFRASTRUCTURE.match(name)),
                    reason=qos_obstacle(writer, reader)))
    return found


def qos_obstacle(writer: Endpoint, reader: Endpoint) -> str:
    """Return why DDS does not match two endpoints, '' where nothing is known against it."""
    if writer.reliability == 'best_effort' and reader.reliability == 'reliable':
        return 'the publisher is best effort, the subscriber wants reliable'
    if writer.durability == 'volatile' and reader.durability == 'transient_local':
        return 'the publisher is volatile, the subscriber wants transient local'
    return ''


def process_pairs(processes: Iterable[Process], known: Iterable[Pair],
                  connections: dict[tuple[int, int], list[Connection]]) -> list[Pair]:
    """
    Return a pair for each two processes that talk without a topic that anybody knows.

    They have a TCP connection, or UDP ports of one domain in one network namespace and no
    endpoint that was heard of. At most MOST_PAIRS, those with a connection first.
    """
    by_pid = {process.pid: process for process in processes}
    done = {frozenset((pair.publisher.pid, pair.subscriber.pid)) for pair in known}
    told = {pid for pair in done for pid in pair}
    candidates = chain(
        ((one, other) for one, other in sorted(connections)
         if one < other and one in by_pid and other in by_pid),
        (two for group in _silent_groups(by_pid.values(), told).values()
         for two in combinations(group, 2)))
    found = []
    for pids in candidates:
        if len(found) >= MOST_PAIRS:
            break
        if frozenset(pids) not in done:
            done.add(frozenset(pids))
            one, other = (by_pid[pid] for pid in pids)
            found.append(Pair('', '', End(one.pid, one.comm), End(other.pid, other.comm),
                              domain=min({*one.domains} & {*other.domains}, default=None)))
    return found


def _silent_groups(processes, told):
    """Return {(network namespace, kind, domain): pids} of those that meet without an endpoint."""
    groups = {}
    for process in sorted(processes, key=lambda process: process.pid):
        if process.pid not in told and process.kind != 'zenoh':
            for domain in process.domains:
                groups.setdefault((process.namespaces.get('net'), process.kind, domain),
                                  []).append(process.pid)
    return groups


def _apart(writer, reader):
    """Return whether two endpoints were seen, but never by the same join."""
    return bool(writer.seen_by and reader.seen_by
                and not set(writer.seen_by) & set(reader.seen_by))


def _end(endpoint, pids, names):
    pid = pids.get(endpoint.guid_prefix, 0)
    return End(pid, names[pid], endpoint.node, endpoint.guid)
