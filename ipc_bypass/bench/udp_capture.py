"""The UDP path as the UDP bench has it: on or off, and leases to hand to a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import tempfile

from ipc_bypass.bench.rows import Cell
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.pool.channel import Client, VERSION
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings

UDP, MIRROR, DIVERT = 'udp', 'mirror', 'divert'
PATHS = (UDP, MIRROR, DIVERT)

#: Below Linux's ephemeral range, and beside the ports of the other benches.
PORTS = {UDP: 27602, MIRROR: 27600, DIVERT: 27601}
#: Cyclone's, from DDS_PORT_BASE + 10 on (RTPS 2.5, 9.6.1.1).
DDS_PORT_BASE = 27500
DDS_PORTS = range(DDS_PORT_BASE + 10, DDS_PORT_BASE + 60)
RULES = {MIRROR: f'udp:{PORTS[MIRROR]}:mirror', DIVERT: f'udp:{PORTS[DIVERT]}:divert',
         'dds': f'udp:{DDS_PORTS[0]}-{DDS_PORTS[-1]}:mirror'}

_HEARTBEAT_MS = 5000


class CaptureError(BypassError):
    """What was to be captured was not: the figures would be those of plain UDP."""


@dataclass(frozen=True)
class Lease:
    """What a reader in C needs: its options, and the descriptors that it inherits."""

    options: dict[str, int]
    descriptors: tuple[int, ...]


class Capture:
    """
    A UdpPath of our own, with a pool and rules for PORTS and DDS_PORTS; nothing is pinned.

    A context manager. It captures within `on()` only, and is detached otherwise.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_')
        self.control = str(Path(self._folder.name) / 'pool.sock')
        # A reader may have to wait for a processor: what is measured is not its heartbeat.
        self._path = UdpPath(UdpSettings(
            udp_path='cgroup_skb', pin_directory='', control_socket=self.control,
            heartbeat_ms=_HEARTBEAT_MS, slot_ttl_ms=4 * _HEARTBEAT_MS))

    def __enter__(self) -> Capture:
        try:
            self._path.configure()
            table = RuleTable()
            table.add('udp', PORTS[MIRROR], 0, 'mirror')
            table.add('udp', PORTS[DIVERT], 0, 'divert')
            table.add('udp', DDS_PORTS[0], DDS_PORTS[-1], 'mirror')
            self._path.set_rules(table.rules())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        try:
            self._path.cleanup()
        finally:
            self._folder.cleanup()

    @contextmanager
    def on(self, wanted: bool = True) -> Iterator[None]:
        """Capture while the context lasts; `wanted` False leaves it off."""
        if not wanted:
            yield
            return
        self._path.activate()
        try:
            yield
        finally:
            self._path.deactivate()

    @contextmanager
    def lease(self, rules: Sequence[str]) -> Iterator[Lease]:
        """Give the lease of some rules, for a reader that inherits the pool's descriptors."""
        client, descriptors = Client(self.control), []
        try:
            client.ask(op='open', rules=list(rules), observe=False, claims=[], name='bench',
                       version=VERSION)
            answer, descriptors = client.ask(op='maps')
            found = dict(zip(answer['descriptors'], descriptors, strict=True))
            lease, _ = client.ask(op='lease')
            wake = found[f"wake_{lease['ring']}"]
            options = {name: fd for name, fd in found.items() if not name.startswith('wake_')}
            numbers = {name: lease[name] for name in ('ring', 'generation', 'cursor')}
            yield Lease({**options, 'wake': wake, **numbers}, (*options.values(), wake))
        finally:
            for fd in descriptors:
                os.close(fd)
            client.close()

    def counters(self) -> dict[str, int]:
        """Return the counters of the path by name."""
        return self._path.counters()

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Give a dict that holds, after the context, by how much each counter grew."""
        before, grown = self.counters(), {}
        yield grown
        grown.update({name: value - before.get(name, 0)
                      for name, value in self.counters().items()})


def captured(grown: dict[str, int]) -> int:
    """Return the datagrams that were captured, of what `Capture.counted` gave."""
    return grown['captured_mirror'] + grown['captured_divert']


def passed(grown: dict[str, int]) -> dict[str, int]:
    """Return {reason: datagrams} of those that went the usual way."""
    return {name.removeprefix('passed_'): value for name, value in grown.items()
            if name.startswith('passed_') and name != 'passed_bytes' and value}


def must_be_captured(cell: Cell, grown: dict[str, int], share: float = 0.9) -> None:
    """Raise CaptureError where less than a share of what the path saw was captured."""
    took, left = captured(grown), passed(grown)
    if cell.path != UDP and took < share * (took + sum(left.values()) or 1):
        reasons = ', '.join(f'{name} {value}' for name, value in left.items())
        raise CaptureError(f'measure {cell.path}, {cell.workload}',
                           f'{took} datagrams were captured, and not: {reasons or "none seen"}')
