"""The slot that steers packets to AF_XDP sockets: what is enrolled, whose queue is whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import errno
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.maps import possible_cpus
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.pool.memory import map_shared
from ipc_bypass.xdp.xskmap import bound_queues
import numpy as np

_NAMES = enumerations(bpf_source('xdp_steering.h'))
_PORT, _SWITCH = _NAMES['steering_port'], _NAMES['steering_switch']
_OUTCOMES = {name.removeprefix('STEERING_').lower(): number
             for name, number in _NAMES['steering_outcome'].items()
             if name != 'STEERING_OUTCOMES'}
_SWITCHES = {'neighbours': _SWITCH['STEERING_NEIGHBOURS'], 'echo': _SWITCH['STEERING_ECHO'],
             'everything': _SWITCH['STEERING_ALL']}
_BITS = {'udp': _PORT['STEERING_UDP'], 'tcp': _PORT['STEERING_TCP']}
_WORD = struct.Struct('=I')
_PORTS = 65536
_HOLDERS = {name.removeprefix('STEERING_HOLDER_').lower(): number
            for name, number in _NAMES['steering_holder'].items() if name != 'STEERING_HOLDERS'}
# The kernel rounds values of an array up to eight bytes (kernel/bpf/arraymap.c).
_STRIDE = 8


@dataclass(frozen=True)
class SteeringSettings:
    """
    What goes to AF_XDP sockets; the rest passes.

    udp_ports    destination ports
    tcp_ports    destination ports
    neighbours   ARP requests and IPv6 neighbour solicitations
    echo         ICMP and ICMPv6 echo requests
    everything   every frame, fragments and what is no IP included
    """

    udp_ports: tuple[int, ...] = ()
    tcp_ports: tuple[int, ...] = ()
    neighbours: bool = False
    echo: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        """Raise BypassError where a port is none."""
        for transport in _BITS:
            name = f'{transport}_ports'
            ports = tuple(getattr(self, name))
            object.__setattr__(self, name, ports)
            for port in ports:
                if not isinstance(port, int) or not 0 < port < _PORTS:
                    raise BypassError(f'steer {transport} port {port!r} to AF_XDP',
                                      'it is no port', next_step='use 1 to 65535')


@dataclass(frozen=True)
class SteeringStatus:
    """
    What the slot does.

    :param settings: SteeringSettings as applied
    :param sockets: {queue: the queue that the socket is bound to}
    :param counters: packets by outcome: redirected, no_socket, not_enrolled, fragment
    """

    settings: SteeringSettings
    sockets: dict[int, int]
    counters: dict[str, int]

    def as_dict(self) -> dict:
        """Return it for JSON."""
        return asdict(self)


class Steering:
    """
    The slot of kind 'af_xdp'.

    What the node and pipelines of other processes ask for stands side by side in the maps: packets
    that either wants are steered, and neither changes what is the other's. Pipelines of one
    interface share theirs.

    :param maps: LoadedMaps by name, as of the LoadedSlot
    :param holder: 'node' or 'pipeline': whose settings it reads and applies
    """

    def __init__(self, maps: Mapping[str, LoadedMap], holder: str = 'node') -> None:
        self._maps = maps
        self.settings = SteeringSettings()
        # A byte has one writer and needs no more than a store.
        self._ports, self._switches = (
            np.frombuffer(map_shared(maps[name].fd, entries * _STRIDE), np.uint8).reshape(
                -1, _STRIDE)[:, _HOLDERS[holder]]
            for name, entries in (('steering_ports', _PORTS), ('steering_switches', 1)))
        self._cpus = possible_cpus()

    @property
    def queues(self) -> int:
        """Return how many queues may have a socket."""
        return self._maps['xsks'].max_entries

    def apply(self, settings: SteeringSettings) -> None:
        """
        Steer these from now on, in place of what this holder had; nothing is loaded again.

        Ports that stay are steered throughout.
        """
        wanted = np.zeros(_PORTS, np.uint8)
        for transport, bit in _BITS.items():
            wanted[list(getattr(settings, f'{transport}_ports'))] |= np.uint8(bit)
        changed = np.flatnonzero(wanted != self._ports)
        self._ports[changed] = wanted[changed]
        self._switches[0] = sum(bit for name, bit in _SWITCHES.items() if getattr(settings, name))
        self.settings = settings

    def read(self) -> SteeringSettings:
        """Return what is steered for this holder, as the maps say."""
        switches = int(self._switches[0])
        return SteeringSettings(
            **{f'{transport}_ports': tuple(np.flatnonzero(self._ports & np.uint8(bit)).tolist())
               for transport, bit in _BITS.items()},
            **{name: bool(switches & bit) for name, bit in _SWITCHES.items()})

    def set_socket(self, queue: int, fd: int) -> None:
        """
        Give a queue's packets to an AF_XDP socket; its entry goes when the socket is closed.

        :raises BypassError: another socket stands there, or there is no such entry
        """
        what = f'steer queue {queue} to an AF_XDP socket'
        try:
            syscall.map_update(self._maps['xsks'].fd, _WORD.pack(queue), _WORD.pack(fd),
                               syscall.UpdateFlag.NOEXIST)
        except OSError as error:
            reason, step = {
                errno.EEXIST: ('another socket stands there', 'end the process that has it'),
                errno.E2BIG: (f'the map has {self.queues} entries', 'use a lower queue'),
                errno.EOPNOTSUPP: ('that is no AF_XDP socket', ''),
            }.get(error.errno, ('', ''))
            raise BypassError(what, reason, errno=error.errno or 0, next_step=step) from error

    def clear_socket(self, queue: int) -> None:
        """Pass a queue's packets from now on."""
        syscall.map_delete(self._maps['xsks'].fd, _WORD.pack(queue))

    def sockets(self) -> dict[int, int]:
        """
        Return {queue: the queue that its socket is bound to}.

        :raises UnsupportedError: as of xskmap.bound_queues
        """
        return bound_queues(self._maps['xsks'].fd, self.queues)

    def counters(self) -> dict[str, int]:
        """Return packets by outcome."""
        table = self._maps['steering_counts']
        data = syscall.map_lookup(table.fd, bytes(4), table.value_size * self._cpus)
        words = struct.unpack(f'={len(data) // 8}Q', data)
        row = table.value_size // 8
        return {name: sum(words[number::row]) for name, number in _OUTCOMES.items()}

    def status(self) -> SteeringStatus:
        """Return what the slot does."""
        return SteeringStatus(self.settings, self.sockets(), self.counters())
