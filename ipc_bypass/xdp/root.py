"""
The root array of one interface: a root XDP program, and eight slots for programs behind it.

Programs are compiled once a process (templates.Templates) and loaded by bpf(2). The array, the
counters and what stands in the slots are pinned, so that others can look at them; the attachment
is not: it ends with the process, and the interface carries on without us.
"""

import contextlib
from dataclasses import dataclass
import errno
import os
from pathlib import Path
import struct

from ipc_bypass.kernel import bpffs, syscall
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.pin_owner import PinOwner
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.xdp import dispatcher
from ipc_bypass.xdp.array_view import ArrayView
from ipc_bypass.xdp.attach import remove_leftover, XdpAttachment
from ipc_bypass.xdp.kinds import SHARED_MAPS, SLOTS
from ipc_bypass.xdp.root_pins import pin_name, remove_stale
from ipc_bypass.xdp.templates import Templates

#: Interfaces with a larger MTU get programs that see packets of several buffers: what fits into
#: one page of 4,096 bytes with the kernel's own parts, as veth counts it (drivers/net/veth.c).
LARGEST_PLAIN_MTU = 3400
FRAGS = ('auto', 'on', 'off')
# Of SHARED_MAPS, what others may look at.
_PINNED_MAPS = ('slots', 'counters', 'switches')
DEFAULT_PIN_DIRECTORY = '/sys/fs/bpf/ipc_bypass'


@dataclass(frozen=True)
class RootSettings:
    """
    How an array is made.

    `frags` is one of FRAGS: whether programs take packets of several buffers, which a large MTU
    needs (auto: where the MTU is above LARGEST_PLAIN_MTU). `pin_directory` is a folder in a
    bpffs; '' pins nothing. `trace` prints every decision to the kernel's trace pipe.
    """

    frags: str = 'auto'
    pin_directory: str = DEFAULT_PIN_DIRECTORY
    trace: bool = False


@dataclass(frozen=True)
class LoadedSlot:
    """
    What stands in a slot.

    `kind` as in SlotProgram, 'foreign' for a program that another tool pinned; `maps` are the
    program's own LoadedMaps by name; `description` says where it came from.
    """

    kind: str
    program: int
    program_id: int
    maps: dict[str, LoadedMap]
    description: str


class RootArray:
    """The array of one interface; see `attach`. Use one thread at a time."""

    def __init__(self, interface, settings=None, *, templates=None):
        """
        Load the root and make the array, attached to nothing yet.

        :param interface: an interfaces.Interface, in this thread's network namespace
        :param settings: RootSettings
        :param templates: a Templates that several arrays share
        :raises BypassError: when something is missing, or another process has this interface
        """
        self.interface, self.settings = interface, settings or RootSettings()
        # Recent kernels let only programs of one expected attach type stand in an array. Those of
        # libbpf and bpftool have BPF_XDP; what goes on from libxdp's dispatcher has none.
        beside = dispatcher.of(interface) is not None
        self._attach_type = None if beside else AttachType.XDP
        self.frags = not beside and _frags(interface, self.settings.frags)
        self._templates = templates or Templates()
        self._slots, self._attachment = {}, None
        self._parts = contextlib.ExitStack()
        try:
            self._pins = self._take_pins()
            if self._pins is not None:  # nobody else of ours has this interface
                remove_leftover(interface, 'xdp_root')
            root = self._templates.root(self.frags, self._attach_type)
            self._root = root.instantiate(frags=self.frags)
            self._parts.enter_context(self._root)
            self.view = ArrayView(self._root.maps['slots'].fd, self._root.maps['counters'].fd)
            self.set_trace(self.settings.trace)
            self._publish()
        except BaseException:
            self.close()
            raise

    @property
    def root_program(self):
        """Return the descriptor of the root program, for PROG_TEST_RUN and for attaching."""
        return self._root.programs['xdp_root']

    @property
    def slots(self):
        """Return {index: LoadedSlot} of the slots that are not empty."""
        return dict(self._slots)

    @property
    def attachment(self):
        """Return the attach.XdpAttachment, None while it is not attached."""
        return self._attachment

    def attach(self, mode='auto'):
        """Attach the root to its interface; raises BypassError. See attach.XdpAttachment."""
        if self._attachment is None:
            attachment = XdpAttachment(self.interface)
            attachment.attach(self.root_program, mode, frags=self.frags)
            self._attachment = attachment

    def detach(self):
        """Detach the root at once; the slots stay loaded."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()
            wait_for_programs()

    def load(self, index, program, *, keep_maps=True, prepare=None):
        """
        Put a program into a slot, in place of what stands there in one step.

        :param program: a kinds.SlotProgram
        :param keep_maps: let it have the maps of a program of the same kind that it replaces,
            where they have the same shape
        :param prepare: called with the program's own maps before it stands in the slot; what
            it raises is passed on
        :returns: LoadedSlot; the slot's counters go on when the kind is the same, and begin
            at 0 otherwise
        :raises BypassError: when it cannot be loaded; the slot is as it was
        """
        _check_index(index)
        before = self._slots.get(index)
        template = self._templates.slot(program, index, self.frags, self._attach_type)
        shared = {name: self._root.maps[name].fd for name in SHARED_MAPS}
        if before is not None and keep_maps and (before.kind, before.description) == (
                program.kind, _description(program)):
            shared |= {name: entry.fd for name, entry in before.maps.items()
                       if _same_shape(entry, template.maps.get(name),
                                      program.sizes.get(name))}
        loaded = template.instantiate(reuse=shared, sizes=program.sizes, frags=self.frags)
        for name in SHARED_MAPS:
            os.close(loaded.maps.pop(name).fd)
        slot = LoadedSlot(program.kind, loaded.programs[program.program],
                          loaded.program_info[program.program].id, loaded.maps,
                          _description(program))
        if prepare is not None:
            try:
                prepare(slot.maps)
            except BaseException:
                _close(slot)
                raise
        return self._put(index, slot)

    def load_pinned(self, index, path):
        """
        Put a program that another tool pinned into a slot; it ends the chain.

        :raises BypassError: when there is none, or it does not fit; the slot is as it was
        """
        _check_index(index)
        what = f'put {path} into slot {index}'
        try:
            program = syscall.obj_get(path)
        except OSError as error:
            raise BypassError(what, errno=error.errno,
                              next_step='name a program that is pinned in a bpffs') from error
        try:
            try:
                info = syscall.prog_info(program)
            except OSError:
                info = None
            if info is None or info.type != ProgType.XDP:
                raise BypassError(what, 'it is no XDP program',
                                  next_step='pin an XDP program there')
            return self._put(index, LoadedSlot('foreign', program, info.id, {}, str(path)))
        except BaseException:
            os.close(program)
            raise

    def unload(self, index):
        """Empty a slot: the chain goes on behind it. Return whether something stood there."""
        _check_index(index)
        slot = self._slots.pop(index, None)
        if slot is None:
            return False
        syscall.map_delete(self._root.maps['slots'].fd, struct.pack('=I', index))
        try:
            self._publish()
        finally:
            wait_for_programs()
            _close(slot)
        return True

    def counters(self):
        """Return {slot or 'root': {verdict: packets}}; see array_view.ArrayView."""
        return self.view.counters()

    @property
    def trace(self):
        """Return whether decisions are printed now, whoever asked for it."""
        entry = self._root.maps['switches']
        return bool(entry.value.unpack(syscall.map_lookup(entry.fd, bytes(4), entry.value_size))
                    ['trace'])

    def set_trace(self, on):
        """Print each decision to the kernel's trace pipe from now on, or not."""
        entry = self._root.maps['switches']
        syscall.map_update(entry.fd, bytes(4), entry.value.pack({'trace': int(bool(on))}))

    def close(self):
        """Detach, and let go of everything."""
        try:
            self.detach()
        finally:
            for slot in self._slots.values():
                _close(slot)
            self._slots = {}
            self._parts.close()

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Detach, and let go of everything."""
        self.close()

    # Inside -----------------------------------------------------------------------------------

    def _put(self, index, slot):
        before = self._slots.get(index)
        if before is None:
            self.view.clear(index)
        try:
            self._point(index, slot)
            self._slots[index] = slot
            self._publish()
        except BaseException as error:
            self._point_back(index, before)
            if slot.kind != 'foreign':
                _close(slot)
            if isinstance(error, OSError):
                raise UnsupportedError(
                    f'put {slot.description} into slot {index}',
                    'the kernel does not let it stand beside the root'
                    if error.errno == errno.EINVAL else '', errno=error.errno,
                    next_step='load it with' + ('' if self.frags else 'out')
                    + ' BPF_F_XDP_HAS_FRAGS and with'
                    + ('out an expected attach type' if self._attach_type is None else
                       ' the expected attach type BPF_XDP')
                    + ', as the root is, and for no device') from error
            raise
        if before is not None:
            # Packets that are under way may be counted in the new program's name.
            wait_for_programs()
            if before.kind != slot.kind:
                self.view.clear(index)
            _close(before)
        return slot

    def _point(self, index, slot):
        syscall.map_update(self._root.maps['slots'].fd, struct.pack('=I', index),
                           struct.pack('=I', slot.program))

    def _point_back(self, index, before):
        """Have in a slot what stood there before a change that failed."""
        if before is not None:
            self._slots[index] = before
            self._point(index, before)
        elif self._slots.pop(index, None) is not None:
            syscall.map_delete(self._root.maps['slots'].fd, struct.pack('=I', index))
        wait_for_programs()

    def _take_pins(self):
        if not self.settings.pin_directory:
            return None
        name = pin_name(self.interface.index)
        pins = bpffs.PinDirectory(Path(self.settings.pin_directory) / name)
        owner = PinOwner(self.settings.pin_directory, f'{name}_owner', trust=pins.list)
        self._parts.callback(owner.close)
        remove_stale(self.settings.pin_directory)
        pins.remove()
        self._parts.callback(pins.remove)
        return pins

    def _publish(self):
        if self._pins is None:
            return
        pinned = {'root': self.root_program,
                  **{name: self._root.maps[name].fd for name in _PINNED_MAPS}}
        for index, slot in self._slots.items():
            if slot.kind != 'foreign':
                pinned |= {f'slot{index}_{name}': entry.fd for name, entry in slot.maps.items()}
        self._pins.publish(pinned, replace=bool(self._pins.list()))


def _frags(interface, wanted):
    if wanted not in FRAGS:
        raise BypassError(f"read frags '{wanted}'", 'there is no such choice',
                          next_step=f"use one of {', '.join(FRAGS)}")
    return wanted == 'on' or (wanted == 'auto' and interface.mtu > LARGEST_PLAIN_MTU)


def _description(program):
    """Return what tells an own program from another; ours are told by their kind."""
    return f'{program.source}:{program.program}'


def _same_shape(entry, shape, size):
    return shape is not None and (entry.type, entry.key_size, entry.value_size) == (
        shape.type, shape.key_size, shape.value_size) and \
        entry.max_entries == (size or shape.max_entries)


def _close(slot):
    for entry in slot.maps.values():
        os.close(entry.fd)
    os.close(slot.program)


def _check_index(index):
    if not 0 <= index < SLOTS:
        raise BypassError(f'use slot {index}', f'there are {SLOTS}',
                          next_step=f'use 0 to {SLOTS - 1}')
