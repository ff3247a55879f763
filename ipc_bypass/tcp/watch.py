"""
Sees who relies on what a redirected socket does not have, and marks the sockets of the excluded.

The programs are those of bpf/tcp_watch.bpf.c, over the maps of the TCP path. Each may be missing:
then `notes` says what is not seen, and why; the path works without.
"""

import contextlib
import os
import socket
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.attachment import Attachment
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.loader import LoadedObject, ProgramSpec
from ipc_bypass.kernel.raw_tracepoint import open_raw_tracepoint
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.template_cache import cached_template
from ipc_bypass.kernel.uapi import AttachType, ProgType

SOURCE = 'tcp_watch.bpf.c'
MARK = 'mark_socket'
MAPS = ('exclusion_marks', 'exclusions', 'excluded_names', 'excluded_users', 'arrivals', 'flows',
        'totals')
_PROGRAMS = (ProgramSpec('watch_receive', ProgType.RAW_TRACEPOINT),
             ProgramSpec('watch_read', ProgType.RAW_TRACEPOINT),
             ProgramSpec(MARK, ProgType.CGROUP_SOCK, AttachType.CGROUP_INET_SOCK_CREATE))
_SO_COOKIE = 57
_NO_FLOW = 0xffffffff
_PATIENCE = 5.0


class Watch:
    """
    The programs of one start; attached from `attach` to `detach`.

    `notes` are lines about what is not seen on this kernel.
    """

    def __init__(self, objects, cgroup_path, sights):
        """
        Load for a TcpObjects, and try; raises BypassError and leaves nothing behind then.

        `sights` are those of SIGHTS that are wanted; without any it marks sockets, and no more.
        """
        if not objects.watch_definitions:
            raise UnsupportedError('see what readers do', objects.view_reason or "the kernel's "
                                   'type information lacks what that takes')
        self._objects, self._sights, self.notes = objects, sights, []
        self._links, self._tracepoints = [], {}
        self._attachment = Attachment(cgroup_path, ProgType.CGROUP_SOCK,
                                      AttachType.CGROUP_INET_SOCK_CREATE, 'cgroup/sock')
        self._loaded = LoadedObject()
        try:
            for definitions in objects.watch_definitions:
                self._load(definitions)
                if not sights or 'watch_read' in self._tracepoints:
                    break
        except BaseException:
            self.close()
            raise

    @property
    def verified_instructions(self):
        """Return how many instructions the verifier processed, by program."""
        return {name: info.verified_insns for name, info in self._loaded.program_info.items()}

    def _load(self, definitions):
        """Load, and note which tracepoints see what they should."""
        self._loaded.close()
        self.notes, self._tracepoints = [], {}
        template = cached_template(bpf_source(SOURCE), definitions, _PROGRAMS)
        self._loaded = template.instantiate(
            reuse={name: self._objects.maps[name].fd for name in MAPS})
        for sight, (program, tracepoint, reason, use) in self._sights.items():
            try:
                link = open_raw_tracepoint(tracepoint, self._loaded.programs[program])
            except BypassError as error:
                self.notes.append(f'users of {sight} are not seen: {error}')
                continue
            try:
                if self._sees(use, self._objects.enums['unfit'][reason]):
                    self._tracepoints[program] = tracepoint
                else:
                    self.notes.append(f'users of {sight} are not seen: one on trial was not')
            finally:
                os.close(link)

    def attach(self):
        """Attach to all that sees what it should; raises BypassError."""
        self._attachment.remove_leftovers(MARK)
        self._attachment.attach(self._loaded.programs[MARK])
        try:
            for program, tracepoint in self._tracepoints.items():
                self._links.append(open_raw_tracepoint(tracepoint, self._loaded.programs[program]))
        except BaseException:
            self.detach()
            raise

    def detach(self):
        """Detach all; it may be attached again."""
        for link in self._links:
            os.close(link)
        self._links = []
        self._attachment.detach()

    def close(self):
        """Detach and release."""
        self.detach()
        self._attachment.close()
        self._loaded.close()

    def _sees(self, use, reason):
        """Use a private pair of sockets so; return whether the program noted this reason."""
        arrivals = self._objects.maps['arrivals']
        try:
            with _private_pair() as (sender, reader):
                cookie = reader.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
                syscall.map_update(arrivals.fd, cookie,
                                   arrivals.value.pack({'flow_index': _NO_FLOW}))
                try:
                    sender.sendall(b'..')
                    use(reader)
                    value = syscall.map_lookup(arrivals.fd, cookie, arrivals.value_size)
                    seen = bool(value) and arrivals.value.unpack(value)['unfit'] == reason
                finally:
                    syscall.map_delete(arrivals.fd, cookie)
        except OSError:
            return False
        return seen


def _wait_for_all(reader):
    reader.recv(1, socket.MSG_WAITALL)


def _splice(reader):
    if not hasattr(os, 'splice'):
        return  # Python before 3.10
    ends = os.pipe()
    try:
        os.splice(reader.fileno(), ends[1], 1)
    finally:
        for end in ends:
            os.close(end)


#: By what is seen: the program, its tracepoint, the reason that it notes, and how to do it.
SIGHTS = {'MSG_WAITALL': ('watch_receive', 'sock_recv_length', 'UNFIT_WAITALL', _wait_for_all),
          'splice(2)': ('watch_read', 'tcp_rcv_space_adjust', 'UNFIT_SPLICE', _splice)}


@contextlib.contextmanager
def _private_pair():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), _PATIENCE) as sender:
            reader, _ = listener.accept()
            with reader:
                # SO_RCVTIMEO, not settimeout(): the calls are to block.
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO,
                                  struct.pack('@qq', int(_PATIENCE), 0))
                yield sender, reader
