"""The container fast path as one object: its life, its enrolled ports, and what it counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import functools
import ipaddress
import logging
import threading

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import LoadedObject, ProgramSpec
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.template import Template
from ipc_bypass.kernel.template_cache import cached_template
from ipc_bypass.kernel.uapi import ProgType
from ipc_bypass.xdp.fast_path.attach import TcAttachments, WAYS
from ipc_bypass.xdp.fast_path.keeper import Keeper
from ipc_bypass.xdp.fast_path.tables import Tables

SOURCE, PROGRAM = 'tc_fast_path.bpf.c', 'tc_fast_path'
# Maps with an entry for each port of a bridge.
_SIZED = ('fast_states', 'bridge_ports', 'stations', 'fast_totals')
#: What a user is told before anything else.
NOTICE = ('container fast path: frames of enrolled ports go past the netfilter rules, the '
          'queueing disciplines and the tcpdump of the bridge and of the receiving port')


@dataclass(frozen=True)
class FastPathSettings:
    """
    Settings of the fast path; the node's parameters of the same names with fast_path_ before.

    bridges       names or globs of the bridges whose ports take part; () is none
    udp_ports     ports or ranges '7400' or '7400-7500' as the destination of datagrams
    tcp_ports     the same, as either end of connections
    heartbeat_ms  how long frames are handed over without a word from this process
    max_ports     ports of bridges at one time
    attach_by     'auto', 'tcx' (kernel 6.6) or 'clsact'
    """

    bridges: tuple[str, ...] = ()
    udp_ports: tuple[str, ...] = ()
    tcp_ports: tuple[str, ...] = ()
    heartbeat_ms: int = 500
    max_ports: int = 1024
    attach_by: str = 'auto'


@dataclass(frozen=True)
class PortStatus:
    """
    One port of a bridge, as it was at the last look.

    `in_use` says whether frames are handed over from and to it, `obstacle` why not; `mac` and
    `addresses` are the container's, `namespace` the number of its namespace in ours (-1: none).
    `counters` are of the frames that came in here.
    """

    name: str
    bridge: str
    in_use: bool
    obstacle: str
    namespace: int
    mac: str
    addresses: tuple[str, ...]
    counters: dict[str, int]


class FastPath:
    """
    The fast path of one network namespace; every method may be called from any thread.

    It acts in the namespace of the thread that calls attach(). `way` is how it is attached.
    """

    def __init__(self, settings: FastPathSettings | None = None,
                 logger: logging.Logger | None = None) -> None:
        """
        Remember the settings; nothing is touched before `load`.

        :raises BypassError: a setting makes no sense
        """
        self.settings = settings or FastPathSettings()
        _check(self.settings)
        self._ranges = {'udp': _ranges('udp', self.settings.udp_ports),
                        'tcp': _ranges('tcp', self.settings.tcp_ports)}
        self._log = logger or logging.getLogger('ipc_bypass.xdp')
        self._lock = threading.RLock()
        self._object: LoadedObject | None = None
        self._tables: Tables | None = None
        self._keeper: Keeper | None = None

    # Life -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Compile, and make the maps; raises BypassError and leaves nothing behind."""
        with self._lock:
            if self._object:
                return
            loaded = _template().instantiate(
                sizes=dict.fromkeys(_SIZED, self.settings.max_ports + 1))
            try:
                self._tables = Tables(loaded.maps)
                self._tables.enroll(self._ranges)
            except BaseException:
                loaded.close()
                raise
            self._object = loaded

    def attach(self) -> None:
        """Attach to every port of the bridges, those that come later too; raises BypassError."""
        with self._lock:
            if self._keeper:
                return
            self.load()
            self._keeper = Keeper(
                self._tables, self.settings.bridges,
                TcAttachments(self._object.programs[PROGRAM], self.settings.attach_by),
                heartbeat_ms=self.settings.heartbeat_ms)
            self._tables.set_active(True)
            self._log.warning(NOTICE)

    def detach(self) -> None:
        """Let everything go by the bridge at once, and detach; what was counted stays."""
        with self._lock:
            if self._keeper:
                self._tables.set_active(False)
                keeper, self._keeper = self._keeper, None
                keeper.close()
                wait_for_programs()
                self._tables.write({})

    def close(self) -> None:
        """Detach, and release everything."""
        with self._lock:
            self.detach()
            if self._object:
                self._object.close()
                self._object = self._tables = None

    def __enter__(self) -> FastPath:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Detach, and release everything."""
        self.close()

    # Rules ------------------------------------------------------------------------------------

    def set_ports(self, *, udp: Iterable[str] = (), tcp: Iterable[str] = ()) -> None:
        """
        Make these the enrolled ports; frames obey from the next one on.

        :param udp: ports or ranges, '7400' or '7400-7500'
        :param tcp: the same
        :raises BypassError: one makes no sense; the enrolled ports are as they were
        """
        ranges = {'udp': _ranges('udp', udp), 'tcp': _ranges('tcp', tcp)}
        with self._lock:
            self._ranges = ranges
            if self._tables:
                self._tables.enroll(ranges)

    # What is shown ----------------------------------------------------------------------------

    @property
    def way(self) -> str:
        """Return 'tcx', 'clsact', or '' where it is attached nowhere."""
        keeper = self._keeper
        return keeper.way if keeper else ''

    @property
    def problem(self) -> str:
        """Return what went wrong at the last look at the bridges, '' when all is well."""
        keeper = self._keeper
        return keeper.problem if keeper else ''

    @property
    def program_info(self):
        """Return what the kernel tells of the program, None before it is loaded."""
        return self._object.program_info[PROGRAM] if self._object else None

    def counters(self) -> dict[str, int]:
        """
        Return the monotonic counters of frames by name, {} before it is loaded.

        `packets` (handed over) and the sum of all `passed_REASON` are all that came in at the
        ports; `bytes` are those of the frames that were handed over; `moves` counts MACs that
        were seen at another port than their container's.
        """
        with self._lock:
            return self._tables.counters() if self._tables else {}

    def ports(self) -> list[PortStatus]:
        """Return the ports of the bridges, by bridge and name."""
        with self._lock:
            if not self._keeper:
                return []
            found = [self._status(port) for port in self._keeper.ports.values()]
        return sorted(found, key=lambda status: (status.bridge, status.name))

    def _status(self, port) -> PortStatus:
        container, in_use = port.container, self._tables.in_use(port.index)
        obstacle = port.obstacle
        if not obstacle and not in_use:
            obstacle = 'something has changed, and it is not sure yet' \
                if self._tables.has(port.index) else 'there are more ports than max_ports'
        return PortStatus(
            port.name, port.bridge_name, in_use, obstacle,
            container.namespace if container else -1,
            container.mac.hex(':') if container else '',
            tuple(map(_text, container.addresses)) if container else (),
            self._tables.port_counters(port.index))


@functools.lru_cache(maxsize=1)
def _template() -> Template:
    """Return the program, compiled once a process."""
    return cached_template(bpf_source(SOURCE), {'PORTS': FastPathSettings.max_ports + 1},
                           [ProgramSpec(PROGRAM, ProgType.SCHED_CLS)])


def _text(address: bytes) -> str:
    found = ipaddress.IPv6Address(address)
    return str(found.ipv4_mapped or found)


def _ranges(transport: str, texts: Iterable[str]) -> list[tuple[int, int]]:
    """Return [(first, last)] of '7400' and '7400-7500'."""
    found = []
    for text in map(str, texts):
        first, dash, last = text.partition('-')
        try:
            pair = int(first), int(last if dash else first)
        except ValueError:
            pair = 0, 0
        if not 0 < pair[0] <= pair[1] < 65536:
            raise BypassError(f"enroll {transport} port '{text}'", 'it is no port or range',
                              next_step='write 7400 or 7400-7500')
        found.append(pair)
    return found


def _check(settings: FastPathSettings) -> None:
    if settings.attach_by not in WAYS:
        raise BypassError(f"attach by '{settings.attach_by}'", 'there is no such way',
                          next_step=f"use one of {', '.join(WAYS)}")
    if settings.heartbeat_ms < 20 or settings.max_ports < 1:
        raise BypassError('set up the container fast path',
                          'heartbeat_ms has to be at least 20, and max_ports at least 1',
                          next_step='change the parameters')
