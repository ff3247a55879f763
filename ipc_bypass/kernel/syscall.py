"""
Thin wrappers of bpf(2): maps, programs, attachments, links, pins.

Every function raises OSError with the kernel's errno; descriptors are closed on exec.
The layout of each command's attributes is that of `union bpf_attr` in uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of, raise_memlock_limit
from ipc_bypass.kernel.info import (
    btf_data,
    link_ids,
    link_info,
    LinkInfo,
    map_ids,
    map_info,
    MapInfo,
    prog_ids,
    prog_info,
    prog_query,
    ProgInfo,
)
from ipc_bypass.kernel.maps import (
    map_create,
    map_delete,
    map_items,
    map_keys,
    map_lookup,
    map_lookup_and_delete,
    map_next_key,
    map_update,
    map_update_batch,
    possible_cpus,
)
from ipc_bypass.kernel.uapi import (
    AttachFlag,
    AttachType,
    BpfCmd,
    MapFlag,
    MapType,
    ProgFlag,
    ProgType,
    UpdateFlag,
)

__all__ = [
    'AttachFlag', 'AttachType', 'BpfCmd', 'LinkInfo', 'MapFlag', 'MapInfo', 'MapType', 'ProgFlag',
    'ProgInfo', 'ProgLoadError', 'ProgType', 'UpdateFlag', 'btf_data', 'btf_load', 'link_create',
    'link_detach', 'link_get_fd_by_id', 'link_ids', 'link_info', 'link_update', 'map_create',
    'map_delete', 'map_get_fd_by_id', 'map_ids', 'map_info', 'map_items', 'map_keys',
    'map_lookup', 'map_lookup_and_delete', 'map_next_key', 'map_update', 'map_update_batch',
    'obj_get', 'obj_pin', 'possible_cpus', 'prog_attach', 'prog_detach', 'prog_get_fd_by_id',
    'prog_ids', 'prog_info', 'prog_load', 'prog_query', 'prog_test_run',
]


class ProgLoadError(OSError):
    """The kernel refused a program; `log` holds the verifier's words."""

    def __init__(self, number: int, message: str, log: str) -> None:
        super().__init__(number, message)
        self.log = log


def prog_load(prog_type: int, instructions: bytes, *, licence: str = 'GPL', name: str = '',
              attach_type: int = 0, flags: int = 0, log_level: int = 0,
              log_bytes: int = 1 << 16) -> int:
    """
    Load a program given as raw instructions (8 bytes each) and return its descriptor.

    :param flags: BPF_F_* of uapi/linux/bpf.h, for example ProgFlag.XDP_HAS_FRAGS
    :param log_bytes: room for the verifier's log; its end is cut off where it does not fit
    :raises ProgLoadError: with the verifier's log
    """
    code, terms = buffer_of(instructions), buffer_of(licence.encode() + b'\0')
    level = log_level
    while True:
        log = ctypes.create_string_buffer(log_bytes) if level else None
        attr = bytearray(struct.pack(
            '=IIQQIIQII16sII', prog_type, len(instructions) // 8, address(code), address(terms),
            level, log_bytes if level else 0, address(log), 0, flags, name.encode()[:15], 0,
            attach_type))
        try:
            return _load_with_patience(attr)
        except OSError as error:
            text = log.value.decode('utf-8', 'replace') if log is not None else ''
            if error.errno == errno.EPERM and not level and raise_memlock_limit():
                continue
            if error.errno in (errno.EINVAL, errno.EACCES) and not level:
                level = 1
                continue
            raise ProgLoadError(error.errno, error.strerror, text) from None


def prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int = 0) -> None:
    """Attach a program to a cgroup or to a socket map; it stays until it is detached."""
    bpf(BpfCmd.PROG_ATTACH, bytearray(struct.pack(
        '=IIIII', target_fd, prog_fd, attach_type, flags, 0)))


def prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """Detach a program from a cgroup or from a socket map."""
    bpf(BpfCmd.PROG_DETACH, bytearray(struct.pack(
        '=IIIII', target_fd, prog_fd, attach_type, 0, 0)))


def prog_test_run(prog_fd: int, data: bytes, *, room: int = 256) -> tuple[int, bytes]:
    """Run a program once on a packet; return its answer and the packet as it left it."""
    given, answer = buffer_of(data), ctypes.create_string_buffer(len(data) + room)
    attr = bytearray(struct.pack('=IIIIQQIIIIQQ', prog_fd, 0, len(data), len(answer),
                                 address(given), address(answer), 1, 0, 0, 0, 0, 0))
    bpf(BpfCmd.PROG_TEST_RUN, attr)
    value, _size_in, size_out = struct.unpack_from('=III', attr, 4)
    return value, answer.raw[:size_out]


def link_create(prog_fd: int, target_fd: int, attach_type: int, flags: int = 0) -> int:
    """
    Attach a program by a link and return the link's descriptor.

    :param target_fd: a cgroup's descriptor, or an interface's index for XDP and tcx
    """
    return bpf(BpfCmd.LINK_CREATE, bytearray(struct.pack(
        '=IIII', prog_fd, target_fd, attach_type, flags)))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Put another program behind a link, without a moment in between."""
    bpf(BpfCmd.LINK_UPDATE, bytearray(struct.pack('=IIII', link_fd, prog_fd, 0, 0)))


def link_detach(link_fd: int) -> None:
    """Detach a link at once, whoever else holds it (cgroup, XDP and tcx links, from 5.9)."""
    bpf(BpfCmd.LINK_DETACH, bytearray(struct.pack('=I', link_fd)))


def obj_pin(fd: int, path: str | os.PathLike) -> None:
    """Pin a map, program or link at a path in a bpffs."""
    name = buffer_of(os.fsencode(path) + b'\0')
    bpf(BpfCmd.OBJ_PIN, bytearray(struct.pack('=QII', address(name), fd, 0)))


def obj_get(path: str | os.PathLike) -> int:
    """Open the map, program or link that is pinned at a path."""
    name = buffer_of(os.fsencode(path) + b'\0')
    return bpf(BpfCmd.OBJ_GET, bytearray(struct.pack('=QII', address(name), 0, 0)))


def prog_get_fd_by_id(identifier: int) -> int:
    """Open a program by its id."""
    return bpf(BpfCmd.PROG_GET_FD_BY_ID, bytearray(struct.pack('=III', identifier, 0, 0)))


def map_get_fd_by_id(identifier: int) -> int:
    """Open a map by its id."""
    return bpf(BpfCmd.MAP_GET_FD_BY_ID, bytearray(struct.pack('=III', identifier, 0, 0)))


def link_get_fd_by_id(identifier: int) -> int:
    """Open a link by its id."""
    return bpf(BpfCmd.LINK_GET_FD_BY_ID, bytearray(struct.pack('=III', identifier, 0, 0)))


def btf_load(data: bytes) -> int:
    """Load a BTF object and return its descriptor."""
    block = buffer_of(data)
    return bpf(BpfCmd.BTF_LOAD, bytearray(struct.pack('=QQIII4x', address(block), 0, len(data),
                                                      0, 0)))


def _load_with_patience(attr: bytearray) -> int:
    """Load a program; the verifier answers EAGAIN to a thread that has a signal pending."""
    for _ in range(4):
        try:
            return bpf(BpfCmd.PROG_LOAD, bytearray(attr))
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return bpf(BpfCmd.PROG_LOAD, bytearray(attr))
