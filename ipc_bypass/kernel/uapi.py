"""Numbers of bpf(2), as in uapi/linux/bpf.h; only those that this package uses."""

from __future__ import annotations

import enum
import platform


class BpfCmd(enum.IntEnum):
    """Commands of bpf(2), `enum bpf_cmd`."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    RAW_TRACEPOINT_OPEN = 17
    BTF_LOAD = 18
    BTF_GET_FD_BY_ID = 19
    MAP_LOOKUP_AND_DELETE_ELEM = 21
    MAP_LOOKUP_BATCH = 24
    MAP_LOOKUP_AND_DELETE_BATCH = 25
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    LINK_DETACH = 34


class MapType(enum.IntEnum):
    """Kinds of maps, `enum bpf_map_type`."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    RINGBUF = 27


class ProgType(enum.IntEnum):
    """Kinds of programs, `enum bpf_prog_type`."""

    SOCKET_FILTER = 1
    KPROBE = 2
    SCHED_CLS = 3
    TRACEPOINT = 5
    XDP = 6
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    SK_SKB = 14
    SK_MSG = 16
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18


class AttachType(enum.IntEnum):
    """Places that programs attach to, `enum bpf_attach_type`."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    SK_SKB_STREAM_PARSER = 4
    SK_SKB_STREAM_VERDICT = 5
    SK_MSG_VERDICT = 7
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_INET_SOCK_RELEASE = 34
    XDP = 37
    SK_SKB_VERDICT = 38
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class MapFlag(enum.IntFlag):
    """Flags of MAP_CREATE."""

    NO_PREALLOC = 1 << 0
    RDONLY = 1 << 3
    WRONLY = 1 << 4
    RDONLY_PROG = 1 << 7
    MMAPABLE = 1 << 10
    PRESERVE_ELEMS = 1 << 11


class ProgFlag(enum.IntFlag):
    """Flags of PROG_LOAD."""

    XDP_HAS_FRAGS = 1 << 5


class UpdateFlag(enum.IntEnum):
    """Flags of MAP_UPDATE_ELEM."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2


class AttachFlag(enum.IntFlag):
    """Flags of PROG_ATTACH on a cgroup."""

    ALLOW_OVERRIDE = 1
    ALLOW_MULTI = 2
    REPLACE = 4


# System call numbers of bpf(2), arch/*/entry/syscalls and uapi/asm-generic/unistd.h.
_SYSCALL_NUMBERS = {
    'x86_64': 321, 'i386': 357, 'i686': 357, 'aarch64': 280, 'riscv64': 280,
    'loongarch64': 280, 'armv6l': 386, 'armv7l': 386, 'ppc64le': 361, 's390x': 351,
}


def bpf_syscall_number() -> int:
    """Return this machine's number of bpf(2), or -1 where it is not known."""
    return _SYSCALL_NUMBERS.get(platform.machine(), -1)
