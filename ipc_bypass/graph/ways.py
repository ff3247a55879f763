"""Which way a pair takes, and the one reason why it is not a shorter one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ipc_bypass.graph import model, reasons
from ipc_bypass.graph.connections import Connection
from ipc_bypass.graph.model import Pair, Participant, Process


@dataclass
class Surroundings:
    """
    What a decision looks at.

    :param processes: by pid
    :param participants: by guid prefix
    :param connections: as `find_connections` returns them
    :param nodes: what the nodes of this package said, as `Joined.nodes`
    :param node_runs: whether such a node was seen as a process, though it may not have answered
    :param unseen: processes that could not be looked into
    """

    processes: dict[int, Process] = field(default_factory=dict)
    participants: dict[str, Participant] = field(default_factory=dict)
    connections: dict[tuple[int, int], list[Connection]] = field(default_factory=dict)
    nodes: list[dict] = field(default_factory=list)
    node_runs: bool = False
    unseen: int = 0

    def __post_init__(self) -> None:
        """Note what each process maps, and which flow goes between which ends."""
        self.flows = reasons.flows_by_ends(self.nodes)
        self._mapped = {pid: set(process.segments) for pid, process in self.processes.items()}

    def common_segments(self, pids: tuple[int, int]) -> list[str]:
        """Return the names of the pieces of memory that both processes map."""
        one, other = (self._mapped[pid] for pid in pids)
        return [segment.name for segment in one & other]

    def participant(self, end) -> Participant | None:
        """Return the participant of an end, None where it was not heard."""
        return self.participants.get(end.guid[:24])


def decide(pairs: Iterable[Pair], around: Surroundings) -> None:
    """Set way, reason and next step of each pair."""
    for pair in pairs:
        pair.way, pair.reason, pair.next_step = _way(pair, around)


def without_guesses(pairs: Iterable[Pair], around: Surroundings) -> list[Pair]:
    """Return the pairs without two processes of one domain that nothing shows to talk."""
    return [pair for pair in pairs if pair.topic or pair.way != model.UNKNOWN
            or (pair.publisher.pid, pair.subscriber.pid) in around.connections]


def _way(pair, around):
    """Return (way, reason, next step)."""
    if pair.reason:
        return model.INCOMPATIBLE, pair.reason, reasons.CHANGE_QOS
    one, other = pair.publisher, pair.subscriber
    if one.pid and one.pid == other.pid:
        return model.INTRA_PROCESS, 'both ends are in one process', ''
    if not one.pid or not other.pid:
        return _way_of_strangers(pair, around)
    here, there = around.processes.get(one.pid), around.processes.get(other.pid)
    if here is None or there is None:
        return model.UNKNOWN, 'a process ended, or cannot be looked into', reasons.LOOK_AGAIN
    if _share_memory(pair, around):
        return model.SHARED_MEMORY, 'both map the same piece of /dev/shm: nothing to do', ''
    found = _sample_connections(pair, around)
    if found:
        return reasons.of_connection(found, around.nodes, around.flows, around.node_runs,
                                     directed=bool(pair.topic))
    kinds = _transports(here, one, around) & _transports(there, other, around)
    if 'UDP' in kinds:
        return (model.UDP, *reasons.of_datagrams(here, there))
    if 'TCP' in kinds:
        return model.UNKNOWN, 'no TCP connection between the two yet', reasons.LOOK_AGAIN
    return model.UNKNOWN, 'the two share no transport that could be seen', reasons.LOOK_AGAIN


def _way_of_strangers(pair, around):
    """Return the same for a pair of which one process or both are not known."""
    for end in (pair.publisher, pair.subscriber):
        participant = around.participant(end)
        if not end.pid and participant is not None and participant.local is False:
            return (model.OTHER_HOST, 'one end is on another host', '')
    unheard = [end for end in (pair.publisher, pair.subscriber)
               if not end.pid and around.participant(end) is None]
    if unheard:
        return (model.UNKNOWN, 'a participant was not heard: on another host, or by TCP only', '')
    if around.unseen:
        return model.UNKNOWN, 'a process cannot be looked into', reasons.WITH_SUDO
    return (model.UNKNOWN, 'a process ended, or cannot be told from others by its ports and pid',
            reasons.LOOK_AGAIN)


def _share_memory(pair, around):
    """
    Return whether samples of a pair go through memory that both processes map.

    Fast DDS announces the port of a reader's queue in shared memory: its segment has that number
    in its name, and the writer maps it. Without an announcement, any segment that is not a
    queue's and that both map counts.
    """
    names = around.common_segments((pair.publisher.pid, pair.subscriber.pid))
    if not names:
        return False
    reader = around.participant(pair.subscriber)
    if reader is not None and reader.vendor == 'Fast DDS':
        ports = {locator.port for locator in reader.locators
                 if locator.kind == 'SHM' and not locator.multicast}
        return any(name in (f'fastdds_port{port}', f'fastrtps_port{port}')
                   for name in names for port in ports)
    return any('_port' not in name for name in names)


def _sample_connections(pair, around):
    """Return the TCP connections of a pair, without those that no participant announced."""
    found = around.connections.get((pair.publisher.pid, pair.subscriber.pid), [])
    heard = [around.participant(end) for end in (pair.publisher, pair.subscriber)]
    if None in heard:
        return found
    ports = {locator.port for participant in heard for locator in participant.locators
             if locator.kind.startswith('TCP')}
    return [connection for connection in found
            if ports & {connection.local[1], connection.remote[1]}]


def _transports(process, end, around):
    """Return which of 'UDP' and 'TCP' a process takes samples by: as announced, else as seen."""
    participant = around.participant(end)
    announced = {locator.kind[:3] for locator in participant.locators
                 if locator.use == 'user' and not locator.multicast} if participant else set()
    if announced:
        return announced
    listens = any(sock.transport == 'tcp' and sock.state == 'listen' for sock in process.sockets)
    if listens:
        return {'TCP'}
    return {'UDP'} if any(sock.transport == 'udp' for sock in process.sockets) else set()
