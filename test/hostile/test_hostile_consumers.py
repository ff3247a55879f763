"""Consumers at the control socket that ask for too much, say too much, or say nothing."""

import array
from collections import Counter
import json
import mmap
import os
import socket
import subprocess
import sys

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool.channel import Client, receive, VERSION
from ipc_bypass.pool.counting import count, MOST_NAMES, OTHERS
from ipc_bypass.pool.stranded import _maps
from ipc_bypass.rules.table import Rule
from ipc_bypass.xdp.occupant import _command
import pytest
from support.descriptors import open_descriptors, wait_for_descriptors
from support.file_pool import FilePool

OPEN = {'version': VERSION, 'name': 'test', 'rules': [], 'claims': [], 'observe': False}


@pytest.fixture
def pool(tmp_path):
    """Yield a FilePool; no request may be one that its server did not expect."""
    with FilePool(tmp_path) as made:
        yield made
        assert not made.server.problems


@pytest.fixture
def client(pool):
    """Yield a Client of it."""
    made = Client(pool.socket)
    yield made
    made.close()


def test_as_many_rules_as_there_can_be(pool, client):
    """The answer is one packet: a consumer is served, and told of the first rules."""
    pool._leases.set_rules([Rule('udp', port, port, 'mirror', port) for port in range(1, 16385)])
    assert len(client.ask(op='open', **OPEN)[0]['rules']) == 1024
    assert len(client.ask(op='lease')[0]['rules']) == 1024


@pytest.mark.parametrize(('asked', 'value'), [('rules', 'udp:7400'), ('claims', '10.9.0.0/16')])
def test_more_than_a_consumer_may_ask_for(client, asked, value):
    """Each change of rules is held against what all consumers asked for."""
    client.ask(op='open', **{**OPEN, asked: [value] * 64})
    with pytest.raises(PoolError, match='64 are the most'):
        client.ask(op='open', **{**OPEN, asked: [value] * 65})


def test_leases_without_end(pool, client):
    """What is kept of leases that ended is bounded, and the last of them can be asked for."""
    client.ask(op='open', **OPEN)
    for _ in range(50):
        answer = client.ask(op='lease')[0]
    assert len(pool._leases._revoked) == 16
    held = answer['ring'], answer['generation']
    assert client.ask(op='revoked', ring=held[0], generation=held[1])[0]['cursor'] == 0
    with pytest.raises(PoolError, match='it is not one that ended'):
        client.ask(op='revoked', ring=held[0], generation=held[1])


def test_a_name_that_cannot_be_shown(pool, client):
    """Topics and logs take neither lone surrogates nor what moves a terminal's cursor."""
    client.ask(op='open', **{**OPEN, 'name': 'a\ud800b\x1b[2Jc\n'})
    assert [each['name'] for each in pool.server.clients()] == ['a?b?[2Jc?']


def test_descriptors_without_end(pool):
    """More than a message may bring are closed by the kernel, the others by the server."""
    before = open_descriptors()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(pool.socket)
        with open('/dev/null', 'rb') as null:
            handed = array.array('i', [null.fileno()] * 250)
            for _ in range(20):
                sock.sendmsg([b'{"op": "exempt"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                                      handed)])
                assert receive(sock)[0] is not None
    wait_for_descriptors(before)


def test_who_never_reads_is_dropped(pool, client):
    """Thousands of requests without reading an answer cost that consumer its connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(pool.socket)
        sock.settimeout(10)
        said = json.dumps({'op': 'open', **OPEN}).encode()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100_000):
                sock.send(said)
        assert client.ask(op='open', **OPEN)[0]['ok']


def test_a_crowd_that_says_nothing(pool):
    """The oldest silent one makes room; who asks is served all the while."""
    silent = []
    try:
        for number in range(300):
            silent.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            silent[-1].connect(pool.socket)
            if not number % 50:
                asking = Client(pool.socket)
                assert asking.ask(op='open', **OPEN)[0]['ok']
                asking.close()
        assert len(pool.server._clients) <= 64
    finally:
        for sock in silent:
            sock.close()


def test_names_without_end():
    """A consumer that goes by ever new names adds no more to what is counted."""
    counter = Counter()
    for number in range(1000):
        count(counter, f'name {number}', 2)
    assert len(counter) == MOST_NAMES + 1
    assert counter[OTHERS] == 2 * (1000 - MOST_NAMES) and counter.total() == 2000


def test_an_owner_that_maps_a_file_without_a_name(tmp_path):
    """What a node reads of a process that owned a ring: its files' names are any bytes."""
    path = os.fsencode(tmp_path) + b'/\xff\xfe'
    with open(path, 'wb+') as stream:
        stream.truncate(mmap.PAGESIZE)
    script = ('import mmap, sys\n'
              'file = open(bytes.fromhex(sys.argv[1]), "rb")\n'
              'kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n'
              'print(flush=True)\nsys.stdin.read()\n')
    with subprocess.Popen([sys.executable, '-c', script, path.hex()], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with open(f'/proc/{process.pid}/maps', 'rb') as stream:
            assert b'\xff\xfe' in stream.read()
        assert not _maps(process.pid)
        process.stdin.close()


def test_a_process_whose_name_is_no_text():
    """Whoever holds an interface's XDP hook may be called anything."""
    script = ('import sys\n'
              'open("/proc/self/comm", "wb").write(b"\\xff\\x1b[2Jodd")\n'
              'print(flush=True)\nsys.stdin.read()\n')
    with subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert _command(process.pid) == '\ufffd?[2Jodd'
        process.stdin.close()
