"""The maps and programs of the trace path, and how the program learns the kernel's structs."""

import itertools
import os
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import UnsupportedError, VerifierError
from ipc_bypass.kernel.headers import find_headers
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import ProgType
from ipc_bypass.trace.offsets import kernel_definitions
from ipc_bypass.trace.records import RECORD, TOTALS

SOURCE = 'trace_path.bpf.c'
LEAVE = 'send_leave'
#: Kernel functions by transport, with the program at their entry; the last one of UDP is missing
#: where the kernel has no IPv6.
FUNCTIONS = {'udp': {'udp_sendmsg': 'udp_enter', 'udpv6_sendmsg': 'udp6_enter'},
             'tcp': {'tcp_sendmsg': 'tcp_enter'}}
PROGRAMS = tuple(ProgramSpec(name, ProgType.KPROBE)
                 for name in ('udp_enter', 'udp6_enter', 'tcp_enter', LEAVE))
MAPS = ('sends', 'totals', 'trace_rules', 'records')
#: As enum trace_rule.
BITS = {'udp': 1, 'tcp': 2}
_PORTS = 65536
_WORD = struct.Struct('=I')
# bpf_get_current_pid_tgid: the thread, and its process in the upper half.
_ID = struct.Struct('=II')
#: Where the transport stands in RECORD.
_TRANSPORT = 7
#: PROC_PID_INIT_INO, include/linux/proc_ns.h.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


class TraceObjects:
    """
    Maps and programs of one start.

    `notes` say what is not at its best.
    """

    def __init__(self, settings, *, by_headers=False):
        """
        Load; raises BypassError and leaves nothing behind then.

        `by_headers` True takes the kernel's structs from its headers, as where it has no BTF.
        """
        self.notes = []
        self._object = self._load(settings, self._structs(by_headers))
        self._rules = [0] * _PORTS

    def program(self, name):
        """Return the descriptor of a program."""
        return self._object.programs[name]

    def map_fd(self, name):
        """Return the descriptor of a map."""
        return self._object.maps[name].fd

    @property
    def ids(self):
        """Return {'programs': ids, 'maps': ids}."""
        return {'programs': [info.id for info in self._object.program_info.values()],
                'maps': [syscall.map_info(entry.fd).id for entry in self._object.maps.values()]}

    def write_rules(self, bits):
        """Write what each of the 65,536 ports obeys; only those that change are touched."""
        changed = [port for port, word in enumerate(bits) if word != self._rules[port]]
        syscall.map_update_batch(self.map_fd('trace_rules'),
                                 b''.join(map(_WORD.pack, changed)),
                                 b''.join(_WORD.pack(bits[port]) for port in changed),
                                 len(changed))
        self._rules = list(bits)

    def totals(self):
        """Return {'udp' or 'tcp': {'sends', 'bytes', 'failed', 'untracked'}} of all processors."""
        size = TOTALS.size  # a multiple of eight: nothing is rounded up
        data = syscall.map_lookup(self.map_fd('totals'), bytes(4), size * syscall.possible_cpus())
        sums = [sum(column) for column in zip(*TOTALS.iter_unpack(data), strict=True)]
        return {transport: dict(zip(('sends', 'bytes', 'failed', 'untracked'), sums[start::2],
                                    strict=True))
                for start, transport in enumerate(('udp', 'tcp'))}

    def forget_sends(self):
        """Forget sends that were under way when the probes were detached."""
        fd = self.map_fd('sends')
        for key in list(syscall.map_keys(fd, 8)):
            syscall.map_delete(fd, key)

    def forget_gone(self):
        """
        Forget the sends of threads that have ended: the probe did not see their end.

        Returns {'udp' or 'tcp': how many}; nothing is forgotten in a PID namespace, where the
        numbers of threads are others.
        """
        found = dict.fromkeys(BITS, 0)
        if os.stat('/proc/self/ns/pid').st_ino != _FIRST_PID_NAMESPACE:
            return found
        sends = self._object.maps['sends']
        # Sends that end meanwhile have the kernel begin again.
        for key in list(itertools.islice(syscall.map_keys(sends.fd, _ID.size),
                                         sends.max_entries)):
            if _lives(_ID.unpack(key)[0]):
                continue
            value = syscall.map_lookup(sends.fd, key, sends.value_size)
            if value is not None:  # it may have ended in the meantime, as it should
                transport = RECORD.unpack_from(value)[_TRANSPORT]
                syscall.map_delete(sends.fd, key)
                found['tcp' if transport == BITS['tcp'] else 'udp'] += 1
        return found

    def close(self):
        """Close every descriptor."""
        self._object.close()

    def _structs(self, by_headers):
        """Return the definitions that tell the program of the kernel's structs."""
        reason = 'it was asked to'
        if not by_headers:
            try:
                return {'KERNEL_TREE': 0, **kernel_definitions()}
            except UnsupportedError as error:
                reason = str(error)
        tree, running = find_headers(), os.uname().release
        if tree.release != running:
            raise UnsupportedError(
                'find the fields of sockets in this kernel', f'{reason}, and the kernel headers '
                f'are those of {tree.release}', next_step='apt-get install linux-headers-'
                f'{running}')
        self.notes.append(f"the kernel's structs are taken from its headers: {reason}")
        return {'KERNEL_TREE': 1}

    def _load(self, settings, structs):
        definitions = {'TRACE_BYTES': settings.capture_bytes, **structs}
        try:
            return _compiled({**definitions, 'SPLIT_READ': 1})
        except (VerifierError, UnsupportedError) as error:
            try:
                loaded = _compiled({**definitions, 'SPLIT_READ': 0})
            except (VerifierError, UnsupportedError):
                raise error from None
        self.notes.append('the kernel does not tell user addresses from its own when read')
        return loaded


def _lives(thread):
    """Return whether there is a thread of this number; /proc may hide it, the kernel does not."""
    try:
        os.kill(thread, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _compiled(definitions):
    # With the kernel's own headers the compiler has far more to read.
    patience = {'timeout': 240.0} if definitions['KERNEL_TREE'] else {}
    return load_object(bpf_source(SOURCE), definitions, PROGRAMS, MAPS, **patience)
