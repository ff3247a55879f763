"""What the tests of kernel/ share: real cgroups, mounts and processes, cleaned up at the end."""

import os
from pathlib import Path
import subprocess
import sys
import tempfile

import ipc_bypass
from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
import pytest
from support.capability import need_capabilities

ROOT = Path(ipc_bypass.__file__).resolve().parents[1]

SOURCE = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include "k7_common.h"

BPF_SOCKHASH(k7_sockets, struct k7_key, 128);
BPF_SK_STORAGE(k7_storage, struct k7_flow);
BPF_QUEUE(k7_queue, __u64, 16);
BPF_F_TABLE("array", __u32, struct k7_flow, k7_flows, 8, BPF_F_MMAPABLE);
BPF_HASH(k7_hash, struct k7_key, struct k7_flow, 64);

int k7_ops(struct bpf_sock_ops *ops)
{
  if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
    struct k7_key key = {};
    key.sequence = k7_next(ops->snd_nxt);
    k7_sockets.sock_hash_update(ops, &key, BPF_NOEXIST);
  }
  return 1;
}

int k7_msg(struct sk_msg_md *msg)
{
  struct bpf_sock *sk = msg->sk;
  if (!sk)
    return SK_PASS;
  struct k7_flow *flow = k7_storage.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!flow)
    return SK_PASS;
  flow->bytes += msg->size;
  k7_sockets.msg_redirect_hash(msg, &flow->key, BPF_F_INGRESS);
  return SK_PASS;
}

int k7_skb(struct __sk_buff *skb)
{
  return SK_PASS;
}

/* Writes every field, so that a test can see where Python finds it. */
int k7_fill(struct __sk_buff *skb)
{
  __u32 zero = 0;
  struct k7_flow *flow = k7_flows.lookup(&zero);
  if (!flow)
    return TC_ACT_SHOT;
  flow->key.address[3] = 0x01020304;
  flow->key.port = 7;
  flow->key.remote_port = 8;
  flow->key.sequence = 9;
  flow->bytes = 0x1122334455667788ULL;
  flow->state = 200;
  flow->difference = -3;
  __builtin_memcpy(flow->comm, "talker", 7);
  flow->reasons[0] = 10;
  flow->reasons[3] = 13;
  flow->halves[0] = 1;
  flow->halves[1] = 2;
  flow->why = K7_SECOND;
  flow->inner.far = 77;
  flow->pairs[1].far = 78;
  return TC_ACT_OK;
}
"""

HEADER = """
#ifndef K7_COMMON_H
#define K7_COMMON_H
enum k7_reason { K7_NONE, K7_FIRST, K7_SECOND = 5 };
struct k7_key {
  __u32 address[4];
  __u32 remote[4];
  __u16 port, remote_port;
  __u32 sequence;
};
struct k7_pair {
  __u8 near;
  __u64 far;
};
struct k7_flow {
  struct k7_key key;
  __u64 bytes;
  __u8 state;
  __s32 difference;
  char comm[16];
  __u64 reasons[4] __attribute__((aligned(64)));
  union {
    __u32 whole;
    __u16 halves[2];
  };
  enum k7_reason why;
  __u32 low : 1, high : 7;
  struct k7_pair inner;
  struct k7_pair pairs[2];
};
static __always_inline __u32 k7_next(__u32 value) { return value + K7_STEP; }
#endif
"""


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture
def private_cgroup(privileged):
    """Yield the path of a cgroup of our own, with no process in it."""
    path = tempfile.mkdtemp(prefix='k7_', dir=find_cgroup2())
    yield path
    os.rmdir(path)


@pytest.fixture
def cgroup_fd(private_cgroup):
    """Yield a descriptor of a private cgroup."""
    fd = open_cgroup(private_cgroup)
    yield fd
    os.close(fd)


@pytest.fixture
def bpffs_folder(privileged, tmp_path):
    """Yield a folder that is a bpffs of our own."""
    folder = tmp_path / 'bpffs'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'bpf', 'bpf', folder], check=True)
    yield folder
    subprocess.run(['umount', folder], check=True)


@pytest.fixture
def program_file(tmp_path):
    """Return a function that writes a program file, changed by (old, new) pairs."""
    def write(*changes, source=SOURCE):
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        (tmp_path / 'k7_common.h').write_text(HEADER)
        path = tmp_path / 'k7.bpf.c'
        path.write_text(source)
        return path
    return write


def run_python(code, *, without=(), arguments=(), **environment):
    """
    Run Python code in a process of its own and return the completed process.

    :param without: capabilities that it shall not have, as 'bpf'
    :param environment: variables to set
    """
    command = [sys.executable, '-c', code, *arguments]
    if without:
        command = ['setpriv', '--bounding-set', ','.join(f'-{name}' for name in without), *command]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return subprocess.run(command, text=True, capture_output=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': paths, **environment})


@pytest.fixture(name='run_python')
def run_python_fixture():
    """Return `run_python`."""
    return run_python
