"""
Beside libxdp's dispatcher: joined where the kernel lets programs extend others, else refused.

On a kernel that does (Debian's 6.1) they pass when they are run by hand in the virtual machine of
test/vm; programs that libxdp loaded are then still there when the session ends.
"""

from contextlib import contextmanager, suppress
import ctypes
import os
from pathlib import Path
import signal
import socket
import struct

from interface_tools import needs_privilege, pair, program
from ipc_bypass.kernel import bpffs, instructions, syscall
from ipc_bypass.kernel.uapi import AttachType, MapType, ProgType
from ipc_bypass.xdp import dispatcher, libxdp, pinned
from ipc_bypass.xdp.attach import XdpAttachment
from ipc_bypass.xdp.entry_object import entry_object, MAP
from ipc_bypass.xdp.errors import DispatcherError, OccupiedError
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.root import RootArray, RootSettings
import pytest
from support.frames import NEAR
from support.waiting import wait_until
from support.xdp import DROP, PASS, TX

pytestmark = needs_privilege

FOLDER = Path('/sys/fs/bpf/xdp')  # libxdp's own
_PROG_TYPE_EXT = 28


@pytest.fixture(scope='module')
def folder():
    """
    Remove libxdp's folder of pins, which it leaves empty, where it was not there before.

    Not after each test: libxdp remembers that it made it.
    """
    before = FOLDER.exists()
    yield
    if not before:
        with suppress(OSError):
            FOLDER.rmdir()


@contextmanager
def shared(interface, names=('somebody',)):
    """Have a dispatcher with programs that pass everything; skip where it cannot be had."""
    if not _extends():
        pytest.skip('the kernel lets no program extend another (BPF_PROG_TYPE_EXT)')
    entry = syscall.map_create(MapType.PROG_ARRAY, 4, 4, 1, name='other_entry')
    numbers = []
    try:
        for priority, name in enumerate(names):
            with libxdp.opened() as library:
                numbers.append(library.add(interface.index, entry_object(name), 'xdp',
                                           {MAP: entry}, 'native', 10 + priority))
            assert dispatcher.of(interface) is not None
        yield numbers
    finally:
        os.close(entry)
        with libxdp.opened() as library:
            for number in numbers:
                library.remove(interface.index, number, 'native')


def _extends():
    """Return whether the verifier looks at programs that extend others at all."""
    try:
        os.close(syscall.prog_load(_PROG_TYPE_EXT, instructions.leave(PASS)))
    except syscall.ProgLoadError as error:
        return bool(error.log)  # this one names nothing that it extends, and is told so
    return True


@contextmanager
def seeming(interface):
    """Have a program of the dispatcher's name that libxdp did not load; yield its id."""
    with program('xdp_dispatcher') as fd:
        link = syscall.link_create(fd, interface.index, AttachType.XDP, 1 << 2)
        try:
            yield syscall.prog_info(fd).id
        finally:
            os.close(link)


class Traffic:
    """Datagrams from far to near."""

    def __init__(self, near, far):
        with far.entered():
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with near.entered():
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.receiver.bind((NEAR, 0))
        self.receiver.setblocking(False)
        self._number = 0
        wait_until(self.passes, 'the way is open')

    def passes(self):
        """Return whether a datagram arrives; frames of a veth come in the order of sending."""
        self._number += 1
        self.sender.sendto(b'%d' % self._number, self.receiver.getsockname())
        with suppress(BlockingIOError):
            while True:
                if int(self.receiver.recv(99)) == self._number:
                    return True
        return False

    def close(self):
        """Close the sockets."""
        self.sender.close()
        self.receiver.close()


def run(fd):
    return syscall.prog_test_run(fd, bytes(64))[0]


@pytest.mark.parametrize('section', ['xdp', 'xdp.frags'])
def test_the_object_file(section):
    """Libbpf takes it as it would take clang's; it goes on into what the map has, or passes."""
    bpf = ctypes.CDLL('libbpf.so.1')
    for name in ('bpf_object__open_mem', 'bpf_object__find_map_by_name',
                 'bpf_object__find_program_by_name'):
        getattr(bpf, name).restype = ctypes.c_void_p
    content = entry_object('xdp_root', section=section)
    frags = section == 'xdp.frags'
    file = ctypes.c_void_p(bpf.bpf_object__open_mem(content, ctypes.c_size_t(len(content)), None))
    found = ctypes.c_void_p(bpf.bpf_object__find_program_by_name(file, b'xdp_root'))
    bpf.bpf_program__set_expected_attach_type(found, 0)
    assert bpf.bpf_object__load(file) == 0
    entry = bpf.bpf_map__fd(ctypes.c_void_p(bpf.bpf_object__find_map_by_name(file, MAP.encode())))
    fd = bpf.bpf_program__fd(found)
    info = syscall.prog_info(fd)
    assert info.name == 'xdp_root' and info.btf_id and run(fd) == PASS
    with program(answer=DROP, frags=frags, attach_type=0) as first, \
            program(answer=TX, frags=frags, attach_type=0) as second:
        for number, answer in ((first, DROP), (second, TX)):
            syscall.map_update(entry, bytes(4), number.to_bytes(4, 'little'))
            assert run(fd) == answer
        syscall.map_delete(entry, bytes(4))
        assert run(fd) == PASS
    bpf.bpf_object__close(file)


def test_no_dispatcher():
    with pair() as (_, _, near), program('somebody') as fd:
        assert dispatcher.of(near) is None
        with pytest.raises(DispatcherError, match='there is none; attach to the interface'):
            dispatcher.add(near, fd)
        link = syscall.link_create(fd, near.index, AttachType.XDP, 1 << 2)
        assert dispatcher.of(near) is None
        os.close(link)


def test_a_dispatcher_that_libxdp_does_not_know():
    with pair() as (_, _, near), program(attach_type=0) as fd, seeming(near) as number:
        there = dispatcher.of(near)
        assert (there.program_id, there.mode, there.programs) == (number, 'native', ())
        assert there.reason == 'libxdp does not know this dispatcher'
        place = XdpAttachment(near)
        with pytest.raises(DispatcherError, match=f'dispatcher {number} cannot be joined .*is not '
                           'replaced; choose another interface, or unload.*xdp-loader'):
            place.attach(fd)
        assert find('near0').xdp_program_id == number and not place.attached
        with pytest.raises(OccupiedError, match='whose mode is not generic; use mode native'):
            place.attach(fd, 'generic')


def test_without_libxdp(monkeypatch):
    def missing(name, *arguments, **options):
        raise OSError(f'{name}: cannot open shared object file')

    with pair() as (_, _, near), program(attach_type=0) as fd, seeming(near) as number:
        monkeypatch.setattr(libxdp.ctypes, 'CDLL', missing)
        with pytest.raises(DispatcherError, match=f'dispatcher {number} cannot be joined .*'
                           'libxdp cannot be had.*apt-get install libxdp1') as refused:
            XdpAttachment(near).attach(fd)
        assert '\n' not in str(refused.value)
        monkeypatch.undo()
        assert find('near0').xdp_program_id == number


@contextmanager
def entering(name):
    """Yield (id of a program that has a map of programs, the map) as libxdp's entry has."""
    entry = syscall.map_create(MapType.PROG_ARRAY, 4, 4, 1, name=name)
    fd = syscall.prog_load(ProgType.XDP, struct.pack('=BBhiBBhi', 0x18, 0x11, 0, entry, 0, 0, 0, 0)
                           + instructions.leave(PASS), name='xdp_entry', attach_type=0)
    try:
        yield syscall.prog_info(fd).id, entry
    finally:
        os.close(fd)
        os.close(entry)


def test_the_status_says_whether_the_dispatcher_calls_an_array(templates, pin_directory,
                                                               monkeypatch):
    """The programs of the dispatcher are given, as not every kernel can have one."""
    bpffs.ensure_bpffs(mount=True)
    with pair() as (_, _, near), program(attach_type=0) as root, \
            RootArray(near, RootSettings(pin_directory=(where := pin_directory())),
                      templates=templates) as array, seeming(near):
        def status():
            return pinned.pinned_report(where).interfaces[0]

        assert not status().attached
        assert "behind libxdp's dispatcher; not known (libxdp does not" in status().reason
        with entering(MAP) as (number, entry), entering('another') as (other, _):
            programs = tuple(dispatcher.Program(each, 'x', 50, ()) for each in (other, number))
            monkeypatch.setattr(dispatcher, 'of', lambda interface: dispatcher.DispatcherInfo(
                1, 'native', programs))
            assert (status().attached, status().reason) == (
                False, "libxdp's dispatcher is attached, and does not call this array")
            syscall.map_update(entry, bytes(4), struct.pack('=I', root))
            assert not status().attached
            assert not pinned._leads_to(other, syscall.prog_info(root).id)
            assert pinned._leads_to(number, syscall.prog_info(root).id)
            monkeypatch.setattr(pinned, '_leads_to', lambda program, wanted: (
                program, wanted) == (number, syscall.prog_info(array.root_program).id))
            assert (status().attached, status().reason) == (True, '')


def test_joined(folder):
    with pair() as (space, far, near), shared(near, ('first', 'second')), \
            program(attach_type=0) as passing, \
            program(answer=DROP, attach_type=0) as dropping:
        place = XdpAttachment(near)
        place.attach(passing)
        assert (place.mode, place.way, place.attached) == ('native', 'dispatcher', True)
        there = dispatcher.of(near)
        assert [(each.name, each.priority, each.goes_on) for each in there.programs] == [
            ('first', 10, ('PASS',)), ('second', 11, ('PASS',)), ('xdp_root', 50, ('PASS',))]
        traffic = Traffic(space, far)
        place.replace(dropping)
        assert not traffic.passes()
        place.replace(passing)
        assert traffic.passes()
        place.replace(dropping)
        with far.entered():  # the socket's namespace is not this thread's
            place.detach()
            assert not place.attached
        assert traffic.passes()
        assert [each.name for each in dispatcher.of(near).programs] == ['first', 'second']
        traffic.close()


def test_others_come_and_go(folder):
    """Libxdp puts another dispatcher in the place of the first: ours is in it."""
    with pair() as (space, far, near), shared(near, ('first',)), \
            program(answer=DROP, attach_type=0) as dropping:
        traffic = Traffic(space, far)
        place = XdpAttachment(near)
        place.attach(dropping)
        with shared(near, ('second',)):
            assert place.attached and not traffic.passes()
        assert place.attached and not traffic.passes()
        place.detach()
        assert traffic.passes()
        traffic.close()


def test_killed(folder):
    """What a killed process leaves passes everything; the next one takes it out."""
    with pair() as (space, far, near), shared(near), \
            program(answer=DROP, attach_type=0) as dropping:
        traffic = Traffic(space, far)
        place = XdpAttachment(near)
        place.attach(dropping)
        pid = os.fork()
        if not pid:
            place.replace(dropping)
            signal.pause()
        living = dispatcher.of(near)
        # Let this process lose it as a killed one does, while the other one has it.
        os.close(place._other._entry)
        assert not traffic.passes()
        second = XdpAttachment(near)
        second.attach(dropping)  # leaves a living one's alone
        assert len(dispatcher.of(near).programs) == len(living.programs) + 1
        second.detach()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_until(traffic.passes, 'the map is empty')
        third = XdpAttachment(near)
        third.attach(dropping)
        assert [each.name for each in dispatcher.of(near).programs] == ['somebody', 'xdp_root']
        third.detach()
        traffic.close()


@pytest.mark.parametrize('options, frags', [
    ({'attach_type': 0, 'frags': True}, True), ({'attach_type': 0, 'frags': True}, False)])
def test_what_does_not_fit(folder, options, frags):
    with pair() as (_, _, near), shared(near), program(**options) as fd:
        before = dispatcher.of(near).programs
        with pytest.raises(DispatcherError, match="its programs are .*'somebody' .*not replaced"):
            XdpAttachment(near).attach(fd, frags=frags)
        assert dispatcher.of(near).programs == before
