"""Senders and readers of the UDP bench: what they say of datagrams, of the socket or the pool."""

from contextlib import contextmanager
import shutil
import subprocess
import sys

from ipc_bypass.bench import udp_peers
from ipc_bypass.bench.rows import Cell
from ipc_bypass.bench.udp_capture import (
    Capture,
    captured,
    CaptureError,
    must_be_captured,
    passed,
    PORTS,
    RULES,
)
from ipc_bypass.bench.udp_exchange import drain, exact, one_way, send, wake
from ipc_bypass.bench.udp_peers import PeerError, peers
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
import pytest
from support.waiting import wait_until

PORT = 27650
GARBAGE = ('import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto('
           'b"x" * 500, ("127.0.0.1", {port}))')


@pytest.fixture(params=udp_peers.LANGUAGES)
def language(request):
    if request.param == 'c':
        request.getfixturevalue('compiler_there')
    return request.param


@contextmanager
def reading(pair, **options):
    """Give a reader that is ready."""
    with pair.start('reader', {'port': PORT, 'count': 0, **options}) as reader:
        yield reader.wait_ready()


def cell(path, workload='oneway', size=64):
    return Cell('loopback', 'c', path, workload, size)


def test_without_a_compiler_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, 'which', lambda _name: None)
    with pytest.raises(UnsupportedError, match=r'apt-get install gcc.*--language python') as info:
        udp_peers.compile_peers(tmp_path)
    assert '\n' not in str(info.value)


def test_what_does_not_compile_is_one_line(compiler_there, monkeypatch, tmp_path):
    for name in ('bpf', 'bench', 'out'):
        (tmp_path / name).mkdir()
    (tmp_path / 'bench' / 'udp_sender.c').write_text('int main(void) { return missing; }\n')
    monkeypatch.setattr(udp_peers, 'bpf_source', lambda name: tmp_path / 'bpf' / name)
    with pytest.raises(BypassError, match=r'compile udp_sender\.c: .*missing') as info:
        udp_peers.compile_peers(tmp_path / 'out')
    assert '\n' not in str(info.value)
    assert 'missing' in info.value.log


@pytest.mark.parametrize('block', [0, 1])
def test_each_datagram_of_a_socket_is_timed(place, language, block):
    with peers(place, language) as pair, reading(pair, count=500, block=block) as reader:
        with pair.start('sender', {'port': PORT, 'count': 500, 'size': 100,
                                   'gap': 200000}) as sender:
            sent = sender.result(30)
        found = reader.result(30)
    assert (sent['sent'], sent['refused'], found['received']) == (500, 0, 500)
    for times in (sent['send_us'], found['latency_us']):
        assert 0 < times['p10'] <= times['p50'] <= times['p99']


def test_a_reader_that_waits_ends_when_it_is_told(place, language):
    with peers(place, language) as pair, reading(pair, count=10, block=1) as reader:
        assert reader.stop()['received'] == 0


def test_a_process_that_fails_says_why(place, compiler_there):
    with peers(place, 'c') as pair, reading(pair):
        with pytest.raises(PeerError, match='bind: Address already in use'):
            with reading(pair):
                pass


def test_varied_datagrams_are_whole_and_others_are_told(place, compiler_there):
    with peers(place, 'c') as pair, \
            reading(pair, count=0, block=1, check=1, buffer=1 << 22) as reader:
        with pair.start('sender', {'port': PORT, 'count': 300, 'size': 0,
                                   'gap': 100000}) as sender:
            assert sender.result(30)['sent'] == 300
        for _ in range(2):
            subprocess.run(place.command(sys.executable, '-c', GARBAGE.format(port=PORT)),
                           check=True)
        found = reader.stop()
    assert 2 <= found['received'] <= 302
    assert found['wrong'] == 2


@pytest.mark.parametrize('path', ['mirror', 'divert'])
def test_the_pool_is_read_as_the_socket_is(pool_there, place, language, path):
    with peers(place, language) as pair, Capture() as capture:
        for which in ('udp', path):
            with capture.counted() as grown:
                assert one_way(capture, pair, cell(which), 200)['p50_us'] > 0
                assert wake(capture, pair, cell(which, 'wake'), 100)['p50_us'] > 0
            assert captured(grown) + sum(passed(grown).values()) == (
                0 if which == 'udp' else 300)
        assert send(capture, pair, cell('mirror', 'send', 65507), 50)['p50_us'] > 0


def test_the_numpy_consumer_takes_a_full_pool(pool_there, place):
    with peers(place, 'python') as pair, Capture() as capture:
        found = drain(capture, pair, cell('mirror', 'drain'), 500)
    assert found['descriptors_per_s'] > 0


def test_all_that_was_sent_is_accounted_for_and_whole(pool_there, place, compiler_there):
    with peers(place, 'c') as pair, Capture() as capture:
        found = exact(capture, pair, cell('divert', 'exact', 0), 20000)
    assert found['datagrams'] == found['captured'] + found['passed'] == 20000
    assert (found['unaccounted'], found['untaken'], found['torn']) == (0, 0, 0)


def test_a_slot_that_is_not_what_was_sent_is_found(pool_there, place, compiler_there):
    with peers(place, 'c') as pair, Capture() as capture, capture.on(), \
            capture.lease([RULES['divert']]) as lease:
        with pair.start('reader', {'port': PORT, 'count': 0, 'source': 1, 'block': 1, 'check': 1,
                                   **lease.options}, descriptors=lease.descriptors) as reader:
            reader.wait_ready()
            with capture.counted() as grown:
                subprocess.run(place.command(
                    sys.executable, '-c', GARBAGE.format(port=PORTS['divert'])), check=True)
            wait_until(lambda: capture.counters()['captured_divert'], 'capture')
            found = reader.stop()
    assert captured(grown) == 1
    assert (found['received'], found['wrong'], found['held']) == (1, 1, 1)


def test_a_path_that_captured_nothing_is_no_figure():
    grown = {'captured_mirror': 3, 'captured_divert': 0, 'passed_pool_full': 7,
             'passed_no_slot': 0, 'passed_bytes': 900}
    with pytest.raises(CaptureError, match='3 datagrams were captured, and not: pool_full 7'):
        must_be_captured(cell('mirror'), grown)
    must_be_captured(cell('mirror'), grown, share=0.3)
    must_be_captured(cell('udp'), {**grown, 'captured_mirror': 0})
