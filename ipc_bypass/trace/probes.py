"""
Probes at the entry and at the return of kernel functions, that end with the process.

From 4.17 a probe is an event of its own (the kind `kprobe` of perf_event_open). Before, it is
made by a line in tracefs, which outlives its maker: its name holds the maker's pid, so that the
next start removes what a crash left.
"""

import contextlib
import ctypes
import errno
import os
from pathlib import Path
import re

from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.trace import perf

_KIND = Path('/sys/bus/event_source/devices/kprobe')
_TRACEFS = (Path('/sys/kernel/tracing'), Path('/sys/kernel/debug/tracing'))
_GROUP = 'ipc_bypass'
_NEXT_STEP = 'use a kernel with CONFIG_KPROBE_EVENTS and CONFIG_BPF_EVENTS'


class Probes:
    """Probes that are attached until `detach`."""

    def __init__(self, kind=_KIND, tracefs=_TRACEFS):
        """Begin with none; the places are where the kernel shows that it has probes."""
        self._kind, self._tracefs = kind, tracefs
        self._events, self._lines = [], []

    def available(self):
        """Return whether the kernel shows that it has probes."""
        return (self._kind / 'type').exists() or self._lines_place() is not None

    def attach(self, function, enter, leave):
        """
        Run programs (their descriptors) at the entry and at the return of a kernel function.

        :raises UnsupportedError: when the kernel has no probes, or no such function
        :raises PrivilegeError: when it takes a capability that is missing
        """
        for program, at_return in ((leave, True), (enter, False)):  # no entry without its return
            try:
                event = self._open(function, at_return)
                self._events.append(event)
                perf.run_program(event, program)
            except OSError as error:
                what = f'attach a probe to {function}'
                if error.errno in (errno.EPERM, errno.EACCES):
                    raise privilege_error(what, ['CAP_PERFMON', 'CAP_SYS_ADMIN'],
                                          error.errno) from error
                if error.errno in (errno.ENOENT, errno.EINVAL, errno.EADDRNOTAVAIL):
                    raise UnsupportedError(what, 'the kernel has no such function, or none that '
                                           'can be probed', errno=error.errno) from error
                raise UnsupportedError(what, errno=error.errno or 0,
                                       next_step=_NEXT_STEP) from error

    def detach(self):
        """Detach all of them."""
        for event in self._events:
            os.close(event)
        self._events = []
        for place, name in self._lines:
            with contextlib.suppress(OSError):
                _write(place, f'-:{_GROUP}/{name}')
        self._lines = []

    def remove_leftovers(self):
        """Remove the lines of processes that are gone; return how many."""
        removed = 0
        for place in self._tracefs:
            with contextlib.suppress(OSError):
                text = (place / 'kprobe_events').read_text()
                for name, pid in re.findall(rf'{_GROUP}/(p(\d+)_\S+)', text):
                    if not os.path.exists(f'/proc/{pid}'):
                        _write(place, f'-:{_GROUP}/{name}')
                        removed += 1
                break
        return removed

    def _open(self, function, at_return):
        if (self._kind / 'type').exists():
            kind = int((self._kind / 'type').read_text())
            bit = 0
            if at_return:
                form = (self._kind / 'format' / 'retprobe').read_text()
                bit = 1 << int(re.search(r'\d+', form).group())
            name = ctypes.create_string_buffer(function.encode())
            return perf.open_event(kind, bit, 0, config1=ctypes.addressof(name))
        return self._open_by_line(function, at_return)

    def _open_by_line(self, function, at_return):
        place = self._lines_place()
        if place is None:
            raise UnsupportedError(f'attach a probe to {function}', 'the kernel has no kprobes, '
                                   'or shows none', next_step=_NEXT_STEP + '; before 4.17, mount '
                                   'tracefs at /sys/kernel/tracing')
        name = f"p{os.getpid()}_{'leave' if at_return else 'enter'}_{function}"
        _write(place, f"{'r' if at_return else 'p'}:{_GROUP}/{name} {function}")
        self._lines.append((place, name))
        number = int((place / 'events' / _GROUP / name / 'id').read_text())
        return perf.open_event(perf.TYPE_TRACEPOINT, number, 0)

    def _lines_place(self):
        return next((place for place in self._tracefs if (place / 'kprobe_events').exists()), None)


def _write(place, line):
    # Each write is one command; opened to append, or the other probes of the host would go.
    fd = os.open(place / 'kprobe_events', os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
