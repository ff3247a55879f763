"""One interface of the XDP helper: its root array, what stands in the slots, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import errno
import resource

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.xdp.array_view import ROOT
from ipc_bypass.xdp.array_view import SlotStatus as ArraySlot
from ipc_bypass.xdp.controllers import Controller, make_controller, program_of, Shared
from ipc_bypass.xdp.interfaces import Interface
from ipc_bypass.xdp.own_slots import OwnProgram
from ipc_bypass.xdp.root import RootArray
from ipc_bypass.xdp.sanity import check, WARNING
from ipc_bypass.xdp.settings import XdpSettings
from ipc_bypass.xdp.status import boot_time, InterfaceStatus, slot_status, SlotStatus
from ipc_bypass.xdp.templates import Templates

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class ManagedInterface:
    """
    The array of one interface with the slots that the settings name; for one thread at a time.

    A slot that cannot be loaded stays empty: packets fall through it, `tell` is told in a line,
    and the status shows why.
    """

    def __init__(self, interface: Interface, settings: XdpSettings, templates: Templates,
                 shared: Shared, tell: Callable[[str], None]) -> None:
        """
        Make the array and load its slots; it is attached to nothing yet.

        :param shared: what the slots of all interfaces have in common
        :param tell: called with one line for each slot that cannot be loaded
        :raises BypassError: when the array cannot be had; nothing is left behind then
        """
        self.interface, self.reason = interface, ''
        self._settings, self._shared, self._tell = settings, shared, tell
        self._controllers: dict[int, Controller] = {}
        self._configured: dict[int, str | OwnProgram] = settings.plan()
        self._reasons: dict[int, str] = {}
        self._array = RootArray(interface, settings.root(), templates=templates)
        try:
            for index, wanted in self._configured.items():
                self._load_or_tell(index, wanted)
        except BaseException:
            self.close()
            raise

    @property
    def attached(self) -> bool:
        """Return whether the root is on the interface now."""
        attachment = self._array.attachment
        return attachment is not None and attachment.attached

    def attach(self, mode: str) -> None:
        """Attach the root; raises BypassError, and the status shows why from then on."""
        try:
            if not self.attached:
                self._array.detach()  # what somebody else took away by force
            found = check(self.interface, mode, frags=self._array.frags)
            self._array.attach(mode)
        except BypassError as error:
            self.reason = str(error)
            raise
        notes = self._array.attachment.notes
        self.reason = '; '.join([*notes, *(str(finding) for finding in found
                                           if finding.level == WARNING)])

    @property
    def lost(self) -> bool:
        """Return whether somebody else took the root off the interface."""
        return self._array.attachment is not None and not self.attached

    def refresh(self, interface: Interface) -> None:
        """Go on with the same interface as it is now: its name, its MTU and the rest."""
        self.interface = self._array.interface = interface

    def detach(self, reason: str = '') -> None:
        """Detach the root at once; the slots stay loaded."""
        self.reason = reason
        self._array.detach()

    def load(self, index: int, wanted: str | OwnProgram) -> int:
        """
        Put a kind of ours or an own program into a slot and return the program's id.

        What stands there is replaced in one step; raises BypassError and leaves it then.
        """
        before, now = self._controllers.get(index), []
        if before is not None:
            before.close()
        try:
            if isinstance(wanted, OwnProgram) and wanted.foreign:
                loaded = self._array.load_pinned(index, wanted.path)
            else:
                program = program_of(wanted, self._settings)
                # The maps are written first, so that no packet meets a program without settings.
                loaded = self._array.load(
                    index, program, prepare=lambda maps: now.append(
                        self._control(before, program.kind, maps)))
        except BaseException:
            for controller in now:
                if controller is not None:
                    controller.close()
            if before is not None:  # its program stands there as before
                self._control(before, before.kind, self._array.slots[index].maps)
            raise
        self._configured[index] = wanted
        self._reasons.pop(index, None)
        self._controllers.pop(index, None)
        if now and now[0] is not None:
            self._controllers[index] = now[0]
        return loaded.program_id

    def unload(self, index: int) -> bool:
        """Empty a slot; return whether something stood there."""
        controller = self._controllers.pop(index, None)
        if controller is not None:
            controller.close()
        self._configured.pop(index, None)
        self._reasons.pop(index, None)
        return self._array.unload(index)

    def controllers(self, kind: str) -> list[Controller]:
        """Return what controls the slots of one kind."""
        return [each for each in self._controllers.values() if each.kind == kind]

    def apply(self, settings: XdpSettings, kind: str = '') -> None:
        """
        Let changed settings take effect; raises BypassError of the first that cannot be.

        :param kind: the one whose settings changed, '' for all
        """
        self._settings = settings
        if not kind:  # also where it is as it was: somebody else may have switched it
            self._array.set_trace(settings.trace)
        for controller in self._controllers.values():
            if kind in ('', controller.kind):
                controller.apply(settings)

    def problems(self) -> list[str]:
        """Return what is not as it is asked for and no status of a slot says, a line each."""
        return [problem for controller in self._controllers.values()
                for problem in controller.problems()]

    def status(self, present: Interface | None = None) -> InterfaceStatus:
        """Return the status; `present` is the interface as it is now, None where it is gone."""
        known, attached, root = present or self.interface, self.attached, self._root()
        reason = self.reason
        if self.lost:
            reason = 'it was detached by somebody else' if present else 'the interface is gone'
        counters: dict[str, int] = {}
        for controller in self._controllers.values():
            counters.update(controller.counters())
        return InterfaceStatus(
            name=known.name, index=present.index if present else 0, kind=known.kind,
            driver=known.driver, mtu=known.mtu, configured=True,
            attached=attached, mode=self._array.attachment.mode if attached else '',
            reason=reason, frags=self._array.frags, trace=self._array.trace, program_id=root.id,
            load_time=boot_time() + root.load_time_ns / 1e9,
            packets=sum(self._array.counters()[ROOT].values()),
            slots=tuple(self._slot(row) for row in self._array.view.slots()), counters=counters)

    def close(self) -> None:
        """Detach, and let go of everything."""
        with contextlib.ExitStack() as ending:
            ending.callback(self._array.close)
            for controller in self._controllers.values():
                ending.callback(controller.close)
            self._controllers = {}

    def _load_or_tell(self, index: int, wanted: str | OwnProgram) -> None:
        try:
            self.load(index, wanted)
        except BypassError as error:
            if error.errno in _NO_DESCRIPTOR:  # it is tried again as a whole
                raise
            self._configured[index] = wanted
            self._reasons[index] = str(error)
            self._tell(f'{self.interface.name}: slot {index} stays empty: {error}')

    def _control(self, before: Controller | None, kind: str, maps: Mapping[str, LoadedMap]
                 ) -> Controller | None:
        """Write the maps of a program and return what controls them, None if it is not ours."""
        if before is not None and before.kind == kind:
            before.take_over(maps)
            before.apply(self._settings)
            return before
        return make_controller(kind, maps, self._settings, self._shared, self.interface)

    def _root(self) -> syscall.ProgInfo:
        return syscall.prog_info(self._array.root_program)

    def _slot(self, row: ArraySlot) -> SlotStatus:
        slot, wanted = self._array.slots.get(row.slot), self._configured.get(row.slot, '')
        return slot_status(row, kind=slot.kind if slot else '', configured=str(wanted),
                           reason=self._reasons.get(row.slot, ''))


def as_bypass(error: BypassError | OSError, what: str) -> BypassError:
    """Return an error as one with a reason and a next step."""
    number = error.errno or 0
    if number in _NO_DESCRIPTOR:
        return BypassError(what, errno=number,
                           next_step='raise the limit of open files: ulimit -n')
    return error if isinstance(error, BypassError) else BypassError(
        what, '' if number else str(error), errno=number)


def raise_open_files() -> None:
    """Have as many open files as may be: an interface with all slots needs about 60."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # more than the kernel gives anybody
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
