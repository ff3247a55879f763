"""The samplers of this network namespace as their pins show them, opened to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import select

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.xdp.interfaces import interfaces, matching
from ipc_bypass.xdp.pinned import arrays_here, open_slot_maps
from ipc_bypass.xdp.sampler import Sample, Sampler
from ipc_bypass.xdp.sampler_layout import MAPS


class CaptureError(BypassError):
    """There is nothing to capture from."""


class Source:
    """
    The pinned sampler of one interface.

    :param name: of the interface
    :param index: of the interface
    :param slot: in which the sampler stands
    :param maps: descriptors by name; they are closed with the source
    """

    def __init__(self, name: str, index: int, slot: int, maps: dict[str, int]) -> None:
        self.name, self.index, self.slot, self._maps = name, index, slot, maps
        self.identity = syscall.map_info(maps['sampler_words']).id
        self.sampler = Sampler({map_name: _loaded(fd) for map_name, fd in maps.items()},
                               reader='capture', name='xdp capture')

    def close(self) -> None:
        """Give the samples up."""
        try:
            self.sampler.close()
        finally:
            for fd in self._maps.values():
                os.close(fd)


class Sources:
    """
    The samplers of the interfaces that are wanted, also those that come later.

    :param pin_directory: folder that the node pins in
    :param patterns: names, globs or 'bridge:br0'; none: every interface that has a sampler
    :param opened: called with each Source that is new, before its samples are read
    """

    def __init__(self, pin_directory: str, patterns: Sequence[str] = (), *,
                 opened: Callable[[Source], None] = lambda source: None) -> None:
        self._pin_directory, self._patterns = pin_directory, tuple(patterns)
        self._opened, self._sources = opened, {}

    @property
    def all(self) -> list[Source]:  # noqa: A003
        """Return the sources that are open."""
        return list(self._sources.values())

    def update(self) -> list[Source]:
        """
        Open what is new, and return those that are gone, for the caller to read and close.

        :raises ReaderError: when another process captures from one of them
        :raises BypassError: when pins cannot be opened
        """
        found = self._find()
        gone = [source for key, source in self._sources.items() if key not in found]
        self._sources = {key: source for key, source in self._sources.items() if key in found}
        try:
            for key in list(found):
                source = found[key]
                if key in self._sources:
                    source.close()
                    continue
                source.sampler.keep()
                self._sources[key] = source
                self._opened(source)
        except BaseException:
            for key, source in found.items():
                if self._sources.get(key) is not source:
                    source.close()
            raise
        return gone

    def require(self) -> None:
        """Raise CaptureError where there is none."""
        if not self._sources:
            wanted = f" on {', '.join(self._patterns)}" if self._patterns else ''
            raise CaptureError(
                f'capture{wanted}', 'no sampler is loaded there', next_step='start the node '
                'xdp_helper with a sampler in its slots, see: ipc-bypass xdp status')

    def read(self, seconds: float, most: int) -> list[tuple[Source, list[Sample]]]:
        """Return what came of each source; wait so long when there is nothing."""
        found = self._read(most)
        if not found and seconds > 0:
            poll = select.poll()
            for source in self._sources.values():
                poll.register(source.sampler.fileno(), select.POLLIN)
            poll.poll(seconds * 1000)
            found = self._read(most)
        return found

    def close(self) -> None:
        """Give all of it up."""
        for source in self.all:
            source.close()
        self._sources = {}

    def _read(self, most: int) -> list[tuple[Source, list[Sample]]]:
        found = []
        for source in self._sources.values():
            samples = source.sampler.read(0, most) if most else []
            most -= len(samples)
            if samples:
                found.append((source, samples))
        return found

    def _find(self) -> dict[tuple[int, int], Source]:
        """Return {(interface's index, identity): Source} of what is pinned."""
        present = interfaces()
        names = {each.index: each.name for each in
                 (matching(self._patterns, present) if self._patterns else present)}
        found = {}
        for index, folder in arrays_here(self._pin_directory).items():
            if index not in names:
                continue
            for slot, maps in _open(folder).items():
                if not set(MAPS) <= set(maps):
                    for fd in maps.values():
                        os.close(fd)
                    continue
                source = Source(names[index], index, slot, maps)
                found[index, source.identity] = source
        return found


def _open(folder: Path) -> dict[int, dict[str, int]]:
    """Return what open_slot_maps() does; nothing where the array is just going."""
    try:
        return open_slot_maps(folder)
    except BypassError:
        if folder.exists():
            raise
        return {}


def _loaded(fd: int) -> LoadedMap:
    info = syscall.map_info(fd)
    return LoadedMap(fd, info.type, info.key_size, info.value_size, info.max_entries, None, None)
