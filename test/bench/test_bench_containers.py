"""Namespaces: apart from each other and from the host, and gone however a run ends."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

from ipc_bypass.bench import containers
from ipc_bypass.bench.containers import Containers, Namespace, NamespaceError
from ipc_bypass.bench.signals import unwinding
import pytest

HOLD = """
import sys, time
from ipc_bypass.bench.containers import Containers
from ipc_bypass.bench.signals import unwinding
with unwinding(), Containers() as (first, second):
    import subprocess
    child = subprocess.Popen(first.command('sleep', '60'))
    print(child.pid, flush=True)
    time.sleep(60)
"""


def in_place(place, *argv):
    return subprocess.run(place.command(*argv), capture_output=True, text=True, check=True).stdout


def test_containers_reach_each_other_and_share_nothing(privileged):
    interfaces = socket.if_nameindex()
    with Containers() as (first, second):
        assert socket.if_nameindex() == interfaces
        in_place(first, 'sh', '-c', 'echo secret > /dev/shm/ipc_bypass_test')
        assert in_place(first, 'cat', '/dev/shm/ipc_bypass_test') == 'secret\n'
        assert in_place(second, 'ls', '/dev/shm') == ''
        assert not Path('/dev/shm/ipc_bypass_test').exists()
        reader = subprocess.Popen(
            second.command(sys.executable, '-c', (
                'import socket; s = socket.create_server(("198.18.0.2", 5000)); print(flush=True);'
                'print(s.accept()[1][0])')), stdout=subprocess.PIPE, text=True)
        reader.stdout.readline()
        in_place(first, sys.executable, '-c',
                 'import socket; socket.create_connection(("198.18.0.2", 5000), 5)')
        assert reader.communicate(timeout=5)[0] == '198.18.0.1\n'
        assert in_place(first, 'cat', '/proc/self/cgroup') == Path('/proc/self/cgroup').read_text()


def test_ends_reach_each_other_by_way_of_the_router(privileged, ours):
    with containers.Routed() as (first, router, second):
        assert len(ours(os.getpid())) == 3
        assert (first.address, router.address, second.address) == (
            '198.18.0.1', '198.18.0.2', '198.18.1.1')
        assert in_place(router, 'cat', '/proc/sys/net/ipv4/ip_forward') == '1\n'
        server = subprocess.Popen(
            second.outside_command(sys.executable, '-c', (
                'import socket; s = socket.create_server(("198.18.1.1", 5000)); print(flush=True);'
                'print(s.accept()[1][0])')), stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        in_place(first, sys.executable, '-c',
                 'import socket; socket.create_connection(("198.18.1.1", 5000), 5)')
        assert server.communicate(timeout=5)[0] == '198.18.0.1\n'
        with pytest.raises(NamespaceError, match='set ipv4/nothing'):
            router.set_network('ipv4/nothing', '1')
    assert ours(os.getpid()) == []


def test_nothing_is_left_after_an_exception(privileged, ours):
    mounts = Path('/proc/self/mountinfo').read_text()
    with pytest.raises(ValueError, match='mine'):
        with Containers():
            assert len(ours(os.getpid())) == 3
            raise ValueError('mine')
    assert ours(os.getpid()) == []
    after = Path('/proc/self/mountinfo').read_text()
    # Other processes of this host may mount in the meantime.
    assert f'ipcb-{os.getpid()}-' not in after
    assert after.count('/dev/shm') == mounts.count('/dev/shm')


def test_a_step_that_fails_names_itself_and_leaves_nothing(privileged, ours):
    with Namespace('twice'):
        with pytest.raises(NamespaceError, match=r'ip netns add ipcb-.*exists'):
            with Namespace('twice'):
                pass
    assert ours(os.getpid()) == []


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_removes_everything(privileged, ours, gone, number):
    process, child = start_holder()
    assert len(ours(process.pid)) == 3
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert ours(process.pid) == []
    assert gone(child)


def test_what_a_killed_run_left_is_removed_by_the_next(privileged, ours, gone):
    process, child = start_holder()
    try:
        assert not set(containers.remove_leftovers()) & set(ours(process.pid))
        assert len(ours(process.pid)) == 3
    finally:
        process.kill()
        process.wait()
    assert gone(child)
    left = ours(process.pid)
    assert len(left) == 3
    assert set(left) <= set(containers.remove_leftovers())
    assert ours(process.pid) == []


def test_a_name_of_an_earlier_process_of_the_same_id_is_a_leftover(privileged):
    name = f'{containers.PREFIX}{os.getpid()}-1-a'
    subprocess.run(['ip', 'netns', 'add', name], check=True)
    assert name in containers.remove_leftovers()
    assert not (Path('/run/netns') / name).exists()


def test_the_first_signal_unwinds_and_the_next_do_nothing():
    before = signal.getsignal(signal.SIGTERM)
    ended = False
    with pytest.raises(SystemExit) as stopped, unwinding():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            ended = True
    assert ended
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def start_holder():
    """Return a process with containers, and the id of its child inside."""
    process = subprocess.Popen([sys.executable, '-c', HOLD], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())
