"""Tools of the AF_XDP tests: a program without a compiler, frames to send, pipelines."""

from contextlib import contextmanager
import os
import socket
import struct
import sys
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.instructions import call, copy, load32, map_address, move
from ipc_bypass.kernel.uapi import AttachType, MapType, ProgType
from ipc_bypass.xdp.af_xdp.accounting import account
from ipc_bypass.xdp.af_xdp.opening import open_sockets
from ipc_bypass.xdp.af_xdp.pipeline import Pipeline
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from support.waiting import wait_until

#: Small, so that rings wrap and fill up soon.
SMALL = AfXdpSettings(frames=64, ring_entries=16, batch=8, rest_us=0)
_REDIRECT_MAP = 51  # enum bpf_func_id
_EXIT = struct.pack('=BBhi', 0x95, 0, 0, 0)
_NATIVE = 4  # XDP_FLAGS_DRV_MODE


class Everything:
    """An XDP program that gives each frame to the socket of its queue, and passes without one."""

    def __init__(self, space, name, queues=4):
        """Attach it in a namespace."""
        self.map = syscall.map_create(MapType.XSKMAP, 4, 4, queues, name='xsks')
        queue_at = 16  # struct xdp_md.rx_queue_index
        self.program = syscall.prog_load(
            ProgType.XDP, copy(6, 1) + load32(2, 6, queue_at) + map_address(1, self.map)
            + move(3, 2) + call(_REDIRECT_MAP) + _EXIT, name='everything')
        with space.entered():
            self.link = syscall.link_create(self.program, socket.if_nametoindex(name),
                                            AttachType.XDP, _NATIVE)

    def enter(self, *sockets):
        """Have sockets take their queues."""
        for one in sockets:
            syscall.map_update(self.map, struct.pack('=I', one.queue),
                               struct.pack('=I', one.fileno()))

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Detach."""
        for fd in (self.link, self.program, self.map):
            os.close(fd)


@contextmanager
def pipeline(everything, space, handler, settings=SMALL, queues=(0,), name='near0', **options):
    """Yield a Pipeline whose sockets take what comes to an interface."""
    with space.entered():
        sockets = open_sockets([(name, queue) for queue in queues], settings)
    with Pipeline(sockets, handler, **options) as made:
        everything.enter(*sockets)
        yield made


@contextmanager
def running(made):
    """Have a pipeline run in a thread; what it raised is raised at the end."""
    end, raised = threading.Event(), []

    def run():
        try:
            made.run(end.is_set)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield made
    finally:
        end.set()
        thread.join()
    if raised:
        raise raised[0]


@contextmanager
def packet_socket(space, name, protocol=0):
    """Yield a packet socket on an interface; with a protocol, it receives as well."""
    with space.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    with sock:
        with space.entered():
            sock.bind((name, protocol))
        sock.settimeout(5)
        yield sock


def frame(number, size=60):
    """Return a frame of an ethertype that no kernel answers, with a number in it."""
    return b'\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5' + struct.pack('!I', number).ljust(
        size - 14, b'.')


def number_of(data):
    """Return the number in a frame, None where it is no frame of ours."""
    return struct.unpack_from('!I', data, 14)[0] if bytes(data[12:14]) == b'\x88\xb5' else None


def frames_of(made):
    """Return where the frames of a pipeline's UMEM are, once; the sum has to be right."""
    found = account(made.sockets[0].umem, made.sockets)
    assert found.total == made.sockets[0].umem.count, found
    return found


def settle(made):
    """Turn a pipeline until nothing comes any more, and nothing is on its way out."""
    def still():
        came = made.turn()
        return not came and not any(one.tx.waiting or one.in_kernel() for one in made.sockets)
    wait_until(still, 'the pipeline is still')
    made.turn()


def every_frame_is_somewhere(made):
    """Check that each frame is in one place, free or in a fill ring, when all is still."""
    umem = made.sockets[0].umem
    places = [umem.free_frames().tolist()]
    places += [one.fill.content().tolist() for one in made.sockets if one.fill is not None]
    numbers = sorted(address // umem.frame_size for place in places for address in place)
    assert numbers == list(range(umem.count))


def python(*arguments):
    """Return the words that run Python on something, without further threads."""
    return ['env', 'OPENBLAS_NUM_THREADS=1', sys.executable, *arguments]
