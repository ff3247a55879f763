"""What the tests of a release share: the fixtures of the nodes, and compiled programs."""

import importlib.util
from pathlib import Path
import sys

import pytest

_NODES = Path(__file__).resolve().parents[1] / 'nodes'
sys.path.insert(0, str(_NODES))

_spec = importlib.util.spec_from_file_location('nodes_fixtures', _NODES / 'conftest.py')
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

client = _fixtures.client
cgroup = _fixtures.cgroup
pin_directory = _fixtures.pin_directory
ports = _fixtures.ports
privileged = _fixtures.privileged
ros_logs = _fixtures.ros_logs
start = _fixtures.start


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """Return a function that writes a program file; `body` is what its program does."""
    def write(body):
        path = tmp_path_factory.mktemp('r7') / 'r7.bpf.c'
        path.write_text(_SOURCE.replace('BODY', body))
        return path
    return write


_SOURCE = """
#include <uapi/linux/bpf.h>
#include "read_kernel.bpf.h"

struct r7_seen {
  __u64 bytes;
  __u32 first, second;
};
BPF_SK_STORAGE(r7_storage, struct r7_seen);
BPF_TABLE("hash", __u64, struct r7_seen, r7_hash, MAX_SEEN);
BPF_RINGBUF_OUTPUT(r7_template, 2);
BPF_ARRAY_OF_MAPS(r7_rings, "r7_template", 4);
BPF_PERF_OUTPUT(r7_records);

int r7_send(struct sk_msg_md *msg)
{
  struct bpf_sock *sk = msg->sk;
  struct r7_seen *seen;
  __u64 address = 0, key = 1;
  __u8 flags = 0;

  if (!sk || bpf_probe_read_kernel(&address, sizeof(address), &sk))
    return SK_PASS;
  seen = r7_storage.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!seen)
    return SK_PASS;
  BODY
  r7_hash.update(&key, seen);
  return SK_PASS;
}
"""
