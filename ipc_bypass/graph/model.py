"""
What a look at the graph found, as data: `dataclasses.asdict` gives what JSON takes.

A process is the operating system's, a participant is DDS's: most processes have one, some many.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Ways of a pair. REDIRECTED is the TCP that the node moves from socket to socket (sk_msg).
REDIRECTED = 'redirected'
TCP = 'tcp'
UDP = 'udp'
SHARED_MEMORY = 'shared_memory'
INTRA_PROCESS = 'intra_process'
OTHER_HOST = 'other_host'
INCOMPATIBLE = 'incompatible'
UNKNOWN = 'unknown'
#: Every way, the shortest first.
WAYS = (INTRA_PROCESS, SHARED_MEMORY, REDIRECTED, TCP, UDP, OTHER_HOST, INCOMPATIBLE, UNKNOWN)

#: How much a finding matters.
OK, NOTE, WARNING = 'ok', 'note', 'warning'


@dataclass(frozen=True)
class Socket:
    """
    One UDP or TCP socket of a process.

    :param transport: 'udp' or 'tcp'
    :param state: 'listen', 'established' or 'other' of TCP, '' of UDP
    :param drops: datagrams that the kernel dropped since the socket was made, 0 for TCP
    """

    transport: str
    family: int
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    state: str
    inode: int
    drops: int = 0


@dataclass(frozen=True)
class Segment:
    """A piece of shared memory that a process maps; (device, inode) is its identity."""

    name: str
    device: str
    inode: int


@dataclass
class Process:
    """
    A local process that has a DDS or zenoh library mapped.

    :param namespace_pid: its id in its own pid namespace, as it knows itself
    :param user: name, or the number where it has none
    :param container: first 12 digits of the container's id, '' outside of one
    :param kind: 'Fast DDS', 'Cyclone DDS', 'zenoh' and others
    :param library: file of the library, as the process sees it
    :param version: as the file's name says, '' where it does not
    :param rmw: the rmw that is mapped, '' where none is
    :param namespaces: {'net', 'ipc', 'mnt', 'pid'}: inode
    :param environment: variables that DDS and this package look at
    :param domains: DDS domains, from the ports that it has, else from ROS_DOMAIN_ID
    :param shm_device: st_dev of its /dev/shm, None where it cannot be seen
    :param bypass_node: whether it is a node of this package
    :param file_limit: open files that it may have now; `file_limit_hard` is the most it may ask
        for; 0 for no limit
    """

    pid: int
    comm: str
    kind: str
    library: str
    version: str = ''
    rmw: str = ''
    namespace_pid: int = 0
    uid: int = -1
    user: str = ''
    container: str = ''
    namespaces: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    domains: list[int] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    shm_device: int | None = None
    bypass_node: bool = False
    file_limit: int = 0
    file_limit_hard: int = 0
    open_files: int = 0


@dataclass(frozen=True)
class Locator:
    """
    Where a participant can be reached.

    :param kind: 'UDPv4', 'UDPv6', 'TCPv4', 'TCPv6', 'SHM', or 'kind N'
    :param use: 'user' for samples, 'discovery' for metatraffic
    """

    kind: str
    address: str
    port: int
    use: str = 'user'
    multicast: bool = False


@dataclass
class Participant:
    """
    A DDS participant.

    :param guid_prefix: 24 hexadecimal digits, '' for one that only its process shows
    :param version: the product's, '' where it is not announced
    :param pid: of its process on this host, 0 where it is not known
    :param said_pid: what it says itself, in its own pid namespace; 0 where it says nothing
    :param host: name of its host, as it says
    :param local: whether it is on this host; None where nobody knows
    :param source: 'discovery' (it announced itself) or 'process'
    :param namespace: network namespace in which it was heard, or lives
    """

    guid_prefix: str
    vendor: str
    version: str = ''
    protocol: str = ''
    domain: int | None = None
    name: str = ''
    pid: int = 0
    said_pid: int = 0
    host: str = ''
    user: str = ''
    local: bool | None = None
    locators: list[Locator] = field(default_factory=list)
    source: str = 'discovery'
    namespace: int = 0


@dataclass(frozen=True)
class Endpoint:
    """
    A writer or a reader, as discovery tells of it.

    :param topic: name as in DDS, 'rt/chatter'
    :param role: 'publisher' or 'subscriber'
    :param reliability: 'reliable', 'best_effort' or ''
    :param durability: 'transient_local', 'volatile' or ''
    :param seen_by: numbers of the joins that discovered it, () where this is not known
    """

    guid: str
    topic: str
    type: str  # noqa: A003
    role: str
    node: str = ''
    reliability: str = ''
    durability: str = ''
    domain: int | None = None
    seen_by: tuple[int, ...] = ()

    @property
    def guid_prefix(self) -> str:
        """Return the part of the guid that names the participant."""
        return self.guid[:24]


@dataclass(frozen=True)
class End:
    """One end of a pair: the process, and the ROS node where it is known."""

    pid: int
    comm: str = ''
    node: str = ''
    guid: str = ''


@dataclass
class Pair:
    """
    One publisher and one subscriber of a topic.

    :param topic: as ROS names it, '/chatter'; a DDS topic has no slash; '' where only the
        processes are known
    :param way: one of WAYS
    :param reason: the one thing that keeps it from a shorter way, or why this is the shortest
    :param next_step: command or change that helps, '' where there is nothing to do
    :param infrastructure: whether ROS made it on its own (/rosout, parameter services)
    """

    topic: str
    type: str  # noqa: A003
    publisher: End
    subscriber: End
    way: str = UNKNOWN
    reason: str = ''
    next_step: str = ''
    infrastructure: bool = False
    domain: int | None = None


@dataclass(frozen=True)
class Finding:
    """
    One thing that was looked at, and what to do about it.

    :param level: OK, NOTE or WARNING
    :param what: subject, for example 'net.core.rmem_max'
    :param where: process or namespace, '' for the host
    """

    level: str
    what: str
    reason: str
    next_step: str = ''
    where: str = ''


@dataclass(frozen=True)
class Loss:
    """
    One counter of lost data.

    :param kind: 'socket_drops', 'udp_errors', 'reassembly', 'tcp_retransmits', 'node'
    :param counter: the counter's name where it comes from
    :param count: since boot or since the socket was made; over the period with --losses
    :param topics: topics that come to the port, where they are known
    """

    kind: str
    counter: str
    count: int
    where: str = ''
    pid: int = 0
    comm: str = ''
    port: int = 0
    topics: tuple[str, ...] = ()
    loses_data: bool = True


@dataclass
class Graph:
    """
    Everything that one look found.

    :param profiles: findings about configurations that a process names
    :param loss_seconds: period of the losses, 0 for since boot
    :param nodes: names of the nodes of this package that answered
    :param cannot_see: one line for each thing that this user or this host keeps from view
    """

    processes: list[Process] = field(default_factory=list)
    participants: list[Participant] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    profiles: list[Finding] = field(default_factory=list)
    limits: list[Finding] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    loss_seconds: float = 0.0
    nodes: list[str] = field(default_factory=list)
    cannot_see: list[str] = field(default_factory=list)
