"""The ways that are compared: for each kind of DDS, what a process is started with to take one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import os
from pathlib import Path

from ipc_bypass.bench import profiles as cyclone
from ipc_bypass.profiles import fastdds, folder, settings

CONTAINERS = 'containers'
SAME_HOST = 'same-host'
PLACEMENTS = (CONTAINERS, SAME_HOST)
KINDS = ('fastdds', 'cyclonedds', 'zenoh')

DEFAULT = 'default'
UDP = 'udp'
TCP = 'tcp'
REDIRECTED = 'tcp redirected'
SHARED_MEMORY = 'shared memory'

# Above the ports of the domains that are in use, and below Linux's ephemeral ones. Few for a way,
# since Cyclone announces itself to each, and others for each comparison: of two nodes whose rules
# cover a connection, the first one takes it.
_FIRST_PORT = 27440 + 40 * (os.getpid() % 100)
PLAIN_PORTS = f'{_FIRST_PORT}-{_FIRST_PORT + 7}'
REDIRECTED_PORTS = f'{_FIRST_PORT + 20}-{_FIRST_PORT + 27}'
#: What the node of a comparison accelerates.
RULE_PORTS = range(_FIRST_PORT + 20, _FIRST_PORT + 28)
# Domains, so that the pairs of two ways, which live at the same time, do not meet.
_FIRST_DOMAIN = 10
#: Fast DDS's own name for a set of transports.
FASTDDS_UDP = {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}
_CONFIGURATION = ('CYCLONEDDS_URI', 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTDDS_BUILTIN_TRANSPORTS',
                  'FASTRTPS_DEFAULT_PROFILES_FILE', 'IPC_BYPASS_PORT', 'ROS_DISCOVERY_SERVER',
                  'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'ROS_STATIC_PEERS',
                  'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY', 'RMW_IMPLEMENTATION',
                  'RMW_FASTRTPS_USE_QOS_FROM_XML', 'RMW_FASTRTPS_PUBLICATION_MODE',
                  'ZENOH_CONFIG', 'ZENOH_SESSION_CONFIG_URI', 'ZENOH_ROUTER_CONFIG_URI')


@dataclass(frozen=True)
class Way:
    """
    One way of one kind, and how a process comes to take it.

    :param name: DEFAULT, UDP, TCP, REDIRECTED or SHARED_MEMORY
    :param prefix: words before the command of a process
    :param environment: of a process, beside what all have
    :param address_prefix: the prefix for a process at an address, where it depends on that
    """

    name: str
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    address_prefix: Callable[[str], tuple[str, ...]] | None = None

    def command(self, address: str, *argv: str) -> list[str]:
        """Return `argv` with what comes before it for a process at an address."""
        prefix = self.address_prefix(address) if self.address_prefix else self.prefix
        return [*prefix, *argv]


def clean(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without what a user has set for a DDS: `default` is without it."""
    return {name: value for name, value in environment.items() if name not in _CONFIGURATION}


def names(kind: str, placement: str) -> tuple[str, ...]:
    """Return the ways that there are for a kind of KINDS in a placement of PLACEMENTS."""
    if kind == 'zenoh':
        return DEFAULT, TCP, REDIRECTED
    if kind == 'fastdds' and placement == SAME_HOST:
        return DEFAULT, UDP, TCP, REDIRECTED, SHARED_MEMORY
    # Separate /dev/shm is what separates containers; Cyclone's shared memory takes a daemon.
    return DEFAULT, UDP, TCP, REDIRECTED


def left_out(kind: str, placement: str) -> str:
    """Return why there is no way by shared memory, '' where there is one."""
    if SHARED_MEMORY in names(kind, placement):
        return ''
    if kind == 'fastdds':
        return 'shared memory: containers have a /dev/shm each'
    if kind == 'cyclonedds':
        return "shared memory: Cyclone's takes iceoryx and its daemon, which a profile cannot give"
    return "shared memory: zenoh's takes programs that allocate their messages in it"


def make(kind: str, placement: str, addresses: tuple[str, str], where: Path) -> list[Way]:
    """
    Return the ways, with their profiles written below a folder.

    :param addresses: IPv4 addresses of the two places, the same twice on one host
    :param where: a folder that lasts as long as the measuring
    :raises ProfileError: where it cannot be written
    """
    made = []
    for number, name in enumerate(names(kind, placement)):
        domain = _FIRST_DOMAIN + number
        environment = {'ROS_DOMAIN_ID': str(domain), 'RMW_IMPLEMENTATION': fastdds.RMW}
        if kind == 'cyclonedds':
            # Namespaces alone keep its pairs apart, which live one after the other.
            environment = {}
        prefix, by_address = (), None
        if name == UDP:
            environment |= udp(kind)
        elif name != DEFAULT:
            ports = {REDIRECTED: REDIRECTED_PORTS}.get(name, PLAIN_PORTS)
            target = where / f'{placement}-{name.replace(" ", "-")}'
            if kind == 'cyclonedds':
                by_address = _cyclonedds_prefixes(addresses, ports, target)
            else:
                wanted = settings.settings(domain, ports=ports,
                                           shared_memory=name == SHARED_MEMORY)
                prefix = folder.write(kind, wanted, target).command_prefix
        made.append(Way(name, tuple(prefix), environment, by_address))
    return made


def _cyclonedds_prefixes(addresses: tuple[str, str], ports: str, target: Path) -> Callable:
    """Write a profile for each address, which names its interface and the other one as a peer."""
    found = {}
    for address in set(addresses):
        others = tuple(sorted(set(addresses) - {address}))
        wanted = settings.settings(0, ports=ports, peers=others, address=address)
        found[address] = folder.write('cyclonedds', wanted, target / address).command_prefix
    return found.__getitem__


def udp(kind: str) -> dict[str, str]:
    """Return the variables that have a process take UDP, with all that can be set for it."""
    return dict(FASTDDS_UDP) if kind == 'fastdds' else {'CYCLONEDDS_URI': _large_udp()}


def _large_udp() -> str:
    """Return Cyclone by UDP with datagrams as large as they may be."""
    return ('<CycloneDDS><Domain><General>'
            f'<MaxMessageSize>{cyclone.MAX_MESSAGE_SIZE}</MaxMessageSize>'
            f'<FragmentSize>{cyclone.FRAGMENT_SIZE}</FragmentSize></General>'
            f'<Sizing><ReceiveBufferSize>{cyclone.RECEIVE_BUFFER_SIZE}</ReceiveBufferSize>'
            '</Sizing></Domain></CycloneDDS>')
