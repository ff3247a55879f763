"""A reader that dies with redirected bytes unread: its writer is told, as by plain TCP."""

import errno
import socket
import subprocess
import sys
import time

import pytest
from support.waiting import wait_until

#: Accepts one connection, says so and never reads.
READER = """
import socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
connection, _ = listener.accept()
if sys.argv[2]:
    connection.sendall(sys.argv[2].encode())
print('accepted', flush=True)
sys.stdin.readline()
"""
PATIENCE = 20.0


@pytest.fixture
def dead_reader():
    """Return a function that connects to a reader, holds its writer up and kills the reader."""
    readers = []

    def make(port, says=''):
        reader = subprocess.Popen([sys.executable, '-c', READER, str(port), says],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        readers.append(reader)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                writer = socket.create_connection(('127.0.0.1', port))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert reader.stdout.readline() == 'accepted\n'
        writer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                writer.send(bytes(65536))
        reader.kill()
        reader.wait()
        return writer
    yield make
    for reader in readers:
        reader.kill()
        reader.communicate()


def test_a_writer_that_was_held_up_is_told(make_path, ports, dead_reader):
    port = next(ports)
    with make_path(port, budget_bytes=1 << 20) as path:
        with dead_reader(port) as writer:
            writer.settimeout(PATIENCE)
            with pytest.raises(OSError) as caught:
                writer.sendall(bytes(64 << 20))
            assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)
        # It is counted after the reset, which woke this thread up.
        wait_until(lambda: path.counters()['writers_reset'] == 1, 'it is counted')
        path.deactivate()
        assert path.counters()['writers_reset'] == 1


def test_what_the_reader_sent_before_stays_to_be_read(make_path, ports, dead_reader):
    port = next(ports)
    with make_path(port, budget_bytes=1 << 20) as path:
        with dead_reader(port, says='goodbye') as writer:
            # It would have been told by now.
            time.sleep(3)
            assert path.counters()['writers_reset'] == 0
            writer.settimeout(PATIENCE)
            assert writer.recv(100) == b'goodbye'
            wait_until(lambda: path.counters()['writers_reset'] == 1, 'the writer is told')


def test_a_reader_that_only_ends_its_own_stream_is_there_still(make_path, ports):
    port = next(ports)
    with make_path(port, budget_bytes=1 << 20) as path, \
            socket.create_server(('127.0.0.1', port)) as listener, \
            socket.create_connection(('127.0.0.1', port)) as writer, \
            listener.accept()[0] as reader:
        reader.shutdown(socket.SHUT_WR)
        writer.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += writer.send(bytes(65536))
        time.sleep(3)
        assert path.counters()['writers_reset'] == 0
        reader.settimeout(PATIENCE)
        received = 0
        while received < sent:
            received += len(reader.recv(1 << 20))
        assert received == sent
