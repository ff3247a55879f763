"""Offsets from the kernel's BTF, held against what the kernel itself puts there."""

import os
import socket
import struct
import sys

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.kernel.loader import load_object, ProgramSpec
import pytest

READ = """
#include <uapi/linux/bpf.h>
BPF_ARRAY(k7_seen, __u32, 8);

static __always_inline void put(__u32 index, __u32 value)
{
  k7_seen.update(&index, &value);
}

int k7_read(struct bpf_sock_ops *ops)
{
  if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || ops->remote_port != bpf_htonl(PORT))
    return 1;
  struct bpf_sock *sk = ops->sk;
  if (!sk)
    return 1;
  struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
  if (!tcp)
    return 1;
  put(0, ops->snd_nxt);
  put(1, *(volatile __u32 *)((void *)tcp + SND_NXT));
  put(2, ops->rcv_nxt);
  put(3, *(volatile __u32 *)((void *)tcp + RCV_NXT));
  put(4, *(volatile __u32 *)((void *)tcp + COPIED_SEQ));
  put(5, *(volatile __u32 *)((void *)tcp + WRITE_SEQ));
  put(6, *(volatile __u32 *)((void *)tcp + SND_UNA));
  put(7, *(volatile __u16 *)((void *)tcp + PROTOCOL));
  return 1;
}
"""


@pytest.fixture(scope='module')
def kernel():
    """Return the running kernel's type information."""
    return Btf.from_kernel()


def test_offsets_are_where_the_kernel_has_its_sequence_numbers(
        kernel, tmp_path, private_cgroup, cgroup_fd, run_python):
    """A real connection: the fields at our offsets against those of the program's context."""
    source = tmp_path / 'k7_read.bpf.c'
    source.write_text(READ)
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        definitions = {name.upper(): kernel.offset('tcp_sock', name)
                       for name in ('snd_nxt', 'rcv_nxt', 'copied_seq', 'write_seq', 'snd_una')}
        definitions['PORT'] = port
        definitions['PROTOCOL'] = kernel.offset('tcp_sock', 'sk_protocol')
        programs = [ProgramSpec('k7_read', syscall.ProgType.SOCK_OPS)]
        with load_object(source, definitions, programs, ['k7_seen']) as loaded:
            link = syscall.link_create(loaded.programs['k7_read'], cgroup_fd,
                                       syscall.AttachType.CGROUP_SOCK_OPS)
            connected = run_python(
                f'open("{private_cgroup}/cgroup.procs", "w").write("0")\n'
                f'import socket; socket.create_connection(("127.0.0.1", {port})).close()')
            assert connected.returncode == 0, connected.stderr
            os.close(link)
            seen = [struct.unpack('=I', value)[0] for _, value in
                    syscall.map_items(loaded.maps['k7_seen'].fd, 4, 4)]
    snd_nxt, snd_nxt_read, rcv_nxt, rcv_nxt_read, copied, written, acknowledged, protocol = seen
    assert snd_nxt == snd_nxt_read != 0
    assert rcv_nxt == rcv_nxt_read != 0
    assert copied == rcv_nxt  # nothing has come that was not read
    assert written == acknowledged == snd_nxt  # nothing was sent that was not acknowledged
    assert protocol == socket.IPPROTO_TCP


def test_first_members_dots_and_anonymous_members(kernel):
    cookie = kernel.offset('sock', '__sk_common.skc_cookie')
    assert kernel.offset('tcp_sock', '__sk_common.skc_cookie') == cookie
    assert kernel.offset('tcp_sock', 'inet_conn.icsk_inet.sk.__sk_common.skc_cookie') == cookie
    # skc_daddr stands in an anonymous struct in an anonymous union.
    assert kernel.offset('sock_common', 'skc_daddr') == kernel.offset('sock', 'skc_daddr') == 0
    assert kernel.offset('sock_common', 'skc_rcv_saddr') == 4


def test_sizes_of_types_that_never_change(kernel):
    assert kernel.size('list_head') == 2 * struct.calcsize('P')
    assert kernel.size('in6_addr') == 16
    assert kernel.size('tcp_sock') > kernel.size('sock') > kernel.size('sock_common')


@pytest.mark.parametrize('name, path', [('tcp_sock', 'no_such'), ('no_such', 'x'),
                                        ('tcp_sock', 'copied_seq.more')])
def test_what_is_not_there_is_named(kernel, name, path):
    with pytest.raises(UnsupportedError, match=f'{name}.{path}') as caught:
        kernel.offset(name, path)
    assert caught.value.next_step


def test_a_bit_field_has_no_offset(kernel):
    with pytest.raises(UnsupportedError):
        kernel.offset('tcp_sock', 'nonagle')


def type_information(types, strings):
    """Return a BTF object of these types; `strings` are its names, in the order of STRINGS."""
    block = b'\0' + b''.join(name.encode() + b'\0' for name in strings)
    return Btf(struct.pack('=HBBIIIII', 0xeb9f, 1, 0, 24, 0, len(types), len(types),
                           len(block)) + types + block)


def made_up():
    """Return a struct of bit-fields, as clang and pahole write it, and two enumerations."""
    strings = ['flags', 'low', 'middle', 'across', 'plain', 'first', 'second', 'wide']
    at = {name: 1 + sum(len(other) + 1 for other in strings[:place])
          for place, name in enumerate(strings)}
    integer = struct.pack('=IIII', 0, 1 << 24, 4, 32)
    members = [('low', 3, 1), ('middle', 28, 4), ('across', 38, 4), ('plain', 64, 0)]
    flags = struct.pack('=III', at['flags'], 1 << 31 | 4 << 24 | len(members), 12) + b''.join(
        struct.pack('=III', at[name], 1, bits << 24 | start) for name, start, bits in members)
    signed = struct.pack('=IIIIiIi', 0, 1 << 31 | 6 << 24 | 2, 4, at['first'], -3,
                         at['second'], 7)
    wide = struct.pack('=IIIIQ', 0, 19 << 24 | 1, 8, at['wide'], 1 << 40)
    return type_information(integer + flags + signed + wide, strings)


def test_bit_fields():
    made = made_up()
    little = sys.byteorder == 'little'
    assert made.bit_field('flags', 'low') == (0, 1 << 3 if little else 1 << 4)
    assert made.bit_field('flags', 'middle') == (3, 0xf0 if little else 0x0f)
    assert made.offset('flags', 'plain') == 8
    for name in ('across', 'plain', 'no_such'):  # in two bytes, no bit-field, not there
        with pytest.raises(UnsupportedError, match=f'flags.{name}'):
            made.bit_field('flags', name)


def test_bit_fields_of_the_kernel(kernel):
    """They share a byte; test/udp holds them against real sockets."""
    reuse, reuse_mask = kernel.bit_field('sock_common', 'skc_reuse')
    port, port_mask = kernel.bit_field('sock_common', 'skc_reuseport')
    assert reuse == port == kernel.bit_field('udp_sock', '__sk_common.skc_reuse')[0]
    assert (bin(reuse_mask).count('1'), bin(port_mask).count('1')) == (4, 1)
    assert not reuse_mask & port_mask


def test_enumerators(kernel):
    made = made_up()
    assert [made.enumerator(name) for name in ('first', 'second', 'wide')] == [-3, 7, 1 << 40]
    assert kernel.enumerator('BPF_MAP_TYPE_SOCKHASH') == syscall.MapType.SOCKHASH
    assert kernel.enumerator('TCP_ESTABLISHED') == 1
    for name in ('flags', 'low', 'eco'):
        with pytest.raises(UnsupportedError, match=f'find {name} '):
            made.enumerator(name)


def test_a_kernel_without_it(tmp_path):
    with pytest.raises(UnsupportedError, match='CONFIG_DEBUG_INFO_BTF'):
        Btf.from_kernel(tmp_path / 'vmlinux')
    (tmp_path / 'vmlinux').write_bytes(b'nonsense that is longer than a header')
    with pytest.raises(UnsupportedError, match='not BTF'):
        Btf.from_kernel(tmp_path / 'vmlinux')
