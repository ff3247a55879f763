"""The filter in user space, on interfaces that cannot have XDP now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import threading

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.status import FilterStatus
from ipc_bypass.xdp.filter.user_space import UserSpaceFilter


class FallbackFilters:
    """
    Filters in user space by the index of their interfaces; safe for several threads.

    They count by the same rules; the kernel's own sockets get what they deny.

    :param table: rules that all filters share
    :param tell: called with one line where one cannot be had
    """

    def __init__(self, table: FilterTable, tell: Callable[[str], None]) -> None:
        self._table, self._tell = table, tell
        self._lock = threading.RLock()
        self._filters: dict[int, UserSpaceFilter] = {}
        self._failed: dict[int, str] = {}

    def keep(self, wanted: Mapping[int, tuple[str, str]], settings: FilterSettings) -> None:
        """
        Judge the frames of these interfaces from now on, and of no others.

        :param wanted: {index: (name, why it has no XDP)}; nobody's where no rule could deny
        """
        with self._lock:
            if settings.default_action == 'allow' and not len(self._table):
                wanted = {}
            for index in self._filters.keys() - wanted.keys():
                self.stop(index)
            self._failed = {index: why for index, why in self._failed.items() if index in wanted}
            for index, (name, reason) in wanted.items():
                made = self._filters.get(index)
                if made is not None:
                    made.interface, made.reason = name, reason
                else:
                    self._start(name, index, settings, reason)

    def _start(self, name: str, index: int, settings: FilterSettings, reason: str) -> None:
        try:
            made = UserSpaceFilter(name, settings, reason=reason, table=self._table)
        except (BypassError, OSError) as error:
            if self._failed.get(index) != str(error):
                self._tell(f'{name} is filtered not even in user space: {error}')
            self._failed[index] = str(error)
            return
        made.start()
        self._filters[index] = made

    def stop(self, index: int) -> None:
        """Judge an interface's frames no longer; one that was not judged is no error."""
        with self._lock:
            made = self._filters.pop(index, None)
        if made is not None:
            made.close()

    def sync(self, settings: FilterSettings) -> None:
        """Put the table's rules and these settings in force."""
        with self._lock:
            for each in self._filters.values():
                each.sync(settings)

    def statuses(self) -> dict[str, FilterStatus]:
        """Return the status of each by its interface's name."""
        with self._lock:
            return {each.interface: each.status() for each in self._filters.values()}

    def close(self) -> None:
        """Judge nothing any more."""
        for index in list(self._filters):
            self.stop(index)
