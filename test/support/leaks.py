"""
What a test session leaves behind: namespaces, processes, pins, programs, maps.

Other sessions may run on the same host, so that only what this one made counts, by names that
hold its pid, by a variable in the environment of its processes, and by the ids that it noted.
Where the host is ours alone (`exclusive`, in CI), programs of our names, links, pins and
namespaces that were not there before count too.
"""

import contextlib
import os
from pathlib import Path
import re
import shutil
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.bpffs import MOUNT_POINT

from support.namespaces import ip, PREFIX
from support.waiting import PATIENCE

#: Pins of the tests are below MOUNT_POINT, in folders whose names start so, then the pid.
PIN_PREFIX = 'ipcb_test_'
PROGRAMS = ('sockops_establish', 'msg_steer', 'skb_pass', 'skb_capture', 'note_connect4',
            'note_connect6', 'note_sendmsg4', 'note_sendmsg6', 'note_bind4', 'note_bind6',
            'udp_enter', 'udp6_enter', 'tcp_enter', 'send_leave', 'xdp_root', 'xdp_sampler',
            'xdp_filter', 'xdp_limiter', 'xdp_steering', 'xdp_devmap', 'xdp_bypass',
            'tc_fast_path', 'mark_socket', 'watch_receive', 'watch_read', 'skb_forward')
VARIABLE = 'IPC_BYPASS_TEST_SESSION'
#: Seconds; the kernel frees maps and namespaces after their last user, in its own time.
GRACE = PATIENCE / 6


class Leaks:
    """The check of one session: made at its start, asked at its end."""

    def __init__(self, exclusive=False):
        """Mark the environment, and note what is there."""
        self._mark = os.environ[VARIABLE] = f'{os.getpid()}_{time.time_ns()}'
        self._noted = {'programs': set(), 'maps': set()}
        self._exclusive = exclusive
        self._before = self._all() if exclusive else set()

    def note(self, object_ids):
        """Note the ids of objects that this session made: {'programs': ids, 'maps': ids}."""
        for kind, numbers in object_ids.items():
            self._noted[kind].update(numbers)

    def left(self):
        """Return what is left, one line each; waits a little for what the kernel still frees."""
        deadline = time.monotonic() + GRACE
        while True:
            found = sorted(self._ours() | (self._all() - self._before if self._exclusive
                                           else set()))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def remove(self):
        """Remove what is left in folders, so that the next session finds a clean host."""
        for name in _listed('/run/netns'):
            if name.startswith(f'{PREFIX}{os.getpid()}-'):
                ip('netns', 'del', name)
        for name in _pins():
            shutil.rmtree(Path(MOUNT_POINT, name))

    def _ours(self):
        pid = os.getpid()
        return {
            *(f'namespace {name}' for name in _listed('/run/netns')
              if name.startswith(f'{PREFIX}{pid}-')),
            *(f'pins {MOUNT_POINT}/{name}' for name in _pins()),
            *(f'program {number}' for number in alive('programs', self._noted['programs'])),
            *(f'map {number}' for number in alive('maps', self._noted['maps'])),
            *self._processes()}

    def _processes(self):
        mark = f'{VARIABLE}={self._mark}'.encode()
        for name in _listed('/proc'):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in Path(f'/proc/{name}/environ').read_bytes().split(b'\0'):
                        command = Path(f'/proc/{name}/cmdline').read_bytes()
                        yield f"process {name}: {command.replace(bytes(1), b' ').decode().strip()}"

    @staticmethod
    def _all():
        """Return a line for everything on this host that could be ours."""
        programs = dict(_programs())
        return {*(f'namespace {name}' for name in _listed('/run/netns')),
                *(f'pins {MOUNT_POINT}/{name}' for name in _listed(MOUNT_POINT)
                  if not name.endswith('.debug')),  # the kernel's own, there when it is mounted
                *(f'program {number} {name}' for number, name in programs.items()),
                *(f'link {number} of {programs[program]}' for number, program in _links()
                  if program in programs)}


def _pins():
    """Return the names of this process's folders of pins, of tests and of bench/fault_lab."""
    ours = re.compile(rf'({PIN_PREFIX}|ipcb_soak_|ipcb_soak_graph_){os.getpid()}(_.*)?')
    return [name for name in _listed(MOUNT_POINT) if ours.fullmatch(name)]


def _programs():
    """Yield (id, name) of the programs that have one of our names."""
    for number, fd in _opened(syscall.prog_ids, syscall.prog_get_fd_by_id):
        name = syscall.prog_info(fd).name
        if name in [ours[:15] for ours in PROGRAMS]:  # the kernel keeps 15 bytes of a name
            yield number, name


def _links():
    """Yield (id, id of its program) of every link."""
    for number, fd in _opened(syscall.link_ids, syscall.link_get_fd_by_id):
        yield number, syscall.link_info(fd).prog_id


def _opened(list_ids, open_id):
    """Yield (id, descriptor) of kernel objects; nothing where this process may not ask."""
    with contextlib.suppress(OSError):
        for number in list_ids():
            try:
                fd = open_id(number)
            except OSError:
                continue
            try:
                yield number, fd
            finally:
                os.close(fd)


def alive(kind, numbers):
    """Return those of these 'programs' or 'maps' (by id) that the kernel still has."""
    there = {'programs': syscall.prog_ids, 'maps': syscall.map_ids}[kind]
    return set(numbers) & set(there()) if numbers else set()


def _listed(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []
