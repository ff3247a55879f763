"""Compile and load in a child process: what comes back, and each way to fail."""

import errno
import fcntl
import os
import signal
import threading
import time

from ipc_bypass.kernel import loader_child, syscall
from ipc_bypass.kernel.errors import (
    BypassError,
    CompileError,
    HeadersError,
    LoaderError,
    UnsupportedError,
    VerifierError,
)
from ipc_bypass.kernel.headers import HeaderTree
from ipc_bypass.kernel.loader import load_object, ProgramSpec, read_source
from ipc_bypass.kernel.syscall import AttachType, MapType, ProgType
import pytest
from support.descriptors import no_descriptor_left

pytestmark = pytest.mark.usefixtures('privileged')

STEP = {'K7_STEP': 5}
MSG = [ProgramSpec('k7_msg', ProgType.SK_MSG, AttachType.SK_MSG_VERDICT)]
ALL = [ProgramSpec('k7_ops', ProgType.SOCK_OPS), *MSG,
       ProgramSpec('k7_skb', ProgType.SK_SKB, AttachType.SK_SKB_VERDICT)]
MAPS = ['k7_sockets', 'k7_storage', 'k7_queue', 'k7_flows', 'k7_hash']

LOAD = """
import sys
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.headers import HeaderTree
from ipc_bypass.kernel.loader import load_object, ProgramSpec
try:
    loaded = load_object(sys.argv[1], {'K7_STEP': 5}, [ProgramSpec('k7_msg', 16, 7)],
                         ['k7_flows'])
    print('loaded', loaded.layouts['k7_flow'].size)
except BypassError as error:
    print(type(error).__name__, error)
print([name for name in ('bcc', 'numpy', 'rich', 'pyroute2') if name in sys.modules])
"""


@pytest.fixture(autouse=True)
def no_leak():
    """Hold every test to leaving no descriptor behind."""
    with no_descriptor_left():
        yield


def load(source, programs=MSG, maps=(), **options):
    return load_object(source, STEP, programs, maps, **options)


def test_maps_and_programs_arrive(program_file):
    with load(program_file(), ALL, MAPS) as loaded:
        kinds = {name: entry.type for name, entry in loaded.maps.items()}
        assert kinds == {'k7_sockets': MapType.SOCKHASH, 'k7_storage': MapType.SK_STORAGE,
                         'k7_queue': MapType.QUEUE, 'k7_flows': MapType.ARRAY,
                         'k7_hash': MapType.HASH}
        for name, entry in loaded.maps.items():
            info = syscall.map_info(entry.fd)
            assert info.name == name
            assert (entry.key_size, entry.value_size, entry.max_entries) == \
                (info.key_size, info.value_size, info.max_entries)
        assert loaded.maps['k7_sockets'].max_entries == 128
        assert syscall.map_info(loaded.maps['k7_flows'].fd).flags & syscall.MapFlag.MMAPABLE
        for spec in ALL:
            info = syscall.prog_info(loaded.programs[spec.name])
            assert (info.name, info.type) == (spec.name, spec.prog_type)
            assert loaded.program_info[spec.name].verified_insns > 0
        fds = [*loaded.programs.values(), *(entry.fd for entry in loaded.maps.values())]
        assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds)
        # They are attachable: the attach type went with the load.
        syscall.prog_attach(loaded.maps['k7_sockets'].fd, loaded.programs['k7_msg'],
                            AttachType.SK_MSG_VERDICT)
        syscall.prog_attach(loaded.maps['k7_sockets'].fd, loaded.programs['k7_skb'],
                            AttachType.SK_SKB_VERDICT)


def test_after_closing_nothing_is_left(program_file):
    with load(program_file(), ALL, MAPS) as loaded:
        programs = {info.id for info in loaded.program_info.values()}
        maps = {syscall.map_info(entry.fd).id for entry in loaded.maps.values()}
    loaded.close()
    deadline = time.monotonic() + 10  # the kernel frees them after a grace period
    while time.monotonic() < deadline and (programs & set(syscall.prog_ids())
                                           or maps & set(syscall.map_ids())):
        time.sleep(0.05)
    assert not programs & set(syscall.prog_ids())
    assert not maps & set(syscall.map_ids())


def test_the_compiler_stays_out_of_this_process(program_file, run_python):
    result = run_python(LOAD, arguments=[str(program_file())])
    assert result.stdout.splitlines() == ['loaded 256', '[]'], result.stderr


def test_a_compile_error_names_file_and_line(program_file):
    with pytest.raises(CompileError) as caught:
        load(program_file(('flow->bytes +=', 'flow->octets +=')))
    number = next(number for number, line in enumerate(
        program_file(('flow->bytes +=', 'flow->octets +=')).read_text().splitlines(), 1)
        if 'octets' in line)
    assert f"k7.bpf.c:{number}: error: no member named 'octets'" in str(caught.value)
    assert 'virtual' not in caught.value.log
    assert '\n' not in str(caught.value)


def test_a_compile_error_in_a_header_names_the_header(program_file, tmp_path):
    source = program_file()
    (tmp_path / 'k7_common.h').write_text('\n\nint k7_x = k7_y;\n')
    with pytest.raises(CompileError, match=r'k7_common\.h:3: error: '):
        load(source)
    (tmp_path / 'k7_common.h').unlink()
    with pytest.raises(CompileError, match="'k7_common.h' file not found"):
        load(source)


def test_a_missing_definition_is_a_compile_error(program_file):
    with pytest.raises(CompileError, match="'K7_STEP'"):
        load_object(program_file(), {}, MSG, [])


def test_a_verifier_error_names_program_line_and_reason(program_file):
    changed = ('  if (!flow)\n    return SK_PASS;\n', '')
    source = program_file(changed)
    with pytest.raises(VerifierError) as caught:
        load(source)
    number = next(number for number, line in enumerate(source.read_text().splitlines(), 1)
                  if 'flow->bytes +=' in line)
    text = str(caught.value)
    assert text.startswith('load program k7_msg of k7.bpf.c: ')
    assert "R0 invalid mem access 'map_value_or_null'" in text
    assert f'k7.bpf.c:{number}: ' in text
    assert 'flow->bytes += msg->size;' in text
    assert caught.value.errno == errno.EACCES
    assert 'bpf_sk_storage_get#107' in caught.value.log
    assert f'@ k7.bpf.c:{number}' in caught.value.log


def test_a_log_of_megabytes_is_whole(program_file):
    """Many steps, then one that is refused: the last line must be there."""
    with pytest.raises(VerifierError) as caught:
        load(program_file(('  if (!sk)\n    return SK_PASS;\n', """
  __u64 sum = 0;
  for (__u32 i = 0; i < 8000; i++)
    sum += bpf_ktime_get_ns() & i;
  if (sum == 7)
    return *(volatile int *)((char *)msg + 4000);
  if (!sk)
    return SK_PASS;
""")))
    assert len(caught.value.log) > 2 << 20
    assert caught.value.log.startswith('0: R1=ctx')
    assert 'invalid bpf_context access off=4000' in str(caught.value)


def test_what_the_file_does_not_have_is_named(program_file):
    with pytest.raises(LoaderError, match='it has no function k7_other'):
        load(program_file(), [ProgramSpec('k7_other', ProgType.SK_MSG)])
    with pytest.raises(LoaderError, match='it has no map k7_other'):
        load(program_file(), maps=['k7_other'])
    with pytest.raises(UnsupportedError, match='find type k7_other'):
        load(program_file(), layouts=['k7_other'])
    with pytest.raises(BypassError, match='No such file'):
        load('/nonexistent/k7.bpf.c')


def test_a_kind_that_the_kernel_has_not(program_file):
    with pytest.raises(UnsupportedError, match='does not know this kind of program'):
        load(program_file(), [ProgramSpec('k7_msg', 999)])


def test_a_map_that_is_too_large(program_file):
    with pytest.raises(BypassError, match='create map k7_hash of k7.bpf.c: ') as caught:
        load(program_file(('struct k7_flow, 64)', 'struct k7_flow, 2000000000)')))
    assert caught.value.errno in (errno.E2BIG, errno.ENOMEM)


@pytest.mark.parametrize('without, expected', [
    (['bpf', 'sys_admin'], 'PrivilegeError create map k7_hash of k7.bpf.c: needs CAP_BPF'),
    (['net_admin', 'sys_admin'],
     'PrivilegeError create map k7_sockets of k7.bpf.c: needs CAP_NET_ADMIN'),
    (['sys_admin'], 'loaded 256'),
    (['sys_admin', 'perfmon', 'sys_ptrace', 'sys_resource'], 'loaded 256'),
])
def test_without_a_capability(program_file, run_python, without, expected):
    result = run_python(LOAD, without=without, arguments=[str(program_file())])
    assert result.stdout.startswith(expected), result.stdout + result.stderr


def test_a_helper_that_takes_a_capability_names_it(program_file, run_python):
    source = program_file(('  if (!sk)\n', """
  __u64 word = 0;
  bpf_probe_read_kernel(&word, 8, (void *)8);
  if (!sk || word)
"""))
    result = run_python(LOAD, without=['perfmon', 'sys_admin'], arguments=[str(source)])
    assert result.stdout.startswith('VerifierError'), result.stdout + result.stderr
    assert 'CAP_PERFMON' in result.stdout


def test_without_headers(program_file, run_python, tmp_path):
    (tmp_path / 'empty').mkdir()
    result = run_python(LOAD, arguments=[str(program_file())],
                        BCC_KERNEL_SOURCE=str(tmp_path / 'empty'))
    assert result.stdout.startswith('HeadersError use the kernel headers in '), result.stderr


def test_a_tree_that_lost_its_headers(program_file, tmp_path):
    """Without our look, BCC 0.26 would crash."""
    for path in (tmp_path, tmp_path / 'gone'):
        with pytest.raises(HeadersError, match='apt-get install linux-headers'):
            load(program_file(), headers=HeaderTree(path, 'build', 'none'))


def test_headers_come_before_the_child(program_file, monkeypatch, tmp_path):
    monkeypatch.setenv('BCC_KERNEL_SOURCE', str(tmp_path))
    with pytest.raises(HeadersError):
        load(program_file())


def test_without_bcc(program_file, monkeypatch, tmp_path):
    """An interpreter that cannot import BCC, as one without the package."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nexec /usr/bin/env python3 -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(loader_child, 'find_worker_python', lambda: str(python))
    with pytest.raises(UnsupportedError, match='apt-get install python3-bpfcc'):
        load(program_file())


def test_a_child_that_hangs_is_given_up(program_file):
    started = time.monotonic()
    with pytest.raises(LoaderError, match='no answer in 0.05 s') as caught:
        load(program_file(), timeout=0.05)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - started < 10
    assert not children()


def children():
    """Return the ids of the loader processes that this process started."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat') as stat, open(f'/proc/{name}/cmdline') as command:
                parent = int(stat.read().rpartition(')')[2].split()[1])
                if parent == os.getpid() and 'loader_worker' in command.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


def test_a_child_that_is_killed_is_told(program_file):
    failures = []

    def work():
        try:
            load(program_file()).close()
        except BypassError as error:
            failures.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not children():
        time.sleep(0.001)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert [type(error) for error in failures] == [LoaderError]
    assert 'killed by SIGKILL' in str(failures[0])


def test_modules_in_the_working_folder_are_not_run(program_file, monkeypatch, tmp_path):
    for name in ('bcc', 'json', 'ctypes', 'ipc_bypass'):
        (tmp_path / f'{name}.py').write_text(f'open("{tmp_path}/ran", "w")')
    monkeypatch.chdir(tmp_path)
    load(program_file()).close()
    assert not (tmp_path / 'ran').exists()


def test_several_threads_may_load_at_once(program_file):
    source, sizes = program_file(), []

    def work():
        with load(source, ALL, MAPS) as loaded:
            sizes.append(loaded.layouts['k7_flow'].size)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [256] * 3


def test_text_of_included_files(tmp_path):
    """Files with code are put in their places, those that they include as well."""
    (tmp_path / 'one.bpf.c').write_text('first\n#include "two.bpf.h"\nlast\n')
    (tmp_path / 'two.bpf.h').write_text('#include "three.bpf.h"\nsecond\n')
    (tmp_path / 'three.bpf.h').write_text('third\n')

    lines = read_source(tmp_path / 'one.bpf.c').split('\n')

    assert [line for line in lines if line and line[0] != '#'] == [
        'first', 'third', 'second', 'last']


def test_file_that_includes_itself(tmp_path):
    """It is refused in one line."""
    (tmp_path / 'one.bpf.c').write_text('#include "two.bpf.h"\n')
    (tmp_path / 'two.bpf.h').write_text('#include "two.bpf.h"\n')

    with pytest.raises(CompileError, match='two.bpf.h includes itself'):
        read_source(tmp_path / 'one.bpf.c')
