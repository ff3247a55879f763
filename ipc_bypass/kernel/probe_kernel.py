"""Try what we need of bpf(2): kinds of maps and programs, helpers, links; each for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
import ctypes
from dataclasses import dataclass
import errno
import mmap
import os
import struct
import threading

from ipc_bypass.kernel import instructions as code
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.raw_tracepoint import open_raw_tracepoint
from ipc_bypass.kernel.syscall import AttachType, MapFlag, MapType, ProgType

# Where fields stand in contexts, uapi/linux/bpf.h.
_MSG_SK = 72  # struct sk_msg_md
_OPS_SK = 184  # struct bpf_sock_ops
_CLONE_NEWNET = 0x40000000
_XDP_FLAGS_SKB_MODE = 2
_KEY_SIZE = 8


class NotTried(Exception):  # noqa: N818 (says that there is no answer, and is no error)
    """The trial could not be made, so there is no answer either way."""


@dataclass(frozen=True)
class Trial:
    """
    One thing to try.

    `attempt` raises OSError or BypassError when it does not work and NotTried when it cannot be
    tried; it may return a remark. `paths` names the paths that cannot do without.
    """

    name: str
    attempt: Callable[[], str | None]
    minimum_kernel: str
    needed_for: str
    paths: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ('CAP_BPF', 'CAP_NET_ADMIN')


def trials() -> list[Trial]:
    """Return the trials, in the order in which they are shown."""
    tcp, udp = ('tcp/sk_msg',), ('udp/cgroup_skb',)
    maps = [
        ('array, mmapable', _mmapable_array, '5.5', 'counters without system calls', tcp + udp),
        ('hash', _map(MapType.HASH), '3.19', 'flows, rules', tcp + udp),
        ('lru_hash', _map(MapType.LRU_HASH), '4.10', 'UDP flows', ()),
        ('percpu_array', _map(MapType.PERCPU_ARRAY, key=4), '4.6', 'XDP counters', ()),
        ('sockhash', _map(MapType.SOCKHASH), '4.18', 'TCP redirect', tcp),
        ('sk_storage', lambda: _close(_sk_storage()), '5.2', 'state of each connection', tcp),
        ('queue', _map(MapType.QUEUE, key=0), '4.20', 'free records', tcp + udp),
        ('ringbuf', _map(MapType.RINGBUF, key=0, value=0, entries=mmap.PAGESIZE), '5.8',
         'events, waking', udp),
        ('devmap', _map(MapType.DEVMAP, key=4, value=4), '4.14', 'XDP redirect', ()),
        ('xskmap', _map(MapType.XSKMAP, key=4, value=4), '4.18', 'AF_XDP', ()),
    ]
    programs = [
        ('sock_ops', ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, 1, '4.13', 'TCP', tcp),
        ('sk_msg', ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, 1, '4.17', 'TCP', tcp),
        ('sk_skb', ProgType.SK_SKB, AttachType.SK_SKB_VERDICT, 1, '5.13',
         'right FIONREAD under redirect, proxy', tcp),
        ('cgroup_skb/egress', ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS, 2, '4.19',
         'UDP divert', udp),
        ('sched_cls', ProgType.SCHED_CLS, 0, 0, '4.1', 'bridge peers', ()),
        ('xdp', ProgType.XDP, AttachType.XDP, 2, '4.8', 'XDP', ()),
    ]
    helpers = [
        ('sock_hash_update in sock_ops', _sock_hash_update, '4.18', 'TCP', tcp),
        ('msg_redirect_hash in sk_msg', _msg_redirect_hash, '4.18', 'TCP', tcp),
        ('sk_storage_get in sock_ops', _ops_storage, '5.3', 'TCP', tcp),
        ('sk_storage_get in sk_msg', _msg_storage, '5.8', 'TCP', tcp),
        ('get_current_pid_tgid in sk_msg', _msg_pid, '5.8', 'pids of flows', ()),
        ('map_pop_elem in sock_ops', _pop_element, '4.20', 'free records', tcp),
        ('ringbuf_output in sk_msg', _msg_ringbuf, '5.8', 'waking the budget renewal', ()),
    ]
    readers = [
        ('skc_to_tcp_sock in sk_msg', _msg_tcp_sock, '5.10', 'redirect again after a pass'),
        ('probe_read_kernel in sk_msg', _msg_probe_read, '5.8', 'redirect again after a pass'),
    ]
    links = [
        ('cgroup link', _cgroup_link, '5.7', 'attachments that end with the process', tcp + udp),
        ('tcx link', _tcx_link, '6.6', 'bridge peers that end with the process', ()),
        ('xdp link', _xdp_link, '5.9', 'XDP that ends with the process', ()),
        ('sk_msg and sk_skb on a sockhash', _sockhash_programs, '5.13', 'TCP', tcp),
    ]
    tracepoints = [
        ('sock_recv_length', '6.3', 'leaving out programs that use MSG_WAITALL'),
        ('tcp_rcv_space_adjust', '4.17', 'leaving out programs that splice from a socket'),
    ]
    return [
        *(Trial(f'map {name}', attempt, since, use, paths)
          for name, attempt, since, use, paths in maps),
        *(Trial(f'program {name}', _program(kind, attach, answer), since, use, paths)
          for name, kind, attach, answer, since, use, paths in programs),
        Trial('instruction compare and exchange', _compare_exchange, '5.12', 'UDP capture', udp),
        *(Trial(f'helper {name}', attempt, since, use, paths)
          for name, attempt, since, use, paths in helpers),
        *(Trial(f'helper {name}', attempt, since, use,
                capabilities=('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON'))
          for name, attempt, since, use in readers),
        *(Trial(f'attach {name}', attempt, since, use, paths)
          for name, attempt, since, use, paths in links),
        *(Trial(f'tracepoint {name}', _raw_tracepoint(name), since, use,
                capabilities=('CAP_BPF', 'CAP_PERFMON'))
          for name, since, use in tracepoints),
    ]


def try_bpf() -> None:
    """Make a map of the simplest kind; raises OSError."""
    _close(syscall.map_create(MapType.ARRAY, 4, 8, 1, name='ipcb_probe'))


def try_kprobes() -> None:
    """Look whether the kernel shows that it has probes; raises UnsupportedError."""
    if not any(os.path.exists(place) for place in (
            '/sys/bus/event_source/devices/kprobe', '/sys/kernel/tracing/kprobe_events',
            '/sys/kernel/debug/tracing/kprobe_events')):
        raise UnsupportedError('trace sends', 'the kernel has no kprobes',
                               next_step='not needed where cgroup_skb works; else use a kernel '
                               'with CONFIG_KPROBE_EVENTS and CONFIG_BPF_EVENTS')


def _close(fd: int) -> None:
    os.close(fd)


def _make(kind: MapType, key: int = _KEY_SIZE, value: int = 8, entries: int = 4) -> int:
    return syscall.map_create(kind, key, value, entries, name='ipcb_probe')


def _raw_tracepoint(name: str) -> Callable[[], None]:
    def attempt() -> None:
        program = _load(ProgType.RAW_TRACEPOINT, 0, answer=0)
        try:
            _close(open_raw_tracepoint(name, program))
        finally:
            _close(program)
    return attempt


def _map(kind: MapType, **sizes: int) -> Callable[[], None]:
    return lambda: _close(_make(kind, **sizes))


def _load(kind: ProgType, attach: int, *parts: bytes, answer: int = 1) -> int:
    return syscall.prog_load(kind, b''.join(parts) + code.leave(answer), name='ipcb_probe',
                             attach_type=attach)


def _program(kind: ProgType, attach: int, answer: int) -> Callable[[], None]:
    return lambda: _close(_load(kind, attach, answer=answer))


def _compare_exchange() -> None:
    _close(_load(ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS, code.zero_frame(-8, 8),
                 code.move(0, 0), code.move(1, 1), code.compare_exchange64(10, 1, -8)))


def _mmapable_array() -> None:
    fd = syscall.map_create(MapType.ARRAY, 4, 8, 4, MapFlag.MMAPABLE, 'ipcb_probe')
    try:
        with mmap.mmap(fd, mmap.PAGESIZE) as window:
            syscall.map_update(fd, struct.pack('=I', 1), b'mmapable')
            if window[8:16] != b'mmapable':
                raise OSError(errno.EIO, 'what is written does not show in the mapping')
    finally:
        os.close(fd)


def _sk_storage() -> int:
    """Return a map of this kind, which must say the types of its key and value."""
    strings = b'\0int\0'
    # struct btf_type: name, info (kind INT), size; then encoding (signed), 32 bits.
    types = struct.pack('=IIII', 1, 1 << 24, 4, 1 << 24 | 32)
    header = struct.pack('=HBBIIIII', 0xeb9f, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = syscall.btf_load(header + types + strings)
    try:
        return syscall.map_create(MapType.SK_STORAGE, 4, 4, 0, MapFlag.NO_PREALLOC, 'ipcb_probe',
                                  btf_fd=btf, btf_key_type=1, btf_value_type=1)
    finally:
        os.close(btf)


@contextmanager
def _held(fd: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def _msg(*parts: bytes) -> None:
    """Load a sk_msg program with these instructions; the context is in register 6."""
    _close(_load(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, code.copy(6, 1), *parts))


def _with_key(helper: int, fd: int) -> bytes:
    """Return a call with the context, a map, a key of zeros and flags 0."""
    return b''.join([code.zero_frame(-_KEY_SIZE, _KEY_SIZE), code.copy(6, 1), code.copy(1, 6),
                     code.map_address(2, fd), code.frame_address(3, -_KEY_SIZE), code.move(4, 0),
                     code.call(helper)])


def _sock_hash_update() -> None:
    with _held(_make(MapType.SOCKHASH, value=4)) as fd:
        _close(_load(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS,
                     _with_key(code.SOCK_HASH_UPDATE, fd)))


def _msg_redirect_hash() -> None:
    with _held(_make(MapType.SOCKHASH, value=4)) as fd:
        _close(_load(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT,
                     _with_key(code.MSG_REDIRECT_HASH, fd)))


def _storage_of(fd: int, offset: int) -> bytes:
    """Return a call for the storage of the socket at an offset of the context in register 6."""
    return code.load64(2, 6, offset) + code.skip_if_zero(2, b''.join(
        [code.map_address(1, fd), code.move(3, 0), code.move(4, 1),
         code.call(code.SK_STORAGE_GET)]))


def _msg_storage() -> None:
    with _held(_sk_storage()) as fd:
        _msg(_storage_of(fd, _MSG_SK))


def _ops_storage() -> None:
    with _held(_sk_storage()) as fd:
        _close(_load(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, code.copy(6, 1),
                     _storage_of(fd, _OPS_SK)))


def _msg_pid() -> None:
    _msg(code.call(code.GET_CURRENT_PID_TGID))


def _pop_element() -> None:
    with _held(_make(MapType.QUEUE, key=0)) as fd:
        _close(_load(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, code.zero_frame(-8, 8),
                     code.map_address(1, fd), code.frame_address(2, -8),
                     code.call(code.MAP_POP_ELEM)))


def _msg_ringbuf() -> None:
    with _held(_make(MapType.RINGBUF, key=0, value=0, entries=mmap.PAGESIZE)) as fd:
        _msg(code.zero_frame(-8, 8), code.map_address(1, fd), code.frame_address(2, -8),
             code.move(3, 8), code.move(4, 0), code.call(code.RINGBUF_OUTPUT))


def _msg_tcp_sock() -> None:
    """Read a connection's queue state as the program does, at the offset of this kernel."""
    offset = Btf.from_kernel().offset('tcp_sock', 'copied_seq')
    read = code.skip_if_zero(0, code.load32(1, 0, offset))
    _msg(code.load64(1, 6, _MSG_SK),
         code.skip_if_zero(1, code.call(code.SKC_TO_TCP_SOCK) + read))


def _msg_probe_read() -> None:
    _msg(code.zero_frame(-8, 8), code.frame_address(1, -8), code.move(2, 8), code.move(3, 0),
         code.call(code.PROBE_READ_KERNEL))


def _sockhash_programs() -> None:
    """Attach a sk_msg and a sk_skb program to one private sockhash, and take them off again."""
    with ExitStack() as stack:
        sockets = stack.enter_context(_held(_make(MapType.SOCKHASH, value=4)))
        for kind, attach in ((ProgType.SK_MSG, AttachType.SK_MSG_VERDICT),
                             (ProgType.SK_SKB, AttachType.SK_SKB_VERDICT)):
            program = stack.enter_context(_held(_load(kind, attach)))
            syscall.prog_attach(sockets, program, attach)
            stack.callback(syscall.prog_detach, sockets, program, attach)


def _cgroup_link() -> None:
    """Attach to a cgroup made for this, with no process in it, and detach."""
    try:
        private = os.path.join(find_cgroup2(), f'ipc_bypass_probe_{os.getpid()}')
        os.mkdir(private)
    except (BypassError, OSError) as error:
        raise NotTried(f'no private cgroup could be made: {error}') from error
    try:
        with _held(open_cgroup(private)) as cgroup, \
                _held(_load(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS)) as program, \
                _held(syscall.link_create(program, cgroup, AttachType.CGROUP_SOCK_OPS)) as link:
            syscall.link_detach(link)
    finally:
        os.rmdir(private)


def _tcx_link() -> None:
    _in_private_network(lambda: _interface_link(ProgType.SCHED_CLS, AttachType.TCX_INGRESS, 0))


def _xdp_link() -> None:
    _in_private_network(lambda: _interface_link(ProgType.XDP, AttachType.XDP,
                                                _XDP_FLAGS_SKB_MODE))


def _interface_link(kind: ProgType, attach: AttachType, flags: int) -> None:
    """Attach a link to the first interface of this network namespace, lo, and detach."""
    with _held(_load(kind, attach, answer=2)) as program, \
            _held(syscall.link_create(program, 1, attach, flags)) as link:
        syscall.link_detach(link)


def _in_private_network(attempt: Callable[[], None]) -> None:
    """
    Run something in a network namespace of its own, which ends with it.

    A namespace is a thread's own, so that the rest of the process stays where it is.
    """
    outcome: list[BaseException | None] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            if libc.unshare(_CLONE_NEWNET) != 0:
                raise NotTried('no private network namespace could be made: '
                               + os.strerror(ctypes.get_errno()))
            attempt()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if outcome[0] is not None:
        raise outcome[0]
