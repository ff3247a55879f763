"""Where IP_RECVERR is, held against real sockets: a program reads the flags of each sender."""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.udp import error_queue
import pytest
from support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures('privileged')

# The first byte of the payload says which entry a datagram's socket is written to.
READ = """
#include <uapi/linux/bpf.h>
struct seen {
  __u8 flags4, flags6, reuse, reuseport;
};
BPF_ARRAY(ipcb_seen, struct seen, 16);

int ipcb_read(struct __sk_buff *skb)
{
  struct bpf_sock *pointer = skb->sk;
  struct seen seen = {};
  __u64 address = 0, place = 0;
  __u32 index = 0;
  __u8 number = 0;
  if (!pointer || bpf_skb_load_bytes(skb, pointer->family == 2 ? 28 : 48, &number, 1))
    return 1;
  bpf_probe_read_kernel(&address, sizeof(address), &pointer);
  bpf_probe_read_kernel(&seen.flags4, 1, (const void *)(address + OFFSET_RECVERR4));
  bpf_probe_read_kernel(&seen.reuse, 1, (const void *)(address + OFFSET_REUSE));
  bpf_probe_read_kernel(&seen.reuseport, 1, (const void *)(address + OFFSET_REUSEPORT));
  seen.flags4 &= MASK_RECVERR4;
  seen.reuse &= MASK_REUSE;
  seen.reuseport &= MASK_REUSEPORT;
  place = address;
  if (OFFSET_PINET6 != 0xffffffff)
    bpf_probe_read_kernel(&place, sizeof(place), (const void *)(address + OFFSET_PINET6));
  if (pointer->family == 10)
    bpf_probe_read_kernel(&seen.flags6, 1, (const void *)(place + OFFSET_RECVERR6));
  seen.flags6 &= MASK_RECVERR6;
  index = number;
  ipcb_seen.update(&index, &seen);
  return 1;
}
"""
SEND = """
import json, socket, sys
folder, cases = sys.argv[1], json.loads(sys.argv[2])
with open(folder + '/cgroup.procs', 'w') as stream:
    stream.write('0')
for number, (family, options) in enumerate(cases):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for option in options:
            sock.setsockopt(*option)
        sock.sendto(bytes([number]), ('127.0.0.1' if family == socket.AF_INET else '::1', 9))
"""
V4, V6 = 2, 10
IP_RECVERR, IPV6_RECVERR = (0, 11, 1), (41, 25, 1)  # uapi/linux/in.h, in6.h
SO_REUSEADDR, SO_REUSEPORT = (1, 2, 1), (1, 15, 1)
# (family, options): which of flags4, flags6, skc_reuse and skc_reuseport are set.
CASES = [
    ((V4, []), ''),
    ((V4, [IP_RECVERR]), '4'),
    ((V6, []), ''),
    ((V6, [IPV6_RECVERR]), '6'),
    ((V6, [IP_RECVERR]), '4'),
    ((V6, [IP_RECVERR, IPV6_RECVERR]), '46'),
    # Bit-fields on every kernel, as the flags were before 6.6.
    ((V4, [SO_REUSEADDR]), 'a'),
    ((V4, [SO_REUSEPORT]), 'p'),
    ((V6, [SO_REUSEADDR, SO_REUSEPORT, IPV6_RECVERR]), '6ap'),
]


@pytest.fixture
def cgroup():
    """Yield the path of a cgroup of our own."""
    path = tempfile.mkdtemp(prefix='ipcb_test_', dir=find_cgroup2())
    yield path
    os.rmdir(path)


def test_the_flags_of_real_sockets(cgroup, tmp_path):
    (tmp_path / 'read.bpf.c').write_text(READ)
    definitions = error_queue.error_queue_definitions()
    kernel = Btf.from_kernel()
    for name in ('REUSE', 'REUSEPORT'):
        definitions[f'OFFSET_{name}'], definitions[f'MASK_{name}'] = \
            kernel.bit_field('sock', f'__sk_common.skc_{name.lower()}')
    program = ProgramSpec('ipcb_read', syscall.ProgType.CGROUP_SKB,
                          syscall.AttachType.CGROUP_INET_EGRESS)
    with load_object(tmp_path / 'read.bpf.c', definitions, [program], ['ipcb_seen']) as loaded:
        place = open_cgroup(cgroup)
        link = syscall.link_create(loaded.programs['ipcb_read'], place,
                                   syscall.AttachType.CGROUP_INET_EGRESS)
        try:
            subprocess.run([sys.executable, '-c', SEND, cgroup,
                            json.dumps([case for case, _ in CASES])],
                           check=True, timeout=PATIENCE)
            seen = [value for _, value in syscall.map_items(loaded.maps['ipcb_seen'].fd, 4, 4)]
        finally:
            os.close(link)
            os.close(place)
    for (case, expected), flags in zip(CASES, seen, strict=False):
        found = [name for name, flag in zip('46ap', flags, strict=True) if flag]
        assert ''.join(found) == expected, case


class Kernel(Btf):
    """A kernel's type information with some enumerators taken away."""

    def __init__(self, *without):
        """Read the running kernel's."""
        super().__init__(Path('/sys/kernel/btf/vmlinux').read_bytes())
        self._without = without

    def enumerator(self, name):
        """Return the number of an entry that was not taken away."""
        if name in self._without:
            raise UnsupportedError(f'find {name}')
        return super().enumerator(name)


def test_without_the_numbered_bits_there_have_to_be_bit_fields():
    """As before 6.6; a kernel that has neither is refused by the name of what it lacks."""
    kernel = Kernel('INET_FLAGS_RECVERR', 'INET_FLAGS_RECVERR6')
    try:
        kernel.bit_field('inet_sock', 'recverr')
    except UnsupportedError:
        with pytest.raises(UnsupportedError, match='find inet_sock.recverr in'):
            error_queue.find(kernel)
    else:
        found = error_queue.find(kernel)
        assert found['OFFSET_PINET6'] == kernel.offset('inet_sock', 'pinet6')
        assert found == error_queue.error_queue_definitions()


def test_the_answer_of_the_child():
    definitions = error_queue.error_queue_definitions()
    assert definitions == error_queue.find(Btf.from_kernel())
    assert set(definitions) == {'OFFSET_RECVERR4', 'MASK_RECVERR4', 'OFFSET_PINET6',
                                'OFFSET_RECVERR6', 'MASK_RECVERR6'}
