"""The probe, on this kernel and with things taken away."""

import json
import os
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.kernel.probe import path_available, probe_all, ProbeResult
import pytest

PROBE = """
import dataclasses, json
from ipc_bypass.kernel.probe import path_available, probe_all
results = probe_all()
print(json.dumps([[dataclasses.asdict(result) for result in results], path_available(results)]))
"""


@pytest.fixture(scope='module')
def results(privileged):
    """Return the results on this machine."""
    return {result.name: result for result in probe_all()}


@pytest.fixture
def probe_without(run_python, privileged):
    """Return a function that probes without capabilities or with variables set."""
    def probe(*without, **environment):
        run = run_python(PROBE, without=without, **environment)
        assert run.returncode == 0, run.stderr
        rows, paths = json.loads(run.stdout)
        return {row['name']: row for row in rows}, paths
    return probe


def test_what_the_tcp_path_needs_works_here(results):
    needed = [result for result in results.values() if 'tcp/sk_msg' in result.required_by]
    assert len(needed) > 10
    assert [result for result in needed if not result.works] == []
    assert path_available(results.values())['tcp'] == {
        'sk_msg': {'available': True, 'reason': ''}, 'loopback': {'available': True, 'reason': ''}}


def test_everything_that_can_be_tried_is_tried(results):
    not_tried = [result.name for result in results.values() if result.works is None
                 and result.name.startswith(('map', 'program', 'helper', 'attach', 'compile'))]
    assert not_tried == []


def test_a_failed_row_names_the_next_step(results):
    for result in results.values():
        assert result.works or result.next_step, result.name
        assert result.needed_for


def test_every_thing_of_the_list_is_there(results):
    for part in ('bpf(2)', 'map array, mmapable', 'map sockhash', 'map ringbuf', 'map sk_storage',
                 'program sock_ops', 'program sk_msg', 'program sk_skb', 'program xdp',
                 'helper sock_hash_update in sock_ops', 'attach cgroup link', 'CAP_BPF',
                 'CAP_NET_ADMIN', 'CAP_PERFMON', 'kernel lockdown', 'cgroup v2', 'bpffs',
                 'kernel headers', 'bcc'):
        assert part in results


def program_names():
    """Return the names of all loaded programs."""
    names = []
    for identifier in syscall.prog_ids():
        try:
            fd = syscall.prog_get_fd_by_id(identifier)
        except FileNotFoundError:  # it ended since it was listed
            continue
        names.append(syscall.prog_info(fd).name)
        os.close(fd)
    return names


def test_nothing_is_left_behind(results):
    deadline = time.monotonic() + 20  # another process may be probing, too
    while {'probe_program', 'ipcb_probe'} & set(program_names()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert f'ipc_bypass_probe_{os.getpid()}' not in os.listdir(find_cgroup2())


def test_without_bpf(probe_without):
    rows, paths = probe_without('bpf', 'sys_admin')
    assert rows['bpf(2)']['works'] is False
    assert 'needs CAP_BPF' in rows['bpf(2)']['reason']
    assert 'CAP_BPF' in rows['CAP_BPF']['next_step']
    # A refusal of all of bpf(2) says nothing about the kernel's maps.
    assert rows['map hash']['works'] is None
    assert paths['tcp']['sk_msg']['available'] is False
    assert 'CAP_BPF' in paths['tcp']['sk_msg']['reason']
    assert paths['tcp']['loopback']['available'] is True


def test_without_net_admin(probe_without):
    rows, paths = probe_without('net_admin', 'sys_admin')
    assert rows['map hash']['works'] is True
    assert rows['program sk_msg']['works'] is False
    assert 'CAP_NET_ADMIN' in rows['program sk_msg']['next_step']
    assert paths['tcp']['sk_msg']['available'] is False
    assert 'CAP_NET_ADMIN' in paths['tcp']['sk_msg']['reason']


def test_without_perfmon(probe_without):
    """The verifier refuses our programs then: they compute with pointers."""
    rows, paths = probe_without('perfmon', 'sys_admin')
    for path in (paths['tcp']['sk_msg'], paths['udp']['cgroup_skb']):
        assert path['available'] is False
        assert 'CAP_PERFMON' in path['reason']
    for name in ('helper skc_to_tcp_sock in sk_msg', 'helper probe_read_kernel in sk_msg'):
        assert rows[name]['works'] is False
        assert 'CAP_PERFMON' in rows[name]['next_step']
    assert rows['attach tcx link']['works'] is None  # no private network namespace to try it in


def test_without_headers(probe_without, tmp_path):
    rows, paths = probe_without(BCC_KERNEL_SOURCE=str(tmp_path))
    assert rows['kernel headers']['works'] is False
    assert rows['compile and load with bcc']['works'] is None
    assert paths['tcp']['sk_msg']['available'] is False
    assert 'kernel headers' in paths['tcp']['sk_msg']['reason']


def test_headers_of_an_empty_root(privileged, tmp_path, monkeypatch):
    monkeypatch.delenv('BCC_KERNEL_SOURCE', raising=False)
    rows = {result.name: result for result in probe_all(root=tmp_path)}
    assert rows['kernel headers'].works is False
    assert 'apt-get install' in rows['kernel headers'].next_step


def result_of(name, works, **details):
    values = {'errno': 0, 'reason': 'why', 'minimum_kernel': '', 'next_step': 'do this',
              'needed_for': 'x', 'required_by': ('tcp/sk_msg',), **details}
    return ProbeResult(name, works, **values)


@pytest.mark.parametrize('rows, reason', [
    ([], ''),
    ([('a', True)], ''),
    ([('a', None)], ''),  # what could not be tried forbids nothing
    ([('a', False)], 'a: why; do this'),
    ([('a', True), ('b', False), ('c', False)], 'b: why (and 1 more); do this'),
])
def test_reasons_of_a_path(rows, reason):
    answer = path_available([result_of(*row) for row in rows])['tcp']['sk_msg']
    assert answer == {'available': not reason, 'reason': reason}


def test_what_a_path_does_not_need_does_not_forbid_it():
    rows = [result_of('a', False, required_by=('udp/cgroup_skb',))]
    assert path_available(rows)['tcp']['sk_msg']['available'] is True
    assert path_available(rows)['udp']['cgroup_skb']['available'] is False
