"""Programs that rely on what a redirected socket does not have: seen, left out, and told of."""

from contextlib import ExitStack, suppress
import hashlib
import os
import socket
import struct
import time

from ipc_bypass.tcp import fitness
import pytest
from semantics_tools import Call
from support.connections import read
from support.steering import drained, flow_of
from support.waiting import PATIENCE, wait_until
from unfit_tools import connect, whole_answer

_SO_RCVLOWAT, _SO_ZEROCOPY, _MSG_ZEROCOPY = 18, 60, 0x4000000


def excluded(path, port):
    """Return the Excluded of a port, once there is one."""
    return wait_until(lambda: next((one for one in path.excluded() if one.port == port), None),
                      'it is left out')


def test_a_reader_that_splices(path, peer):
    port, first = peer('ipcb_splices', 'splice'), path.counters()
    with connect(port) as sock:
        sock.sendall(b'never moved')
        wait_until(lambda: path.counters()['unfit_sockets'] > first['unfit_sockets'], 'it is seen')
        sock.sendall(b'nor this')
        assert flow_of(path, sock).reason == 'splice'
        assert path.counters()['passed_splice'] == 1
        # It would spin for ever.
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    # It is counted after the reset, which woke this thread up.
    wait_until(lambda: path.counters()['readers_reset'] == 1, 'it is counted')
    found = excluded(path, port)
    assert (found.name, found.reason) == ('ipcb_splices', 'splice')
    wait_until(lambda: any('ipcb_splices' in note and 'splice(2)' in note for note in path.notes),
               'it is told of')
    before = path.counters()
    data = os.urandom(300_000)
    assert whole_answer(port, data) == hashlib.sha256(data).hexdigest().encode()
    drained(path)
    after = path.counters()
    assert after['left_out_excluded'] == before['left_out_excluded'] + 1
    assert after['passed_excluded'] > before['passed_excluded']
    assert after['redirected_bytes'] == before['redirected_bytes']


def test_a_reader_that_waits_for_all(path, peer):
    port = peer('ipcb_waits', 'waitall')
    with connect(port) as sock:
        sock.sendall(b'first')
        # What redirect does with it, and what it does to programs that do not look.
        assert sock.recv(100) == b'first'
    assert excluded(path, port).reason == 'waitall'
    wait_until(lambda: any('ipcb_waits' in note for note in path.notes), 'it is told of')
    with connect(port) as sock:
        sock.sendall(b'first')
        assert not flow_of(path, sock).redirected_bytes
        sock.sendall(b'other')
        assert sock.recv(100) == b'firstother'


def test_what_was_queued_stays_readable(path, ports):
    """A program that waits for all once, and reads on by other calls, loses nothing."""
    with socket.create_server(('127.0.0.1', next(ports))) as listener, \
            connect(listener.getsockname()[1]) as sender, listener.accept()[0] as reader:
        data = os.urandom(400_000)
        sender.sendall(data[:200_000])
        got = reader.recv(1, socket.MSG_WAITALL)
        sender.sendall(data[200_000:])
        assert flow_of(path, sender).reason == 'waitall'
        while len(got) < len(data):
            got += reader.recv(65536)
        assert got == data


def test_another_program_is_not_left_out(path, peer):
    unfit, fit = peer('ipcb_waits2', 'waitall'), peer('ipcb_fit', 'recv')
    whole_answer(unfit, b'0123456789')
    excluded(path, unfit)
    before = path.counters()['redirected_bytes']
    assert whole_answer(fit, b'0123456789') == b'0123456789'
    assert path.counters()['redirected_bytes'] == before + 20


def test_a_low_water_mark(path, ports):
    with socket.create_server(('127.0.0.1', next(ports))) as listener:
        port = listener.getsockname()[1]
        with connect(port) as sender, listener.accept()[0] as reader:
            reader.setsockopt(socket.SOL_SOCKET, _SO_RCVLOWAT, 100)
            sender.sendall(b'redirected')
            assert flow_of(path, sender).redirected_bytes == 10
            assert reader.recv(100) == b'redirected'
            assert excluded(path, port).reason == 'low_water_mark'
    with socket.create_server(('127.0.0.1', next(ports))) as listener:
        # Inherited: the kernel has it before the connection is entered.
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVLOWAT, 100)
        before = path.counters()['left_out_options']
        with connect(listener.getsockname()[1]) as sender, listener.accept()[0]:
            sender.sendall(b'plain')
            assert flow_of(path, sender).reason == 'excluded'
        assert path.counters()['left_out_options'] == before + 1


def test_completions_of_sends_without_copy(path, ports):
    before = path.counters()['left_out_options']
    with socket.create_server(('127.0.0.1', next(ports))) as listener, \
            socket.socket() as sender:
        sender.settimeout(PATIENCE)
        sender.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
        sender.connect(listener.getsockname())
        with listener.accept()[0] as reader:
            data = os.urandom(100_000)
            sent = sender.send(data, _MSG_ZEROCOPY)
            assert read(reader, sent) == data[:sent]

            def completion():
                try:
                    return sender.recvmsg(0, 1024, socket.MSG_ERRQUEUE)
                except BlockingIOError:
                    return None
            _, ancillary, _, _ = wait_until(completion, 'the completion is there')
            # struct sock_extended_err: errno, origin, type, code, pad, info, data.
            assert struct.unpack_from('=IBBBBII', ancillary[0][2])[1] == 5  # of zero copy
    assert path.counters()['left_out_options'] == before + 1


def test_a_read_that_is_interrupted(path, ports):
    """It is counted, and that is all: who tries again is right to be redirected."""
    before = path.counters()['reads_interrupted']
    with socket.create_server(('127.0.0.1', next(ports))) as listener, \
            connect(listener.getsockname()[1]) as sender, listener.accept()[0] as reader:
        call = Call(reader.recv, 1)
        call.blocked(reader)
        sender.shutdown(socket.SHUT_WR)
        assert call.result() == b''
        assert path.counters()['reads_interrupted'] == before
    with socket.create_server(('127.0.0.1', next(ports))) as listener, \
            connect(listener.getsockname()[1]), listener.accept()[0] as reader:
        call = Call(reader.recv, 1)
        call.blocked(reader)
        reader.shutdown(socket.SHUT_RD)
        assert call.result() == 'EAGAIN'
        assert path.counters()['reads_interrupted'] == before + 1


def test_a_reader_that_splices_and_reads(path, ports, monkeypatch):
    """It takes what comes, if more slowly: it is not reset."""
    monkeypatch.setattr(fitness, 'PATIENCE', 1.0)
    with socket.create_server(('127.0.0.1', next(ports))) as listener, \
            connect(listener.getsockname()[1]) as sender, listener.accept()[0] as reader, \
            ExitStack() as stack:
        first = path.counters()
        pipe = os.pipe()
        for end in pipe:
            stack.callback(os.close, end)
        reader.settimeout(PATIENCE)
        sender.sendall(bytes(2000))
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            sender.sendall(bytes(200))
            with suppress(BlockingIOError):
                os.splice(reader.fileno(), pipe[1], 100)
                os.read(pipe[0], 100)
            assert reader.recv(100)
            time.sleep(0.02)
        assert path.counters()['unfit_sockets'] > first['unfit_sockets']
        assert path.counters()['readers_reset'] == first['readers_reset']


def test_it_can_be_switched_off(steer, other_ports, peer):
    with steer(other_ports, exclude=(), find_unfit=False) as path:
        port = peer('ipcb_waits3', 'waitall', other_ports)
        for _ in range(2):
            with connect(port) as sock:
                sock.sendall(b'first')
                assert sock.recv(100) == b'first'
        assert not path.excluded()
