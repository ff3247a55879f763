"""Settings of an interface (ethtool) that XDP needs otherwise, changed and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import errno
import os
import threading
from typing import TypeVar

from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.namespaces import network_namespaces, NetworkNamespace
from ipc_bypass.xdp import offload_state
from ipc_bypass.xdp import offload_values as values
from ipc_bypass.xdp.errors import InterfaceError, OffloadError
from ipc_bypass.xdp.ethtool import Ethtool
from ipc_bypass.xdp.interfaces import find_index, Interface, namespace_inode
from ipc_bypass.xdp.peer import inside, peer, peer_namespace

_Answer = TypeVar('_Answer')


class Offloads:
    """
    The settings of one interface; safe for several threads.

    What is changed is remembered, in a file, too, when a folder is given, so that the next start
    can put it back after a SIGKILL; `restore` leaves alone what somebody else changed meanwhile.

    :param interface: in the namespace of the thread that makes this, or in `namespace`
    :param folder: for the file; made (0700) where it is missing; '': nothing survives a SIGKILL
    :param namespace: where the interface is
    :raises OffloadError: when another living process has changed settings of the interface, or
        the folder cannot be used
    """

    def __init__(self, interface: Interface, folder: str | os.PathLike = '', *,
                 namespace: NetworkNamespace | None = None) -> None:
        self.interface = interface
        #: What was not put back, and why; a line each.
        self.notes: tuple[str, ...] = ()
        #: What a killed process left and was put back at the start; a line each.
        self.recovered: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._inode = namespace_inode() if namespace is None else namespace.inode
        self._changed: dict[str, tuple] = {}
        self._state = None
        if folder:
            try:
                self._state = offload_state.OffloadState(folder, self._inode, interface.index,
                                                         interface.mac)
                self._changed = self._state.adopt()
                if self._changed:
                    self.recovered = self.restore()
            except BaseException:
                self.close()
                raise

    def set(self, *, gro: bool | None = None, lro: bool | None = None,  # noqa: A003
            rx_checksum: bool | None = None, tx_checksum: bool | None = None,
            rx_queues: int | None = None, indirection: list[int] | None = None,
            steer: Mapping[int, int] | None = None) -> tuple[str, ...]:
        """
        Change what is given and is otherwise now; return what was changed, a line each.

        :param rx_queues: how many queues receive
        :param indirection: the queue of each hash (RSS), repeated until it fills the table
        :param steer: {UDP destination port: queue}, by rules of the driver (ntuple)
        :raises OffloadError: when something cannot be had; what this call changed is put back
        :raises PrivilegeError: without CAP_NET_ADMIN
        """
        switches = {'gro': gro, 'lro': lro, 'rx_checksum': rx_checksum,
                    'tx_checksum': tx_checksum}
        wanted = {name: on for name, on in switches.items() if on is not None}
        with self._lock:
            before = dict(self._changed)
            try:
                return self._call('change', lambda ethtool: self._set(
                    ethtool, wanted, rx_queues, indirection, dict(steer or {})))
            except BaseException:
                with contextlib.suppress(BypassError):
                    self._restore([key for key in self._changed if key not in before])
                raise

    def restore(self) -> tuple[str, ...]:
        """
        Put back what was changed, the last change first; return what was put back, a line each.

        What somebody else changed since then, and what is gone with the interface, stays as it
        is and becomes a line of `notes`.

        :raises OffloadError: when the kernel refuses; the rest is put back all the same
        """
        with self._lock:
            return self._restore([*self._changed])

    def current(self) -> dict[str, object]:
        """Return the settings now: gro, lro, rx_checksum, tx_checksum, rx_queues."""
        return self._call('read', lambda ethtool: values.current(ethtool, self._name()))

    def changed(self) -> dict[str, tuple]:
        """Return {setting: (what it was, what we made it)}."""
        return dict(self._changed)

    def close(self) -> None:
        """Let go of the file; what was changed stays, unless `restore` was called."""
        if self._state is not None:
            self._state.close()

    def _set(self, ethtool: Ethtool, switches: Mapping[str, bool], rx_queues: int | None,
             indirection: list[int] | None, steer: Mapping[int, int]) -> tuple[str, ...]:
        name, lines = self._name(), []
        changes = [*values.feature_changes(ethtool, name, switches)]
        if rx_queues is not None:
            changes += values.queue_changes(ethtool, name, rx_queues)
        for change in changes:
            lines += self._apply(ethtool, name, change)
        # The table's size and the queues that rules may name follow from the number of queues.
        if indirection is not None:
            for change in values.indirection_changes(ethtool, name, indirection):
                lines += self._apply(ethtool, name, change)
        for port, queue in steer.items():
            if f'steer:{port}' not in self._changed:
                lines += self._apply(ethtool, name, (f'steer:{port}', None, queue))
        return tuple(lines)

    def _apply(self, ethtool: Ethtool, name: str, change: tuple) -> list[str]:
        """Make one change, noted before it is made."""
        key, before, after = change
        # Of a setting that we changed before, what it was at first is what counts.
        first = self._changed[key][0] if key in self._changed else before
        self._changed[key] = (first, after)
        self._save()
        try:
            self._changed[key] = (first, values.write(ethtool, name, key, after))
        except OSError:
            if first == before:
                del self._changed[key]
            else:
                self._changed[key] = (first, before)
            self._save()
            raise
        self._save()
        return [f'{name}: {key} {values.words(before)} -> {values.words(after)}']

    def _restore(self, keys: list[str]) -> tuple[str, ...]:
        lines, notes, failures = [], [], []

        def put_back(ethtool: Ethtool) -> None:
            name = self._name()
            for key in reversed(keys):
                first, ours = self._changed[key]
                try:
                    now = values.read(ethtool, name, key, ours)
                    if now != ours:
                        if now != first:
                            notes.append(f'{name}: {key} stays {values.words(now)}: somebody '
                                         'else changed it meanwhile')
                    elif first != ours:
                        values.put_back(ethtool, name, key, first, ours)
                        lines.append(f'{name}: {key} back to {values.words(first)}')
                except OSError as error:
                    failures.append((key, error))
                    continue
                del self._changed[key]

        try:
            if keys:
                self._call('restore', put_back)
        except InterfaceError as error:
            notes.append(str(error))
            for key in keys:
                self._changed.pop(key, None)
        self.notes = tuple(notes)
        self._save()
        if failures:
            key, error = failures[0]
            raise OffloadError(f'put {key} of {self.interface.name} back', errno=error.errno or 0,
                               next_step=f'see: ethtool -k {self.interface.name}') from error
        return tuple(lines)

    def _save(self) -> None:
        if self._state is not None:
            self._state.write(self._changed)

    def _name(self) -> str:
        """Return the interface's name now; raises InterfaceError when it is gone."""
        now = find_index(self.interface.index)
        if now.kind != self.interface.kind:
            raise InterfaceError(f'find {self.interface.name}', 'it is gone', errno=errno.ENODEV)
        return now.name

    def _call(self, what: str, function: Callable[[Ethtool], _Answer]) -> _Answer:
        """Call a function where the interface is; turn OSError into errors of ours."""
        named = f'{what} settings of {self.interface.name}'

        def run() -> _Answer:
            with Ethtool() as ethtool:
                return function(ethtool)

        try:
            if namespace_inode() == self._inode:
                return run()
            # It is looked up and entered for each change, never held, so that it can end.
            found = network_namespaces().get(self._inode)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, 'no process lives there')
            return inside(found, run)
        except FileNotFoundError as error:
            raise InterfaceError(named, 'its network namespace is gone',
                                 errno=errno.ENODEV) from error
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise privilege_error(named, ['CAP_NET_ADMIN'], error.errno) from error
            reason = error.strerror if error.errno != errno.EOPNOTSUPP else \
                f"the driver '{self.interface.driver or self.interface.kind}' does not have it"
            raise OffloadError(named, getattr(error, 'setting', '') + reason,
                               errno=error.errno or 0, next_step='leave that setting out, or '
                               f'see: ethtool -k {self.interface.name}') from error


def peer_offloads(interface: Interface, folder: str | os.PathLike = '') -> Offloads:
    """
    Return the settings of a veth's other end, wherever it is.

    :param interface: in this thread's network namespace
    :param folder: as for Offloads
    :raises InterfaceError: when there is no other end, or its namespace cannot be found
    :raises OffloadError: as Offloads does
    """
    other, namespace = peer(interface), peer_namespace(interface)
    if other is None or namespace is None:
        raise InterfaceError(
            f'find the other end of {interface.name}', 'it is no veth' if not interface.peer_index
            else 'no process of this host lives in its network namespace, and it has no name',
            next_step='change its settings where it is: ethtool -K')
    return Offloads(other, folder, namespace=namespace)


def recover(folder: str | os.PathLike) -> list[str]:
    """
    Put back what processes changed that were killed; return what was done, a line each.

    What belongs to a living process is left alone, and what belongs to an interface that is gone
    is forgotten. To be called at the start, before anything is changed.
    """
    lines: list[str] = []
    for inode, index in offload_state.left(folder):
        found = network_namespaces().get(inode)
        if found is None:
            offload_state.remove(folder, inode, index)
            continue
        try:
            interface = inside(found, lambda index=index: find_index(index))
            offloads = Offloads(interface, folder, namespace=found)
        except InterfaceError:
            offload_state.remove(folder, inode, index)
        except (BypassError, OSError) as error:
            lines.append(str(error))
        else:
            lines += [*offloads.recovered, *offloads.notes]
            offloads.close()
    return lines
