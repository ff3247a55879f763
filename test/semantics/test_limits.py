"""What a limit on the receiver's memory does to the sender."""

import os
from pathlib import Path
import socket

import pytest
from semantics_tools import Child, outcome, PATIENCE, read, set_timeouts

MEMORY = Path('/sys/fs/cgroup/memory')
LIMIT = 'memory.kmem.tcp.limit_in_bytes'
BLOCK = os.urandom(100_000)


@pytest.fixture
def limited_group():
    """Yield the folder of a cgroup whose processes may hold 1 MB in TCP sockets."""
    if not (MEMORY / LIMIT).exists():
        pytest.skip('the memory controller of cgroup v1 is not mounted')
    group = MEMORY / f'ipc_bypass_semantics_{os.getpid()}'
    group.mkdir()
    (group / LIMIT).write_text(str(1 << 20))
    yield group
    group.rmdir()


def count_in(group, listener, word):
    """Accept in a cgroup, wait for a word, read to the end; return how much was right."""
    (group / 'tasks').write_text(str(os.getpid()))
    server, _ = listener.accept()
    set_timeouts(server, PATIENCE)
    word.send(b'accepted')
    word.recv(100)
    right = 0
    while True:
        part = read(server, len(BLOCK))
        if part != BLOCK[:len(part)]:
            return 'wrong content'
        right += len(part)
        if len(part) < len(BLOCK):
            return right


@pytest.mark.parametrize(('kind', 'refusal'), [
    ('plain', 'EAGAIN'), ('redirected', 'ENOMEM'), ('passed', 'EAGAIN')])
def test_memory_limit_of_the_receiver(path, listeners, limited_group, kind, refusal):
    """What a sender is told when the receiver's cgroup is full; nothing is lost by it."""
    ours, its = socket.socketpair()
    with ours, its, listeners(kind != 'plain', 'ipv4') as listener:
        child = Child(count_in, limited_group, listener, its)
        with socket.create_connection(listener.getsockname()) as client:
            ours.recv(100)
            client.setblocking(False)
            if kind == 'passed':
                path.deactivate()
            try:
                sent, answer = 0, 0
                while not isinstance(answer, str):
                    sent += answer
                    answer = outcome(client.send, BLOCK[sent % len(BLOCK):])
            finally:
                path.activate()
            ours.send(b'read')
        assert (answer, child.result()) == (refusal, str(sent))


test_memory_limit_of_the_receiver.differs = True
