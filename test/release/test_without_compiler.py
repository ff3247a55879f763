"""The node on a machine that has neither the compiler nor kernel headers."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import ipc_bypass
from ipc_bypass.kernel.headers import find_headers
from ipc_bypass.kernel.loader import read_source
from ipc_bypass.kernel.prebuilt_files import (
    is_open,
    prebuilt_folder,
    prebuilt_name,
    UNKNOWN,
    write_prebuilt,
    write_stamp,
)
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.prebuilt.catalogue import entries
from ipc_bypass.prebuilt.compiling import compile_prebuilt
from ipc_bypass.tcp.offsets import kernel_offsets, WATCH
from ipc_bypass.udp.error_queue import error_queue_definitions
from node_tools import inside
import pytest

SIZE = 1 << 20
#: What a process of the node's cgroup does: a connection on one port, a datagram to the other.
TALK = """
import socket, sys
port, other = map(int, sys.argv[1:])
with socket.create_server(('127.0.0.1', port)) as listener:
    with socket.create_connection(('127.0.0.1', port)) as client, listener.accept()[0] as server:
        for _ in range(16):
            client.sendall(bytes(1 << 16))
            left = 1 << 16
            while left:
                left -= len(server.recv(left))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader:
    reader.bind(('127.0.0.1', other))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b'one', ('127.0.0.1', other))
    assert reader.recv(10) == b'one'
"""
#: What brings the compiler and the headers: a folder each that is empty in this test.
HIDDEN = ('/usr/lib/python3/dist-packages/bcc', '/usr/src')


def serves_here(entry, known):
    """Return whether an entry of the catalogue is what the node asks for on this kernel."""
    if entry.source == 'tcp_path.bpf.c':
        wanted = {'GATEWAY': 0, 'PROGRAM_RENEWAL': 1}
    elif entry.source == 'udp_path.bpf.c':
        wanted = {'ERROR_QUEUE': 1, 'CURRENT_PID': 1}
    else:
        return entry.source == 'tcp_watch.bpf.c'
    unknown = {name for name, value in entry.definitions.items() if value == UNKNOWN}
    return all(entry.definitions[name] == value for name, value in wanted.items()) and \
        unknown == {name for name in entry.definitions if known.get(name) == UNKNOWN}


@pytest.fixture(scope='module')
def machine(tmp_path_factory, privileged):
    """Return a folder with the package as it is installed, and what this kernel takes of it."""
    folder = tmp_path_factory.mktemp('machine')
    here = Path(ipc_bypass.__file__).resolve().parent
    shutil.copytree(here, folder / 'ipc_bypass', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(bpf_source('tcp_path.bpf.c').parent, folder / 'bpf')
    programs = folder / 'prebuilt' / os.uname().machine
    programs.mkdir(parents=True)
    offsets = {name: UNKNOWN if value is None else value
               for name, value in kernel_offsets().items() if name != WATCH}
    known = {**offsets, **error_queue_definitions()}
    chosen = [entry for entry in entries(os.uname().machine) if serves_here(entry, known)]
    assert len(chosen) == 3
    for entry in chosen:
        source = bpf_source(entry.source)
        write_prebuilt(programs / prebuilt_name(source, read_source(source), entry.definitions),
                       compile_prebuilt(source, entry.definitions, entry.programs,
                                        find_headers()))
    write_stamp(programs)
    return folder


def without_compiler(machine):
    """Return the words before a command that have it run where there is no compiler."""
    hide = ' && '.join(f'mount -t tmpfs none {folder}' for folder in HIDDEN)
    return ('unshare', '--mount', '--propagation', 'private', 'sh', '-c',
            f'{hide} && cd {machine} && exec "$@"', 'sh')


def environment(machine, **others):
    """Return variables with which the copy is found, and no cache of compiled programs."""
    return {'PYTHONPATH': os.pathsep.join([str(machine), os.environ.get('PYTHONPATH', '')]),
            'XDG_CACHE_HOME': str(machine / 'cache'), 'BCC_KERNEL_SOURCE': '', **others}


@pytest.mark.skipif(not Path(HIDDEN[0]).is_dir(), reason='BCC is not where Debian has it')
def test_the_node_redirects_and_captures(machine, start, cgroup, ports):
    port, other = next(ports), next(ports)
    node = start(how={'prefix': without_compiler(machine), 'environment': environment(machine)},
                 udp_path='cgroup_skb', control_socket=str(machine / 'pool.sock'),
                 rules=[f'tcp:{port}', f'udp:{other}:mirror'])
    node.bring_up()
    heard = node.statistics()
    mapped = Path(f'/proc/{node.process.pid}/root{HIDDEN[0]}')
    assert mapped.is_dir() and not list(mapped.iterdir())
    subprocess.run([*inside(cgroup), sys.executable, '-c', TALK, str(port), str(other)],
                   check=True, timeout=60)
    node.client.spin_until(lambda: heard and heard[-1].datagrams_mirrored == 1,
                           'the datagram is counted')
    assert (heard[-1].redirected_bytes, heard[-1].passed_bytes) == (SIZE, 0)
    assert node.errors() == []


@pytest.mark.skipif(not Path(HIDDEN[0]).is_dir(), reason='BCC is not where Debian has it')
def test_doctor_says_that_it_can_work(machine):
    def doctor(**others):
        run = subprocess.run(
            [*without_compiler(machine), sys.executable, '-m', 'ipc_bypass.cli.main', 'doctor',
             '--json', '--no-graph'], capture_output=True, text=True, timeout=120,
            env={**os.environ, **environment(machine, **others)})
        assert run.stderr == ''
        answer = json.loads(run.stdout)
        return run.returncode, {row['name']: row for row in answer['rows']}, answer['paths']
    code, rows, paths = doctor()
    assert code == 0 and paths['tcp']['sk_msg']['available']
    assert rows['prebuilt programs']['works'] and not rows['bcc']['works']
    assert not rows['kernel headers']['works'] and not rows['bcc']['required_by']
    code, rows, paths = doctor(IPC_BYPASS_PROGRAMS='compile')
    assert code == 1 and rows['prebuilt programs']['works'] is None
    assert 'kernel headers' in paths['tcp']['sk_msg']['reason']


def test_open_definitions_of_the_catalogue_are_those_of_the_paths():
    """Nothing in the catalogue is open that no path asks for."""
    names = {name for entry in entries('x86_64') for name, value in entry.definitions.items()
             if is_open(name, value)}
    assert {'MAX_FLOWS', 'MAX_SOCKETS', *kernel_offsets()} - {WATCH} <= names
    assert prebuilt_folder('aarch64').name == 'aarch64'
