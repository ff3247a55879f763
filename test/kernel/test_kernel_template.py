"""Compile once and load often: maps of each, maps that are shared, and each way to fail."""

import os
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import (
    BypassError,
    CompileError,
    LoaderError,
    PrivilegeError,
    VerifierError,
)
from ipc_bypass.kernel.loader import ProgramSpec
from ipc_bypass.kernel.syscall import MapType, ProgType
from ipc_bypass.kernel.template import compile_template
import pytest
from support.descriptors import no_descriptor_left

pytestmark = pytest.mark.usefixtures('privileged')

SOURCE = """
#include <uapi/linux/bpf.h>
#include "k7_common.h"

BPF_HASH(k7_hash, struct k7_key, struct k7_flow, 64);
BPF_ARRAY(k7_sums, u64, 2);
BPF_PROG_ARRAY(k7_next_programs, 4);

int k7_count(struct xdp_md *ctx)
{
  u32 first = 0;
  u64 *sum = k7_sums.lookup(&first);
  if (sum)
    *sum += K7_STEP;
  k7_next_programs.call(ctx, 1);
  return XDP_PASS;
}

int k7_look(struct xdp_md *ctx)
{
  struct k7_key key = {};
  return k7_hash.lookup(&key) ? XDP_DROP : XDP_TX;
}
"""
PROGRAMS = [ProgramSpec(name, ProgType.XDP) for name in ('k7_count', 'k7_look')]
MAPS = {'k7_hash': MapType.HASH, 'k7_sums': MapType.ARRAY,
        'k7_next_programs': MapType.PROG_ARRAY}
PASS, TX = 2, 3
FRAME = bytes(64)

PLAIN = """
import os, sys
from pathlib import Path
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import ProgramSpec
from ipc_bypass.kernel.template import compile_template
template = compile_template(Path(sys.argv[1]), {'K7_STEP': 5}, [ProgramSpec('k7_look', 6)])
print([name for name in ('bcc', 'numpy') if name in sys.modules])
os.setgid(65534)
os.setuid(65534)
try:
    template.instantiate()
except BypassError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def file(program_file):
    """Return a function that writes the program file."""
    return lambda *changes: program_file(*changes, source=SOURCE)


@pytest.fixture
def template(file):
    """Return the compiled file."""
    return compile_template(file(), {'K7_STEP': 5}, PROGRAMS)


@pytest.fixture(autouse=True)
def no_leak():
    """Hold every test to leaving no descriptor behind."""
    with no_descriptor_left():
        yield


def sum_of(loaded):
    return struct.unpack('=Q', syscall.map_lookup(loaded.maps['k7_sums'].fd, bytes(4), 8))[0]


def test_each_has_its_own(template):
    assert {name: shape.type for name, shape in template.maps.items()} == MAPS
    with template.instantiate() as one, template.instantiate() as other:
        for loaded in (one, other):
            assert set(loaded.maps) == set(MAPS)
            for name in ('k7_count', 'k7_look'):
                info = syscall.prog_info(loaded.programs[name])
                assert (info.name, info.type) == (name, ProgType.XDP)
                assert info.load_time_ns / 1e9 <= time.clock_gettime(time.CLOCK_BOOTTIME)
            for name, entry in loaded.maps.items():
                info = syscall.map_info(entry.fd)
                assert (info.name, info.type, info.max_entries) == (
                    name[:15], entry.type, entry.max_entries)
            entry = loaded.maps['k7_hash']
            assert (entry.key_size, entry.value_size) == (entry.key.size, entry.value.size)
        assert syscall.prog_test_run(one.programs['k7_count'], FRAME)[0] == PASS
        assert (sum_of(one), sum_of(other)) == (5, 0)
        assert syscall.prog_test_run(one.programs['k7_look'], FRAME)[0] == TX


def test_shared_maps_and_sizes(template):
    with template.instantiate() as one:
        shared = {name: one.maps[name].fd for name in ('k7_sums', 'k7_next_programs')}
        with template.instantiate(reuse=shared, sizes={'k7_hash': 1000, 'k7_sums': 9}) as other:
            assert other.maps['k7_hash'].max_entries == 1000
            # A map that is shared is as large as it is.
            assert other.maps['k7_sums'].max_entries == 2
            assert other.maps['k7_sums'].fd != one.maps['k7_sums'].fd
            for loaded in (one, other, other):
                syscall.prog_test_run(loaded.programs['k7_count'], FRAME)
            assert sum_of(one) == sum_of(other) == 15
            # One calls the other by the array that they share.
            syscall.map_update(one.maps['k7_next_programs'].fd, struct.pack('=I', 1),
                               struct.pack('=I', other.programs['k7_look']))
            assert syscall.prog_test_run(one.programs['k7_count'], FRAME)[0] == TX
        # Its maps live on in what holds them.
        assert sum_of(one) == 20


def test_frags(template):
    large = bytes(9000)
    with template.instantiate(frags=True) as loaded:
        assert syscall.prog_test_run(loaded.programs['k7_count'], large)[0] == PASS
        # The kernel lets no program that knows of several buffers call one that does not.
        with template.instantiate() as plain, pytest.raises(OSError):
            syscall.map_update(loaded.maps['k7_next_programs'].fd, bytes(4),
                               struct.pack('=I', plain.programs['k7_look']))


def test_map_of_another_shape(template):
    with template.instantiate() as one, pytest.raises(LoaderError) as error:
        template.instantiate(reuse={'k7_sums': one.maps['k7_hash'].fd})
    assert str(error.value) == ('load k7.bpf.c: the map k7_sums has another shape; do not keep '
                                'the maps of the earlier program')


def test_map_that_cannot_be_made(template):
    with pytest.raises(BypassError, match='create map k7_sums of k7.bpf.c: ') as error:
        template.instantiate(sizes={'k7_sums': 0xffffffff})
    assert error.value.errno
    assert '\n' not in str(error.value)


def test_refused_by_the_compiler(file):
    with pytest.raises(CompileError, match=r'k7\.bpf\.c:14: error: ') as error:
        compile_template(file(('*sum += K7_STEP', '*sum += no_such')), {'K7_STEP': 1}, PROGRAMS)
    assert '\n' not in str(error.value)
    with pytest.raises(BypassError, match='no_such_program'):
        compile_template(file(), {'K7_STEP': 1}, [ProgramSpec('no_such_program', ProgType.XDP)])


def test_refused_by_the_verifier(file):
    template = compile_template(file(('XDP_DROP : XDP_TX', 'XDP_DROP : *(char *)(long)ctx->data')),
                                {'K7_STEP': 5}, PROGRAMS)
    with pytest.raises(VerifierError, match='load program k7_look of k7.bpf.c: ') as error:
        template.instantiate()
    assert 'invalid access to packet' in error.value.log
    assert '\n' not in str(error.value)


def test_without_privilege(file, run_python):
    path = file()
    for place in (path, *path.parents):
        if place.stat().st_uid == os.getuid() and str(place).startswith('/tmp/'):
            place.chmod(place.stat().st_mode | 0o055)
    done = run_python(PLAIN, arguments=[str(path)])
    assert done.stdout.splitlines()[0] == '[]', done.stderr
    assert done.stdout.splitlines()[1].startswith(PrivilegeError.__name__), done.stdout


def test_takes_no_compiler_the_second_time(template, monkeypatch):
    monkeypatch.setattr('ipc_bypass.kernel.loader.run_worker', None)
    for _ in range(3):
        template.instantiate().close()
