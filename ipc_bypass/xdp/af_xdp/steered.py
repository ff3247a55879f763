"""An interface whose packets come to this process: steering in a root array, and the sockets."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from dataclasses import asdict, fields
import fcntl
import itertools
import json
import os
import re
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import PinDirectory
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.xdp import dispatcher
from ipc_bypass.xdp.af_xdp.keeper import Keeper
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.statistics_board import (
    DEFAULT_FOLDER,
    HeldFile,
    live_files,
    opened_folder,
)
from ipc_bypass.xdp.af_xdp.umem import Umem
from ipc_bypass.xdp.af_xdp.xsk_socket import XskSocket
from ipc_bypass.xdp.interfaces import find, find_index_by, Interface
from ipc_bypass.xdp.kinds import DEFAULT_ORDER, slot_program
from ipc_bypass.xdp.netlink import NetlinkSocket
from ipc_bypass.xdp.offloads import Offloads, peer_offloads
from ipc_bypass.xdp.peer import peer, peer_namespace
from ipc_bypass.xdp.pinned import arrays_here, open_slot_maps
from ipc_bypass.xdp.root import DEFAULT_PIN_DIRECTORY, remove_stale, RootArray, RootSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings
from ipc_bypass.xdp.templates import Templates

SLOT = DEFAULT_ORDER.index('af_xdp')
#: Seconds without the joined array's program after which `check` raises: a node that attaches
#: anew, in another mode, is quicker.
_GONE_S = 1.0
_numbers = itertools.count()


class SteeredInterface:
    """
    Steers packets of one interface to AF_XDP sockets of this process, one a queue.

    The steering slot of a root array that another process pinned (the node's) is used where there
    is one: what is steered there stays, and what is steered here, and by no other process that
    joined it, is withdrawn at the end. Else an array is made with that slot alone, and ends with
    this process; those that joined it learn of that by `check`.

    :param name: of the interface, in this thread's network namespace
    :param settings: AfXdpSettings
    :param steering: SteeringSettings
    :param queues: receive queues, all when left out
    :param mode: as of RootArray.attach
    :param pin_directory: as of RootSettings, '' for none
    :param umem: Umem that its sockets share with others', made when left out
    :param first: socket that registered it
    :param sharing: how many sockets will share it; those of the queues when left out
    :param templates: a Templates that several interfaces share
    :param adjust: have what the interface and its peer need otherwise changed, and put back at
        the end (a child process sees to that): checksums computed by a veth's peer, GRO off in
        generic mode, and rules that bring the ports to the queues where these are not all
    :raises BypassError: something is lacking; nothing is left behind then
    """

    def __init__(self, name: str, settings: AfXdpSettings, steering: SteeringSettings, *,
                 queues: Iterable[int] | None = None, mode: str = 'auto',
                 pin_directory: str = DEFAULT_PIN_DIRECTORY, umem: Umem | None = None,
                 first: XskSocket | None = None, sharing: int = 0,
                 templates: Templates | None = None, adjust: bool = True) -> None:
        self.interface = find(name)
        settings.check_mtu(name, self.interface.mtu)
        self.queues = tuple(range(self.interface.rx_queues) if queues is None else queues)
        self.sockets: list[XskSocket] = []
        self.array: RootArray | None = None
        #: Lines on what is not as usual.
        self.notes: list[str] = []
        self._parts = contextlib.ExitStack()
        self._joined: tuple[NetlinkSocket, int] | None = None
        self._seen: float | None = None
        try:
            self.steering = self._steer(steering, mode, pin_directory, templates)
            if adjust:
                self._adjust(steering, mode)
            self._open(settings, umem, first, sharing)
            if self.array is not None:
                self.array.attach(mode)
                self.notes += self.array.attachment.notes
        except BaseException:
            self.close()
            raise

    @property
    def first(self) -> XskSocket:
        """Return the socket that others can share a UMEM with."""
        return self.sockets[0]

    def check(self) -> None:
        """
        Raise BypassError where an array that was joined is not attached any more.

        Nothing comes then. One that was not attached yet, as that of an inactive node, is no
        fault. To be called now and then, by a thread without privileges as well.
        """
        if self._joined is None:
            return
        route, program = self._joined
        now = time.monotonic()
        try:
            attached = find_index_by(route, self.interface.index).xdp_program_id == program
        except OSError:
            attached = False  # the interface is gone, which its sockets tell
        if attached:
            self._seen = now
        elif self._seen is not None and now - self._seen > _GONE_S:
            raise BypassError(
                f'receive from {self.interface.name}',
                f'the root array that steers to this process (program {program}) is not attached '
                'any more', next_step='start again')

    def close(self) -> None:
        """Close the sockets and end the steering; also by a process without privileges."""
        for one in self.sockets:
            one.close()
        self._parts.close()

    def __enter__(self) -> SteeredInterface:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()

    def _steer(self, wanted, mode, pin_directory, templates):
        folder = None
        if pin_directory:
            remove_stale(pin_directory)
            folder = arrays_here(pin_directory).get(self.interface.index)
        if folder is not None:
            self.notes.append(f'steered by the root array that is pinned in {folder}')
            steering = self._join(folder, wanted)
            self._watch(folder)
            return steering
        self.array = self._parts.enter_context(RootArray(
            self.interface, RootSettings(pin_directory=pin_directory), templates=templates))
        steering = Steering(self.array.load(SLOT, slot_program('af_xdp')).maps)
        steering.apply(wanted)
        return steering

    def _join(self, folder, wanted):
        maps = {}
        for held in open_slot_maps(folder).values():
            for name, fd in held.items():
                self._parts.callback(os.close, fd)
                info = syscall.map_info(fd)
                maps[name] = LoadedMap(fd, info.type, info.key_size, info.value_size,
                                       info.max_entries, None, None)
        if 'xsks' not in maps:
            raise BypassError(f'steer packets of {self.interface.name} to AF_XDP',
                              'its root array has no such slot',
                              next_step=f'ipc-bypass xdp load {SLOT} af_xdp')
        steering = Steering(maps, holder='pipeline')
        try:
            holder = Holder(syscall.map_info(maps['steering_ports'].fd).id, steering, wanted)
        except OSError as error:
            # Without it, the next process would take our ports for those of a dead one.
            raise BypassError(f'note what is steered of {self.interface.name}', str(error),
                              errno=error.errno or 0,
                              next_step=f'make {DEFAULT_FOLDER} writable for root') from error
        self._parts.callback(holder.close)
        return steering

    def _watch(self, folder):
        """Remember the root program that is joined, for `check`."""
        fd = PinDirectory(folder).open('root')
        try:
            program = syscall.prog_info(fd).id
        finally:
            os.close(fd)
        # libxdp's dispatcher runs the root where it is what is attached.
        if dispatcher.of(self.interface) is not None:
            program = self.interface.xdp_program_id
        self._joined = self._parts.enter_context(NetlinkSocket()), program
        self.check()

    def _adjust(self, wanted, mode):
        steps = adjustments(self.interface, self.queues, wanted, mode)
        veth = self.interface.kind == 'veth'
        if veth and (peer(self.interface) is None or peer_namespace(self.interface) is None):
            steps.pop('peer', None)
            self.notes.append(
                f'the other end of {self.interface.name} was not found: have it compute checksums '
                'itself (ethtool -K PEER tx off)')
        if steps:
            self._parts.callback(Keeper(f'adjust {self.interface.name}',
                                        lambda: _change(self.interface, steps)).close)

    def _open(self, settings, umem, first, sharing):
        sharing = (sharing or len(self.queues)) if settings.share_umem else 1
        if umem is None or not settings.share_umem:
            umem = Umem(settings.frames, settings.frame_size)
        for queue in self.queues:
            if self.sockets and not settings.share_umem:
                umem, first = Umem(settings.frames, settings.frame_size), None
            one = XskSocket(self.interface.name, queue, umem, settings, first=first)
            self.sockets.append(one)
            first = first or one
            # Half of the frames are for what is being handled and sent.
            one.fill_target = min(settings.ring_entries, max(1, umem.count // (2 * sharing)))
            one.refill()
            self.steering.set_socket(queue, one.fileno())


class Holder:
    """
    A process's share in the steering of an array that is not its own.

    Every process that joined an array has a file that names what it needs; it is locked while the
    process lives. Who comes and who ends has that steered which the living need, and nothing
    else: what a killed process left, or one without the privilege to withdraw it, would come to
    the sockets of others.

    :param array: id of the array's map of ports
    :param steering: Steering of it
    :param wanted: SteeringSettings of this process
    :raises OSError: there is no folder to have such a file in
    """

    def __init__(self, array: int, steering: Steering, wanted: SteeringSettings,
                 folder: str = DEFAULT_FOLDER) -> None:
        """Have it steered, beside what is."""
        self._steering, self._folder = steering, folder
        self._names = re.compile(rf'steering_{array}_([0-9]{{1,10}})_[0-9]{{1,10}}\.txt')
        with self._alone(make=True) as place:
            needed = self._needed(place)
            self._file = HeldFile(place, f'steering_{array}_{os.getpid()}_{next(_numbers)}.txt')
            try:
                self._file.write(json.dumps(asdict(wanted)))
                steering.apply(joined(needed, wanted))
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        """Withdraw what is nobody's any more, as far as this process may."""
        with contextlib.suppress(OSError), self._alone() as place:
            self._file.close()
            self._steering.apply(self._needed(place))
        self._file.close()

    @contextlib.contextmanager
    def _alone(self, *, make=False):
        """Yield the folder, while no other process joins or leaves an array."""
        with opened_folder(self._folder, make=make) as place:
            # Anybody may lock a folder that he can read: no waiting for ever.
            end = time.monotonic() + _GONE_S
            while True:
                try:
                    fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)
            try:
                yield place
            finally:
                # Our file keeps the folder open, and with it the lock.
                fcntl.flock(place, fcntl.LOCK_UN)

    def _needed(self, place):
        """Return what the processes need that have a file."""
        needed = SteeringSettings()
        for _, text in live_files(place, self._names):
            with contextlib.suppress(ValueError, TypeError, BypassError):
                needed = joined(needed, SteeringSettings(**json.loads(text)))
        return needed


def joined(one: SteeringSettings, other: SteeringSettings) -> SteeringSettings:
    """Return what steers what either steers."""
    found = {}
    for field in fields(SteeringSettings):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        found[field.name] = (ours or theirs if isinstance(ours, bool)
                             else tuple(sorted({*ours, *theirs})))
    return SteeringSettings(**found)


def adjustments(interface: Interface, queues: Iterable[int], wanted: SteeringSettings,
                mode: str) -> dict[str, dict]:
    """Return what has to be otherwise: {'own' or 'peer': parameters of Offloads.set}."""
    queues, steps = tuple(queues), {}
    if mode == 'generic':
        steps['own'] = {'gro': False}
    if len(queues) < interface.rx_queues and interface.kind == 'physical' and wanted.udp_ports:
        steps.setdefault('own', {})['steer'] = {
            port: queues[place % len(queues)] for place, port in enumerate(wanted.udp_ports)}
    if interface.kind == 'veth':
        steps['peer'] = {'tx_checksum': False}
    return steps


def _change(interface, steps):
    """Change settings and return what puts them back."""
    held = contextlib.ExitStack()
    try:
        for side, wanted in steps.items():
            offloads = held.enter_context(contextlib.closing(
                peer_offloads(interface) if side == 'peer' else Offloads(interface)))
            held.callback(offloads.restore)
            offloads.set(**wanted)
    except BaseException:
        held.close()
        raise
    return held.close
