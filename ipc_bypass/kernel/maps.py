"""
Maps by bpf(2): create, look up, write, list; `ipc_bypass.kernel.syscall` has them, too.

Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

from collections.abc import Iterator
import ctypes
import errno
import struct

from ipc_bypass.kernel.bpfcall import address, bpf, buffer_of, raise_memlock_limit
from ipc_bypass.kernel.uapi import BpfCmd

# Errors of a kernel that has not this batch command for this kind of map (524: ENOTSUPP).
_NO_BATCH = (errno.EINVAL, errno.ENOTSUP, 524)


def map_create(map_type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0,
               name: str = '', *, btf_fd: int = 0, btf_key_type: int = 0,
               btf_value_type: int = 0, inner_fd: int = 0) -> int:
    """
    Create a map (sizes in bytes) and return its descriptor.

    :param inner_fd: for a map of maps: one that is shaped as those in it will be
    """
    def attr() -> bytearray:
        return bytearray(struct.pack(
            '=IIIIIII16sIIII', map_type, key_size, value_size, max_entries, flags, inner_fd, 0,
            name.encode()[:15], 0, btf_fd, btf_key_type, btf_value_type))
    try:
        return bpf(BpfCmd.MAP_CREATE, attr())
    except OSError as error:
        # Kernels before 5.11 charge maps to RLIMIT_MEMLOCK and answer EPERM when it is short.
        if error.errno != errno.EPERM or not raise_memlock_limit():
            raise
        return bpf(BpfCmd.MAP_CREATE, attr())


def map_lookup(fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes | None:
    """
    Return the value of `key`, None where the map has no such key.

    For a per-CPU map, `value_size` is the size rounded up to 8 times `possible_cpus()`.
    """
    return _read_value(BpfCmd.MAP_LOOKUP_ELEM, fd, key, value_size, flags)


def map_lookup_and_delete(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Take a value out of a queue or hash; `key` is b'' for a queue; None where there is none."""
    return _read_value(BpfCmd.MAP_LOOKUP_AND_DELETE_ELEM, fd, key, value_size, 0)


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write a value; `key` is b'' for a queue. E2BIG: the map is full."""
    key_buffer, value_buffer = _key_buffer(key), buffer_of(value)
    bpf(BpfCmd.MAP_UPDATE_ELEM, bytearray(struct.pack(
        '=I4xQQQ', fd, address(key_buffer), address(value_buffer), flags)))


def map_delete(fd: int, key: bytes) -> bool:
    """Delete a key and return whether it was there."""
    key_buffer = buffer_of(key)
    try:
        bpf(BpfCmd.MAP_DELETE_ELEM, bytearray(struct.pack(
            '=I4xQQQ', fd, address(key_buffer), 0, 0)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after `key`, the first one for None, None after the last one."""
    key_buffer = None if key is None else buffer_of(key)
    following = ctypes.create_string_buffer(key_size)
    try:
        bpf(BpfCmd.MAP_GET_NEXT_KEY, bytearray(struct.pack(
            '=I4xQQQ', fd, address(key_buffer), address(following), 0)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return following.raw


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Yield the keys; in a map that changes meanwhile, some may come twice or not at all."""
    key = map_next_key(fd, None, key_size)
    while key is not None:
        # The next one is asked for first, so that the caller may delete what is yielded.
        following = map_next_key(fd, key, key_size)
        yield key
        key = following


def map_items(fd: int, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    """Return all keys with their values, in one call per 256 where the kernel has batches."""
    try:
        return _lookup_batches(fd, key_size, value_size)
    except OSError as error:
        if error.errno not in _NO_BATCH:
            raise
    pairs = ((key, map_lookup(fd, key, value_size)) for key in map_keys(fd, key_size))
    return [(key, value) for key, value in pairs if value is not None]


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """
    Write `count` values; `keys` and `values` hold them one after the other.

    One call where the kernel has batches for this kind of map (arrays and hashes from 5.6),
    else one call each; after an error some of the entries may have been written.
    """
    if count == 0:
        return
    key_buffer, value_buffer = buffer_of(keys), buffer_of(values)
    attr = bytearray(struct.pack('=QQQQIIQQ', 0, 0, address(key_buffer), address(value_buffer),
                                 count, fd, 0, 0))
    try:
        bpf(BpfCmd.MAP_UPDATE_BATCH, attr)
        return
    except OSError as error:
        if error.errno not in _NO_BATCH:
            raise
    key_size, value_size = len(keys) // count, len(values) // count
    for index in range(count):
        map_update(fd, keys[index * key_size:(index + 1) * key_size],
                   values[index * value_size:(index + 1) * value_size])


def possible_cpus() -> int:
    """Return how many values a per-CPU map holds for each key."""
    with open('/sys/devices/system/cpu/possible') as stream:
        ranges = stream.read().strip().split(',')
    return max(int(part.split('-')[-1]) for part in ranges) + 1


def _read_value(command: BpfCmd, fd: int, key: bytes, size: int, flags: int) -> bytes | None:
    key_buffer, value = _key_buffer(key), ctypes.create_string_buffer(size)
    try:
        bpf(command, bytearray(struct.pack('=I4xQQQ', fd, address(key_buffer), address(value),
                                           flags)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def _key_buffer(key: bytes) -> ctypes.Array | None:
    return buffer_of(key) if key else None


def _lookup_batches(fd: int, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = []
    # A batch's place is 4 bytes for hashes and a key for arrays.
    place, following = (ctypes.create_string_buffer(max(key_size, 4)) for _ in range(2))
    first, room, done = True, 256, False
    while not done:
        keys = ctypes.create_string_buffer(key_size * room)
        values = ctypes.create_string_buffer(value_size * room)
        attr = bytearray(struct.pack('=QQQQIIQQ', 0 if first else address(place),
                                     address(following), address(keys), address(values), room,
                                     fd, 0, 0))
        try:
            bpf(BpfCmd.MAP_LOOKUP_BATCH, attr)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # one bucket of the hash holds more than `room`
                room *= 4
                continue
            if error.errno != errno.ENOENT:
                raise
            done = True
        count = struct.unpack_from('=I', attr, 32)[0]
        raw_keys, raw_values = keys.raw, values.raw
        pairs += [(raw_keys[i * key_size:(i + 1) * key_size],
                   raw_values[i * value_size:(i + 1) * value_size]) for i in range(count)]
        place, following, first = following, place, False
    return pairs
