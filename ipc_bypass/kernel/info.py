"""What the kernel tells of its bpf objects: information by descriptor, ids, attachments."""

from __future__ import annotations

from collections.abc import Iterator
import ctypes
from dataclasses import dataclass
import errno
import struct

from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of
from ipc_bypass.kernel.uapi import BpfCmd

# struct bpf_map_info of uapi/linux/bpf.h, up to the last field used.
_MAP_INFO = struct.Struct('=IIIIII16sIIQQIIII')
# struct bpf_prog_info: bytes up to verified_insns, and where the fields stand that are used.
_PROG_INFO_BYTES = 224
_PROG_HEAD = struct.Struct('=II8sII')  # type, id, tag, jited and translated length
_PROG_LOAD_TIME, _PROG_OWNER, _PROG_MAP_COUNT, _PROG_NAME, _PROG_BTF = 40, 48, 52, 64, 128
_PROG_RUN_TIME, _PROG_VERIFIED = 192, 216


@dataclass(frozen=True)
class MapInfo:
    """One map; sizes in bytes, `memlock` is the kernel's estimate of the memory it takes."""

    id: int  # noqa: A003
    name: str
    type: int  # noqa: A003
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    memlock: int


@dataclass(frozen=True)
class ProgInfo:
    """
    One program; `verified_insns` is 0 on kernels before 5.16, which do not tell.

    `load_time_ns` is on the clock CLOCK_BOOTTIME.
    """

    id: int  # noqa: A003
    name: str
    type: int  # noqa: A003
    tag: str
    created_by_uid: int
    map_ids: tuple[int, ...]
    btf_id: int
    translated_bytes: int
    jited_bytes: int
    run_time_ns: int
    run_count: int
    verified_insns: int
    load_time_ns: int


@dataclass(frozen=True)
class LinkInfo:
    """
    One link; `type` as in `enum bpf_link_type` (3 cgroup, 6 XDP, 11 tcx).

    `attach_type` and `target` are known for cgroup links (target: the cgroup's id, its inode
    number) and for XDP and tcx links (target: the interface's index); -1 and 0 for others.
    """

    id: int  # noqa: A003
    type: int  # noqa: A003
    prog_id: int
    attach_type: int
    target: int


def map_info(fd: int) -> MapInfo:
    """Return what the kernel tells of the map behind `fd`; raises OSError."""
    (map_type, map_id, key_size, value_size, max_entries, flags, name, _ifindex, _vmlinux_type,
     _netns_dev, _netns_ino, btf_id, btf_key, btf_value, _pad) = _MAP_INFO.unpack(
         _object_info(fd, _MAP_INFO.size))
    return MapInfo(map_id, _name(name), map_type, key_size, value_size, max_entries, flags,
                   btf_id, btf_key, btf_value, _memlock(fd))


def prog_info(fd: int) -> ProgInfo:
    """Return what the kernel tells of the program behind `fd`; raises OSError."""
    raw = _object_info(fd, _PROG_INFO_BYTES)
    count, = struct.unpack_from('=I', raw, _PROG_MAP_COUNT)
    ids = (ctypes.c_uint32 * count)()
    if count:
        request = bytearray(_PROG_INFO_BYTES)
        struct.pack_into('=IQ', request, _PROG_MAP_COUNT, count, address(ids))
        _object_info(fd, _PROG_INFO_BYTES, request)
    prog_type, prog_id, tag, jited, translated = _PROG_HEAD.unpack_from(raw)
    run_time, run_count = struct.unpack_from('=QQ', raw, _PROG_RUN_TIME)
    return ProgInfo(
        id=prog_id, name=_name(raw[_PROG_NAME:_PROG_NAME + 16]), type=prog_type, tag=tag.hex(),
        created_by_uid=struct.unpack_from('=I', raw, _PROG_OWNER)[0], map_ids=tuple(ids),
        btf_id=struct.unpack_from('=I', raw, _PROG_BTF)[0], translated_bytes=translated,
        jited_bytes=jited, run_time_ns=run_time, run_count=run_count,
        verified_insns=struct.unpack_from('=I', raw, _PROG_VERIFIED)[0],
        load_time_ns=struct.unpack_from('=Q', raw, _PROG_LOAD_TIME)[0])


def link_info(fd: int) -> LinkInfo:
    """Return what the kernel tells of the link behind `fd`; raises OSError."""
    raw = _object_info(fd, 32)
    link_type, link_id, prog_id = struct.unpack_from('=III', raw)
    attach_type, target = -1, 0
    if link_type == 3:
        target, attach_type = struct.unpack_from('=QI', raw, 16)
    elif link_type == 6:
        target, = struct.unpack_from('=I', raw, 16)
    elif link_type == 11:
        target, attach_type = struct.unpack_from('=II', raw, 16)
    return LinkInfo(link_id, link_type, prog_id, attach_type, target)


def btf_data(fd: int) -> bytes:
    """Return the BTF object behind `fd`, as it was loaded; raises OSError."""
    # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf.
    size = struct.unpack_from('=QI', _object_info(fd, 32))[1]
    data = ctypes.create_string_buffer(size)
    _object_info(fd, 32, bytearray(struct.pack('=QI20x', address(data), size)))
    return data.raw


def prog_ids() -> Iterator[int]:
    """Yield the id of every program that is loaded now; raises OSError."""
    return _ids(BpfCmd.PROG_GET_NEXT_ID)


def map_ids() -> Iterator[int]:
    """Yield the id of every map that exists now; raises OSError."""
    return _ids(BpfCmd.MAP_GET_NEXT_ID)


def link_ids() -> Iterator[int]:
    """Yield the id of every link that exists now; raises OSError (EINVAL before 5.8)."""
    return _ids(BpfCmd.LINK_GET_NEXT_ID)


def prog_query(target_fd: int, attach_type: int) -> list[int]:
    """Return the ids of programs attached to a cgroup, map or interface; raises OSError."""
    count = 64
    while True:
        ids = (ctypes.c_uint32 * count)()
        # The kernel writes behind what was asked for, of interfaces up to `revision` at byte 56.
        attr = bytearray(struct.pack('=IIIIQII32x', target_fd, attach_type, 0, 0, address(ids),
                                     count, 0))
        try:
            bpf(BpfCmd.PROG_QUERY, attr)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            count *= 4
            continue
        return list(ids[:struct.unpack_from('=I', attr, 24)[0]])


def _object_info(fd: int, size: int, request: bytearray | None = None) -> bytes:
    """Return `size` bytes of the object's information, zeros where the kernel knows less."""
    block = buffer_of(request if request is not None else bytes(size))
    bpf(BpfCmd.OBJ_GET_INFO_BY_FD, bytearray(struct.pack('=IIQ', fd, size, address(block))))
    return block.raw


def _ids(command: BpfCmd) -> Iterator[int]:
    current = 0
    while True:
        attr = bytearray(struct.pack('=III', current, 0, 0))
        try:
            bpf(command, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        current = struct.unpack_from('=I', attr, 4)[0]
        yield current


def _memlock(fd: int) -> int:
    """Return the memlock line of the descriptor's fdinfo in bytes, 0 where there is none."""
    try:
        with open(f'/proc/self/fdinfo/{fd}') as stream:
            for line in stream:
                if line.startswith('memlock:'):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _name(raw: bytes) -> str:
    return raw.split(b'\0', 1)[0].decode('ascii', 'replace')
