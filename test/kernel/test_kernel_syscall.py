"""bpf(2) on the running kernel."""

import errno
import fcntl
import os
import socket
import struct

from ipc_bypass.kernel import instructions, syscall
from ipc_bypass.kernel.syscall import AttachType, MapFlag, MapType, ProgType, UpdateFlag
import pytest

pytestmark = pytest.mark.usefixtures('privileged')


@pytest.fixture
def make_map():
    """Return a function that creates a map; it is closed at the end."""
    made = []

    def make(*arguments, **options):
        made.append(syscall.map_create(*arguments, **options))
        return made[-1]
    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def make_program():
    """Return a function that loads a program which returns a number."""
    made = []

    def make(kind, attach_type=0, answer=1, name='k7_program'):
        made.append(syscall.prog_load(kind, instructions.leave(answer), name=name,
                                      attach_type=attach_type))
        return made[-1]
    yield make
    for fd in made:
        os.close(fd)


def number(value):
    return struct.pack('=I', value)


def test_a_map_keeps_what_is_written(make_map):
    fd = make_map(MapType.HASH, 4, 8, 4, 0, 'k7_hash')
    assert syscall.map_lookup(fd, number(1), 8) is None
    syscall.map_update(fd, number(1), b'12345678', UpdateFlag.NOEXIST)
    assert syscall.map_lookup(fd, number(1), 8) == b'12345678'
    with pytest.raises(FileExistsError) as caught:
        syscall.map_update(fd, number(1), b'12345678', UpdateFlag.NOEXIST)
    assert caught.value.errno == errno.EEXIST
    assert syscall.map_delete(fd, number(1)) is True
    assert syscall.map_delete(fd, number(1)) is False


def test_a_full_map_says_so(make_map):
    fd = make_map(MapType.HASH, 4, 4, 2)
    for key in range(2):
        syscall.map_update(fd, number(key), number(key))
    with pytest.raises(OSError) as caught:
        syscall.map_update(fd, number(2), number(2))
    assert caught.value.errno == errno.E2BIG


@pytest.mark.parametrize('kind', [MapType.HASH, MapType.ARRAY, MapType.LRU_HASH])
def test_a_batch_writes_and_reads_all(make_map, kind):
    count = 1000
    fd = make_map(kind, 4, 8, 4 * count)
    keys = b''.join(number(key) for key in range(count))
    values = b''.join(struct.pack('=Q', key * key) for key in range(count))
    syscall.map_update_batch(fd, keys, values, count)
    found = dict(syscall.map_items(fd, 4, 8))
    for key in range(count):
        assert found[number(key)] == struct.pack('=Q', key * key)
        assert syscall.map_lookup(fd, number(key), 8) == found[number(key)]
    if kind == MapType.HASH:
        assert len(found) == count
        assert set(syscall.map_keys(fd, 4)) == set(found)


def test_an_empty_map_has_no_items(make_map):
    fd = make_map(MapType.HASH, 4, 8, 16)
    assert syscall.map_items(fd, 4, 8) == []
    assert syscall.map_next_key(fd, None, 4) is None
    syscall.map_update_batch(fd, b'', b'', 0)


def test_a_batch_falls_back_where_the_map_has_none(make_map):
    """A socket map takes no batch of updates."""
    fd = make_map(MapType.SOCKHASH, 4, 8, 4)
    with socket.create_server(('127.0.0.1', 0)) as server, \
            socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
        values = b''.join(struct.pack('=Q', end.fileno()) for end in (one, other))
        syscall.map_update_batch(fd, number(1) + number(2), values, 2)
        assert set(syscall.map_keys(fd, 4)) == {number(1), number(2)}
        items = dict(syscall.map_items(fd, 4, 8))
        cookie = one.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
        assert items[number(1)] == cookie


def test_keys_may_be_deleted_while_they_are_listed(make_map):
    fd = make_map(MapType.HASH, 4, 4, 64)
    for key in range(64):
        syscall.map_update(fd, number(key), number(key))
    for key in syscall.map_keys(fd, 4):
        syscall.map_delete(fd, key)
    assert syscall.map_items(fd, 4, 4) == []


def test_a_queue_gives_in_order(make_map):
    fd = make_map(MapType.QUEUE, 0, 4, 4)
    syscall.map_update(fd, b'', number(1))
    syscall.map_update(fd, b'', number(2))
    assert syscall.map_lookup_and_delete(fd, b'', 4) == number(1)
    assert syscall.map_lookup_and_delete(fd, b'', 4) == number(2)
    assert syscall.map_lookup_and_delete(fd, b'', 4) is None


def test_a_per_cpu_map_has_a_value_for_each_cpu(make_map):
    fd = make_map(MapType.PERCPU_ARRAY, 4, 8, 1)
    size = 8 * syscall.possible_cpus()
    values = b''.join(struct.pack('=Q', cpu + 5) for cpu in range(syscall.possible_cpus()))
    syscall.map_update(fd, number(0), values)
    assert syscall.map_lookup(fd, number(0), size) == values


def test_information_on_a_map(make_map):
    fd = make_map(MapType.ARRAY, 4, 24, 100, MapFlag.MMAPABLE, 'k7_a_very_long_name')
    info = syscall.map_info(fd)
    assert (info.type, info.key_size, info.value_size, info.max_entries) == (2, 4, 24, 100)
    assert info.flags == MapFlag.MMAPABLE
    assert info.name == 'k7_a_very_long_name'[:15]
    assert info.memlock >= 2400
    assert info.id in list(syscall.map_ids())
    again = syscall.map_get_fd_by_id(info.id)
    assert syscall.map_info(again) == info
    os.close(again)


def test_information_on_a_program(make_map):
    fd = make_map(MapType.SOCKHASH, 8, 4, 4)
    code = b''.join([
        instructions.zero_frame(-8, 8), instructions.map_address(2, fd),
        instructions.frame_address(3, -8), instructions.move(4, 0),
        instructions.call(instructions.MSG_REDIRECT_HASH), instructions.leave(1)])
    program = syscall.prog_load(ProgType.SK_MSG, code, name='k7_msg',
                                attach_type=AttachType.SK_MSG_VERDICT)
    info = syscall.prog_info(program)
    assert (info.name, info.type) == ('k7_msg', ProgType.SK_MSG)
    assert info.map_ids == (syscall.map_info(fd).id,)
    assert info.verified_insns > 0
    assert len(info.tag) == 16
    assert info.id in list(syscall.prog_ids())
    again = syscall.prog_get_fd_by_id(info.id)
    assert syscall.prog_info(again).tag == info.tag
    os.close(again)
    os.close(program)


def test_a_refused_program_has_the_log():
    with pytest.raises(syscall.ProgLoadError) as caught:
        syscall.prog_load(ProgType.SOCK_OPS, instructions.leave(1)[8:])
    assert caught.value.errno == errno.EACCES
    assert 'R0 !read_ok' in caught.value.log


def test_a_program_runs_on_a_packet(make_program):
    program = make_program(ProgType.XDP, AttachType.XDP, answer=2)
    packet = bytes(range(64))
    assert syscall.prog_test_run(program, packet) == (2, packet)


def test_descriptors_are_closed_on_exec(make_map, make_program):
    for fd in (make_map(MapType.ARRAY, 4, 4, 1), make_program(ProgType.SOCK_OPS)):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_attach_query_detach(make_program, cgroup_fd):
    program = make_program(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS)
    identifier = syscall.prog_info(program).id
    place = (cgroup_fd, AttachType.CGROUP_SOCK_OPS)
    assert syscall.prog_query(*place) == []
    syscall.prog_attach(cgroup_fd, program, AttachType.CGROUP_SOCK_OPS,
                        syscall.AttachFlag.ALLOW_MULTI)
    assert syscall.prog_query(*place) == [identifier]
    syscall.prog_detach(cgroup_fd, program, AttachType.CGROUP_SOCK_OPS)
    assert syscall.prog_query(*place) == []


def test_a_link_holds_until_detached_or_closed(make_program, cgroup_fd, private_cgroup):
    first, second = (make_program(ProgType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, name=name)
                     for name in ('k7_first', 'k7_second'))
    place = (cgroup_fd, AttachType.CGROUP_SOCK_OPS)
    link = syscall.link_create(first, *place)
    info = syscall.link_info(link)
    assert (info.type, info.attach_type) == (3, AttachType.CGROUP_SOCK_OPS)
    assert info.target == os.stat(private_cgroup).st_ino
    assert info.prog_id == syscall.prog_info(first).id
    assert syscall.prog_query(*place) == [info.prog_id]
    syscall.link_update(link, second)
    assert syscall.prog_query(*place) == [syscall.prog_info(second).id]
    again = syscall.link_get_fd_by_id(info.id)
    os.close(link)
    assert len(syscall.prog_query(*place)) == 1
    syscall.link_detach(again)
    assert syscall.prog_query(*place) == []
    os.close(again)
    link = syscall.link_create(first, *place)
    os.close(link)
    assert syscall.prog_query(*place) == []


def test_pin_and_get(make_map, bpffs_folder):
    fd = make_map(MapType.ARRAY, 4, 4, 1, 0, 'k7_pinned')
    syscall.obj_pin(fd, bpffs_folder / 'pinned')
    again = syscall.obj_get(bpffs_folder / 'pinned')
    assert syscall.map_info(again).id == syscall.map_info(fd).id
    os.close(again)
    with pytest.raises(FileNotFoundError):
        syscall.obj_get(bpffs_folder / 'nothing')


def test_maps_charged_to_the_memory_lock_limit_get_it_lifted(run_python):
    """Without effect on kernels from 5.11, which charge the cgroup; must do no harm there."""
    result = run_python(
        'import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n'
        'from ipc_bypass.kernel import syscall\n'
        'print(syscall.map_info(syscall.map_create(2, 4, 4096, 100)).max_entries)')
    assert result.stdout == '100\n', result.stderr
