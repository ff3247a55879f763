"""
The maps and programs of the TCP path: loaded, or taken over from the pins of an earlier start.

Open connections hold the program, and the program its maps. A start that finds pins of the very
same programs goes on with them, so that those connections are accelerated again; pins of other
programs are told to pass, and dropped: their connections keep what they need until they end.
"""

import contextlib
import os
from pathlib import Path

from ipc_bypass.kernel import bpffs, syscall
from ipc_bypass.kernel.errors import PinError, SHORTAGES, UnsupportedError, VerifierError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.loader import load_object, LoadedMap, ProgramSpec
from ipc_bypass.kernel.pin_owner import PinOwner
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.tcp.offsets import kernel_offsets, QUEUED, REQUIRED, UNKNOWN, WATCH
from ipc_bypass.tcp.views import ArrayView, FlowsView, RulesView, TotalsView

SOURCE, HEADER = 'tcp_path.bpf.c', 'ipc_bypass_common.h'
ESTABLISH, STEER, PASS = 'sockops_establish', 'msg_steer', 'skb_pass'
PROGRAMS = (ProgramSpec(ESTABLISH, ProgType.SOCK_OPS), ProgramSpec(STEER, ProgType.SK_MSG),
            ProgramSpec(PASS, ProgType.SK_SKB))
EXCLUSION_MAPS = ('exclusion_marks', 'exclusions', 'excluded_names', 'excluded_users',
                  'left_out_ends')
MAPS = ('sockets', 'socket_states', 'ends', 'flows', 'tcp_rules', 'totals', 'settings',
        'free_flows', 'arrivals', *EXCLUSION_MAPS)
GATEWAY_MAPS = ('gateway_ends', 'gateway_keys', 'gateway_sockets')
LAYOUT_VERSION = 4


class TcpObjects:
    """
    Maps, programs and mapped arrays of one start.

    `enums` are the constants that the programs share with this process, by enumeration and name;
    `adopted` says whether they were taken over; `view_reason` why the program cannot see the
    kernel's queues, '' when it can; `program_renewal` whether it renews budgets by itself.
    """

    def __init__(self, settings, *, renewal='auto', bpffs_mount=True, kernel_view=True,
                 pool=None, gateway=False):
        """
        Load or adopt; raises BypassError and leaves nothing behind then.

        `kernel_view` False builds the programs as for a kernel that hides its queues. `pool`
        are the definitions of a pool that redirected messages may be copied to. `gateway` has
        the programs bring the ends beyond a proxy of ours together, see tcp/gateway.py.
        """
        self._pool = {'CAPTURE': 1, **pool} if pool else {'CAPTURE': 0}
        self._gateway = gateway
        self._settings, self._kernel_view = settings, kernel_view
        self.enums = enumerations(bpf_source(HEADER))
        self.adopted, self.view_reason, self.program_renewal = False, '', False
        self._owner, self._pins, self._object = None, None, None
        self.views, self.watch_definitions = [], []
        try:
            if settings.pin_directory:
                self._open_pins(bpffs_mount)
            self._load(renewal)
            if self._pins:
                self._adopt()
            self._map_arrays()
            if not self.adopted:
                self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def maps(self):
        """Return the maps by name."""
        return self._object.maps

    @property
    def programs(self):
        """Return the programs' descriptors by name."""
        return self._object.programs

    @property
    def verified_instructions(self):
        """Return how many instructions the verifier processed, by program."""
        return {name: info.verified_insns for name, info in self._object.program_info.items()}

    def attach_skb_pass(self):
        """Put the work-around for FIONREAD in place, for sockets entered from now on."""
        try:
            syscall.prog_attach(self.maps['sockets'].fd, self.programs[PASS],
                                AttachType.SK_SKB_VERDICT)
        except OSError as error:
            raise UnsupportedError(
                'work around what this kernel makes of passed bytes, by sk_skb', 'it takes no '
                'verdict program without a parser', errno=error.errno or 0,
                next_step='use kernel 5.13 or later') from error
        self.settings_view.put(0, 'skb_pass_attached', 1)

    def entered(self, key):
        """Return whether the socket of an unpacked end_key is still in the map."""
        packed = self.maps['ends'].key.pack(key)
        return syscall.map_lookup(self.maps['sockets'].fd, packed, 8) is not None

    def publish(self):
        """Pin everything, in place of the pins of another version; does nothing without pins."""
        if self._pins and not self.adopted:
            self._pins.publish(self._pinned(), replace=bool(self._pins.list()))

    def remove_pins(self):
        """Remove the pins; what connections hold stays until they end."""
        if self._pins:
            self._pins.remove()

    def close(self):
        """Close every descriptor and mapping."""
        for view in self.views:
            view.close()
        self.views = []
        if self._object:
            self._object.close()
            self._object = None
        if self._owner:
            self._owner.close(keep=self._keeps_pins())
            self._owner = None
        self._pins = None

    def _keeps_pins(self):
        try:
            return bool(self._pins and self._pins.list())
        except (OSError, PinError):
            return True

    def _open_pins(self, mount):
        """Take the pin folder for the life of this process: one node a folder."""
        pins = bpffs.PinDirectory(Path(self._settings.pin_directory) / 'tcp')
        self._owner = PinOwner(self._settings.pin_directory, 'owner', trust=pins.list,
                               mount=mount)
        self._pins = pins

    def _definitions(self, renewal):
        """Return the definitions, the first choice first."""
        base = {'MAX_FLOWS': 2 * self._settings.max_connections,
                'GATEWAY': int(self._gateway), **self._pool}
        blind = {**base, 'KERNEL_VIEW': 0, 'PROGRAM_RENEWAL': 0, 'WAKE': 1}
        if not self._kernel_view:
            self.view_reason = 'it was asked not to look'
            return [blind]
        try:
            offsets = kernel_offsets()
        except UnsupportedError as error:
            self.view_reason = str(error)
            return [blind]
        self.watch_definitions = offsets.pop(WATCH)
        missing = [name for name in REQUIRED if offsets[name] is None]
        if missing:
            self.view_reason = f"the kernel's type information lacks {', '.join(missing)}"
            return [blind]
        known = {name: UNKNOWN if value is None else value for name, value in offsets.items()}
        by_program = renewal != 'userspace' and any(known[name] != UNKNOWN for name in QUEUED)
        return [{**base, **known, 'KERNEL_VIEW': 1, 'PROGRAM_RENEWAL': int(by_program),
                 'WAKE': int(not by_program)}, blind]

    def _load(self, renewal):
        choices = self._definitions(renewal)
        if self._gateway:
            choices = [choice for choice in choices if choice['KERNEL_VIEW']]
            if not choices:
                raise UnsupportedError('bring the ends of a gateway together', self.view_reason,
                                       next_step='use a kernel with BTF')
        for number, definitions in enumerate(choices):
            maps = MAPS + (('wake',) if definitions['WAKE'] else ()) + (
                GATEWAY_MAPS if self._gateway else ())
            try:
                self._object = load_object(bpf_source(SOURCE), definitions, PROGRAMS, maps)
            except (VerifierError, UnsupportedError) as error:
                # A shortage is not what the next choice can do without.
                if number == len(choices) - 1 or error.errno in SHORTAGES:
                    raise
                self.view_reason = str(error)
                continue
            self.program_renewal = bool(definitions['PROGRAM_RENEWAL'])
            return

    def _pinned(self):
        """Return the descriptors to pin by name."""
        return {**{f'map_{name}': entry.fd for name, entry in self.maps.items()},
                **{f'prog_{name}': fd for name, fd in self.programs.items()}}

    def _adopt(self):
        """Go on with the pinned objects where they are those that were just loaded."""
        names = self._pins.list()
        if not names:
            return
        with contextlib.ExitStack() as stack:
            found = {}
            for name in names:
                found[name] = self._pins.open(name)
                stack.callback(os.close, found[name])
            if self._same(found):
                ours = self._object
                maps = {name: LoadedMap(os.dup(found[f'map_{name}']), entry.type,
                                        entry.key_size, entry.value_size, entry.max_entries,
                                        entry.key, entry.value)
                        for name, entry in ours.maps.items()}
                programs = {name: os.dup(found[f'prog_{name}']) for name in ours.programs}
                ours.close()
                ours.maps, ours.programs = maps, programs
                self.adopted = True
            else:
                self._tell_to_pass(found)

    def _same(self, found):
        """Return whether pinned programs and maps are what was just loaded."""
        # What was built with another pool would copy into that one.
        if self._pool['CAPTURE'] or set(found) != set(self._pinned()):
            return False
        for name, entry in self.maps.items():
            info = syscall.map_info(found[f'map_{name}'])
            if (info.type, info.key_size, info.value_size, info.max_entries) != \
                    (entry.type, entry.key_size, entry.value_size, entry.max_entries):
                return False
        if self._layout_version(found['map_settings']) != LAYOUT_VERSION:
            return False
        return all(syscall.prog_info(found[f'prog_{name}']).tag == info.tag
                   for name, info in self._object.program_info.items())

    def _layout_version(self, fd):
        """Return the mark of a pinned map of settings, its first word."""
        value = syscall.map_lookup(fd, bytes(4), self.maps['settings'].value_size)
        return int.from_bytes(value[:4], 'little')

    def _tell_to_pass(self, found):
        """Turn connections of another version to pass: its first words are the same for ever."""
        if 'map_settings' not in found:
            return
        info = syscall.map_info(found['map_settings'])
        value = bytearray(syscall.map_lookup(found['map_settings'], bytes(4), info.value_size))
        value[4:8] = bytes(4)  # struct settings: layout_version, active
        syscall.map_update(found['map_settings'], bytes(4), bytes(value))

    def _map_arrays(self):
        self.flows = FlowsView(self.maps['flows'])
        self.views.append(self.flows)
        self.totals = TotalsView(self.maps['totals'])
        self.views.append(self.totals)
        self.rules = RulesView(self.maps['tcp_rules'])
        self.views.append(self.rules)
        self.settings_view = ArrayView(self.maps['settings'])
        self.views.append(self.settings_view)

    def _prepare(self):
        """Fill the queue of free records and attach the program that steers."""
        for index in range(self.flows.count):
            syscall.map_update(self.maps['free_flows'].fd, b'', index.to_bytes(4, 'little'))
        self.settings_view.put(0, 'layout_version', LAYOUT_VERSION)
        syscall.prog_attach(self.maps['sockets'].fd, self.programs[STEER],
                            AttachType.SK_MSG_VERDICT)
