"""The maps and programs of the UDP path: loaded, mapped, and pinned for consumers."""

import contextlib
import mmap
import os
import struct

from ipc_bypass.kernel import bpffs, syscall
from ipc_bypass.kernel.errors import SHORTAGES, UnsupportedError, VerifierError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.ordering import WEAK
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import AttachType, MapType, ProgType
from ipc_bypass.pool import layout
from ipc_bypass.pool.memory import map_shared, PoolMemory, write_header
from ipc_bypass.udp.error_queue import error_queue_definitions
import numpy as np

SOURCE, HEADER = 'udp_path.bpf.c', 'udp_path.h'
CAPTURE = 'skb_capture'
#: Programs that note who sends, for kernels where CAPTURE may not ask.
NOTES = (ProgramSpec('note_connect4', ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT),
         ProgramSpec('note_connect6', ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_CONNECT),
         ProgramSpec('note_sendmsg4', ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP4_SENDMSG),
         ProgramSpec('note_sendmsg6', ProgType.CGROUP_SOCK_ADDR, AttachType.CGROUP_UDP6_SENDMSG),
         ProgramSpec('note_bind4', ProgType.CGROUP_SOCK, AttachType.CGROUP_INET4_POST_BIND),
         ProgramSpec('note_bind6', ProgType.CGROUP_SOCK, AttachType.CGROUP_INET6_POST_BIND))
PRIVATE_MAPS = ('claims', 'allocator', 'udp_rules', 'receivers', 'udp_settings', 'udp_totals',
                'endpoints', 'udp_sockets', 'destinations', 'wakes')
LAYOUT_VERSION = 1
_CAPTURE = ProgramSpec(CAPTURE, ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS)
#: Ports and senders with statistics; those that sent longest ago make room.
ENDPOINTS = 4096


class UdpObjects:
    """
    Maps, programs and mapped arrays of one start.

    `memory` is the pool; `claims` and `allocator` are numpy views of the private arrays;
    `enums` the constants of the header; `notes` what is not at its best here, one line each.
    """

    def __init__(self, settings, *, current_pid=True):
        """Load; raises BypassError and leaves nothing behind. The pool is not pinned yet."""
        self.settings, self.notes, self.wake_fds = settings, [], {}
        self.slots = layout.slot_counts(settings.pool_size)
        self.entries = layout.entries_for(self.slots)
        self.enums = enumerations(bpf_source(HEADER))
        self.notes_senders = False
        self._object = None
        self.can_divert = False
        try:
            self._load(current_pid)
            self._make_wakes()
            self._map()
        except BaseException:
            self.close()
            raise

    @property
    def maps(self):
        """Return the maps by name."""
        return self._object.maps

    @property
    def program_info(self):
        """Return what the kernel tells of each program, by name."""
        return self._object.program_info

    def attachments(self):
        """Return [(ProgramSpec, descriptor)] of what is to be attached, CAPTURE last."""
        return [(spec, self._object.programs[spec.name])
                for spec in (*(NOTES if self.notes_senders else ()), _CAPTURE)]

    @contextlib.contextmanager
    def pinned(self, folder):
        """Pin what another program needs to write to the pool, for as long as it is loaded."""
        pins = bpffs.PinDirectory(folder)
        pins.publish({name: self.maps[name].fd for name in (
            *layout.PARTS[1:], 'claims', 'allocator', 'udp_settings', 'wakes')},
            replace=bool(pins.list()))
        try:
            yield {**self._sizes(), 'POOL_PINS': f'"{folder}"'}
        finally:
            pins.remove()

    def handed_out(self):
        """Return {name: descriptor} of what consumers get."""
        return {**{name: self.maps[name].fd for name in layout.PARTS},
                **{f'wake_{ring}': fd for ring, fd in self.wake_fds.items()}}

    def set_rules(self, shared):
        """Write [(port, action name, rule id, ring or None)] over all ports, in one pass."""
        words = np.zeros(65536, dtype='<u8')
        actions = {name: number for number, name in layout.ACTIONS.items()}
        for port, action, rule_id, ring in shared:
            words[port] = actions[action] | (0 if ring is None else ring + 1) << 8 | rule_id << 32
        changed = np.flatnonzero(self.rule_words != words)
        self.rule_words[changed] = words[changed]

    def set(self, name, value):  # noqa: A003
        """Write one setting."""
        self._settings_view[name] = value

    def set_use_limit(self, percent):
        """Write above how many slots in use datagrams go the usual way."""
        self.set('use_limit', [max(1, count * percent // 100) for count in self.slots])

    def totals(self):
        """Return struct udp_totals summed over processors: {field: int or list of ints}."""
        entry = self.maps['udp_totals']
        size = (entry.value_size + 7) // 8
        rows = np.frombuffer(self.totals_data(), '<u8').reshape(-1, size).sum(axis=0, dtype='<u8')
        packed = entry.value.unpack(rows.tobytes())
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in packed.items()}

    def totals_data(self):
        """Return struct udp_totals of every processor as bytes, to see whether it changed."""
        entry = self.maps['udp_totals']
        size = (entry.value_size + 7) // 8 * 8
        return syscall.map_lookup(entry.fd, bytes(4), size * syscall.possible_cpus())

    def endpoints(self):
        """Return [(key, totals)] of struct udp_endpoint and udp_endpoint_totals, as dicts."""
        entry = self.maps['endpoints']
        return [(entry.key.unpack(key), entry.value.unpack(value)) for key, value in
                syscall.map_items(entry.fd, entry.key_size, entry.value_size)]

    def exempt(self, fd):
        """Have the sends of a socket go the usual way."""
        self.set('exempt_sockets', 1)
        value = self.maps['udp_sockets'].value
        packed = bytearray(value.size)
        place = value.fields['exempt']
        packed[place.offset:place.offset + 4] = (1).to_bytes(4, 'little')
        syscall.map_update(self.maps['udp_sockets'].fd, struct.pack('=i', fd), bytes(packed))

    def close(self):
        """Close every descriptor; what is mapped goes with its last user."""
        for fd in self.wake_fds.values():
            os.close(fd)
        self.wake_fds = {}
        if self._object:
            self._object.close()
            self._object = None

    def _sizes(self):
        return {'SMALL_SLOTS': self.slots[0], 'LARGE_SLOTS': self.slots[1],
                'RINGS': self.settings.max_consumers, 'RING_ENTRIES': self.entries,
                'ORDERED_STORES': int(not WEAK)}

    def _load(self, current_pid):
        base = {**self._sizes(), 'ENDPOINTS': ENDPOINTS}
        choices = ([1] if current_pid else []) + [0]
        try:
            queue = {'ERROR_QUEUE': 1, **error_queue_definitions()}
        except UnsupportedError as error:
            queue = {'ERROR_QUEUE': 0}
            self.notes.append(f'nothing can be diverted, for IP_RECVERR cannot be seen: {error}')
        self.can_divert = bool(queue['ERROR_QUEUE'])
        for number, ask in enumerate(choices):
            try:
                self._object = load_object(
                    bpf_source(SOURCE), {**base, **queue, 'CURRENT_PID': ask},
                    [_CAPTURE, *(() if ask else NOTES)], [*layout.PARTS, *PRIVATE_MAPS])
            except VerifierError as error:
                # A shortage is not what the next choice can do without.
                if number == len(choices) - 1 or error.errno in SHORTAGES:
                    raise
                continue
            self.notes_senders = not ask
            return

    def _make_wakes(self):
        for ring in range(self.settings.max_consumers):
            fd = syscall.map_create(MapType.RINGBUF, 0, 0, mmap.PAGESIZE, name=f'wake_{ring}')
            self.wake_fds[ring] = fd
            syscall.map_update(self.maps['wakes'].fd, struct.pack('=I', ring),
                               struct.pack('=I', fd))

    def _map(self):
        write_header(self._array('pool_header'), self.slots, self.settings.max_consumers,
                     self.entries, self.settings.watchdog_ms)
        self.memory = PoolMemory.from_descriptors(
            {name: self.maps[name].fd for name in layout.PARTS})
        self._settings_view = self._array('udp_settings')
        self.claims = self._array('claims', '<u8')
        self.rule_words = self._array('udp_rules', '<u8')
        self.receivers = self._array('receivers', '<u4', stride=2)
        self.allocator = self._array('allocator')
        self.set('layout_version', LAYOUT_VERSION)

    def _array(self, name, dtype=None, stride=1):
        """Map an array; the kernel rounds values up to eight bytes (kernel/bpf/arraymap.c)."""
        entry = self.maps[name]
        dtype = np.dtype(dtype or entry.value.dtype_dict())
        size = (entry.value_size + 7) // 8 * 8 * entry.max_entries
        view = np.frombuffer(map_shared(entry.fd, size), dtype, size // dtype.itemsize)
        return view[::stride]
