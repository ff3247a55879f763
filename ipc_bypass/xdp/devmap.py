"""
The slot of devmap forwarding: enrolled flows go from veth to veth of one bridge by XDP redirect.

Each array has its own tables, which hold the other containers of its bridge; one keeper writes
them all. Frames keep their addresses, so that a container takes only what has its MAC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import contextlib
import struct
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.pool.memory import map_shared
from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.ethtool import Ethtool
from ipc_bypass.xdp.fast_path.containers import BridgePort
from ipc_bypass.xdp.fast_path.keeper import Keeper
from ipc_bypass.xdp.features import xdp_features, XdpFeature
from ipc_bypass.xdp.interfaces import find_index
from ipc_bypass.xdp.peer import inside, peer, peer_namespace
import numpy as np

#: The kernel's names of the offloads that leave a checksum to the receiver's end.
_CHECKSUMS = ('tx-checksum-ip-generic', 'tx-checksum-ipv4', 'tx-checksum-ipv6')
_HEADER = 'xdp_devmap.h'
_MAPS = ('devmap_settings', 'devmap_ports', 'devmap_stations', 'devmap_totals')


class Devmap:
    """
    The tables of one interface's slot; for several threads.

    :param maps: LoadedSlot.maps; they stay the slot's
    """

    def __init__(self, maps: Mapping[str, LoadedMap]) -> None:
        self._maps = {name: maps[name] for name in _MAPS}
        enums = enumerations(bpf_source(_HEADER))
        self._transports = {'udp': enums['devmap_transport']['DEVMAP_UDP'],
                            'tcp': enums['devmap_transport']['DEVMAP_TCP']}
        reasons = enums['devmap_pass_reason']
        self.reasons = tuple(
            name.removeprefix('DEVMAP_PASS_').lower() for name, number in reasons.items()
            if 0 < number < reasons['DEVMAP_PASS_REASONS'])
        self._settings = self._view('devmap_settings')
        self._enrolled = self._view('devmap_ports', '<u8')

    def enroll(self, ranges: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """Make these the enrolled ports: {'udp': [(first, last)], 'tcp': [...]}."""
        words = np.zeros(65536, dtype='<u8')
        for transport, of_transport in ranges.items():
            for first, last in of_transport:
                words[first:last + 1] |= self._transports[transport]
        self._enrolled[:] = words

    def set_active(self, active: bool) -> None:
        """Forward frames, or none."""
        self._settings['active'] = int(active)

    def beat(self, until_ns: int) -> None:
        """Say that the tables are good until then (CLOCK_MONOTONIC)."""
        self._settings['fresh_until_ns'] = until_ns

    def set_source(self, mac: bytes | None) -> None:
        """Say whose frames come in here; nobody's are forwarded for None."""
        self._settings['known'] = 0
        if mac is not None:
            self._settings['mac'] = np.frombuffer(mac, 'u1')
            self._settings['known'] = 1

    def put(self, port: BridgePort) -> None:
        """Forward to a port's container from now on; OSError where there is no room."""
        container = port.container
        entry = self._maps['devmap_stations']
        room = entry.value.fields['address'].size // 4
        words = struct.unpack(f'={len(container.addresses) * 4}I', b''.join(container.addresses))
        syscall.map_update(entry.fd, self._key(port), entry.value.pack({
            'ifindex': port.index, 'mtu': container.mtu, 'addresses': len(container.addresses),
            'address': (*words, *(0,) * (room - len(words)))}))

    def remove(self, port: BridgePort) -> None:
        """Forward to a port's container no longer."""
        syscall.map_delete(self._maps['devmap_stations'].fd, self._key(port))

    def clear(self) -> None:
        """Forward to nobody."""
        entry = self._maps['devmap_stations']
        for key in list(syscall.map_keys(entry.fd, entry.key_size)):
            syscall.map_delete(entry.fd, key)

    def counters(self) -> dict[str, int]:
        """
        Return what became of the frames that came in here.

        `packets` (forwarded) and the sum of `passed_REASON` are all that the slot saw.
        """
        entry = self._maps['devmap_totals']
        raw = syscall.map_lookup(entry.fd, bytes(4), entry.value_size * syscall.possible_cpus())
        rows = np.frombuffer(raw, '<u8').reshape(-1, entry.value_size // 8)
        values = entry.value.unpack(rows.sum(axis=0, dtype='<u8').tobytes())
        return {'packets': values['packets'], 'bytes': values['bytes'],
                **{f'passed_{name}': values['passed'][number]
                   for number, name in enumerate(self.reasons, start=1)}}

    def _key(self, port: BridgePort) -> bytes:
        return self._maps['devmap_stations'].key.pack({'mac': port.container.mac})

    def _view(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Map an array; the kernel rounds values up to eight bytes (kernel/bpf/arraymap.c)."""
        entry = self._maps[name]
        made = np.dtype(dtype or entry.value.dtype_dict())
        size = (entry.value_size + 7) // 8 * 8 * entry.max_entries
        return np.frombuffer(map_shared(entry.fd, size), made, size // made.itemsize)


class DevmapForwarding:
    """
    Keeps the tables of all interfaces, in the namespace of the thread that calls start().

    :param bridges: names or globs of the bridges whose ports take part
    :param heartbeat_ms: how long frames are forwarded without a word from this process
    """

    def __init__(self, bridges: Iterable[str], *, heartbeat_ms: int = 500) -> None:
        self._bridges, self._heartbeat_ms = tuple(bridges), heartbeat_ms
        self._tables, self._keeper = _Tables(), None

    def start(self) -> None:
        """Begin to keep them; raises BypassError."""
        if self._keeper is None:
            self._keeper = Keeper(self._tables, self._bridges, None, past_xdp=False,
                                  heartbeat_ms=self._heartbeat_ms)

    def close(self) -> None:
        """Forward nothing any more."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()
        self._tables.close()

    def add(self, index: int, devmap: Devmap) -> None:
        """Take an interface's tables in hand, in place of those that it had."""
        self._tables.add(index, devmap)
        if self._keeper is not None:
            self._keeper.look_soon()

    def drop(self, index: int) -> None:
        """Let go of an interface's tables, as before its slot is unloaded."""
        self._tables.drop(index)

    def ports(self) -> dict[str, str]:
        """Return, by the name of each port, why it is not in use; '' where it is."""
        found = self._keeper.ports.values() if self._keeper is not None else ()
        return {port.name: port.obstacle or self._tables.obstacle(port.index) for port in found}

    @property
    def problem(self) -> str:
        """Return what went wrong at the last look, '' when all is well."""
        return self._keeper.problem if self._keeper is not None else ''


class _Tables:
    """What a Keeper writes: every interface's tables, together."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._devmaps: dict[int, Devmap] = {}
        self._prepared: dict[int, BridgePort] = {}
        self._used: dict[int, BridgePort] = {}
        self._obstacles: dict[int, str] = {}

    def add(self, index: int, devmap: Devmap) -> None:
        with self._lock:
            devmap.set_source(None)
            devmap.clear()
            self._devmaps[index] = devmap
            self.disable([index])  # so that the next look enters it, with all others

    def drop(self, index: int) -> None:
        with self._lock:
            devmap = self._devmaps.pop(index, None)
            if devmap is not None:
                devmap.set_source(None)
                devmap.clear()

    def close(self) -> None:
        for index in list(self._devmaps):
            self.drop(index)

    def obstacle(self, index: int) -> str:
        if index in self._used:
            return ''
        return self._obstacles.get(index, 'something has changed, and it is not sure yet')

    def disable(self, indices: Iterable[int] | None = None) -> None:
        with self._lock:
            for index in list(self._used) if indices is None else indices:
                port = self._used.pop(index, None)
                if index in self._devmaps:
                    # All of it, for it may come back on another bridge.
                    self._devmaps[index].set_source(None)
                    self._devmaps[index].clear()
                for other, devmap in self._devmaps.items() if port else ():
                    # Another bridge may have a container with the same MAC.
                    if self._together(other, port):
                        devmap.remove(port)

    def write(self, ports: Mapping[int, BridgePort]) -> list[int]:
        with self._lock:
            self.disable([index for index, port in self._used.items()
                          if ports.get(index) != port])
            self._prepared, self._obstacles = {}, {}
            for index, port in ports.items():
                if port.container and index not in self._used:
                    self._obstacles[index] = _far_end(index)
                    if not self._obstacles[index]:
                        self._prepared[index] = port
            return list(self._prepared)

    def activate(self, indices: Iterable[int]) -> None:
        with self._lock:
            for index in indices:
                port = self._used[index] = self._prepared[index]
                for other, devmap in self._devmaps.items():
                    if self._together(other, port):
                        devmap.put(port)
                if index in self._devmaps:
                    for other in self._used.values():
                        if other.index != index and other.bridge == port.bridge:
                            self._devmaps[index].put(other)
                    self._devmaps[index].set_source(port.container.mac)

    def beat(self, until_ns: int) -> None:
        with self._lock:
            for devmap in self._devmaps.values():
                devmap.beat(until_ns)

    def _together(self, index: int, port: BridgePort) -> bool:
        """Return whether an interface is another port of the same bridge."""
        other = self._used.get(index)
        return other is not None and index != port.index and other.bridge == port.bridge


def _far_end(index: int) -> str:
    """Return why frames cannot go from or to the container behind a veth, '' where they can."""
    offered = xdp_features(index)
    try:
        port = find_index(index)
        other, namespace = peer(port), peer_namespace(port)
        if offered is None:
            takes = other is not None and other.xdp_program_id
        else:
            takes = offered & XdpFeature.NDO_XMIT
        if not takes and offered is None:
            return 'the kernel does not tell whether the interface in the container takes such ' \
                'frames (from 6.3), and no XDP program is there'
        if not takes:
            return 'the interface in the container takes no such frames: ethtool -K NAME gro on ' \
                'there'
        if other is None or namespace is None:
            return 'the namespace of the container cannot be entered to see its offloads'
        with contextlib.suppress(KeyError):
            found = inside(namespace, lambda: _features(other.name))
            if any(found[name].active for name in _CHECKSUMS if name in found):
                return 'the container leaves checksums to the receiver: ethtool -K NAME tx off ' \
                    'there'
    except (InterfaceError, OSError) as error:
        return f'its far end cannot be looked at ({error})'
    return ''


def _features(name: str) -> dict:
    with Ethtool() as ethtool:
        return ethtool.features(name)
