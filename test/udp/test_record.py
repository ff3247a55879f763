"""
`ipc-bypass record`: what real DDS peers said, in a file that tshark dissects as RTPS.

The pool is one in a file, with the control socket and the layout of the real one, which a test
fills by hand; test_record_live.py has the kernel's program fill one.
"""

import os
import signal
import subprocess
import sys
import time

from ipc_bypass.cli.observing import Ending
from ipc_bypass.cli.record import record
from ipc_bypass.pool import layout
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.rules.rtps_message import parse_rtps
import pytest
from record_tools import end, FIELDS, GOOD
from support.file_pool import FilePool, RULE_ID
from support.pcapng_blocks import blocks
from support.rtps_peers import (
    capinfos,
    heard,
    messages,
    tshark,
    udp_payload,
    VENDORS,
)
from support.waiting import PATIENCE, wait_until

STATISTICS_BLOCK = 5


@pytest.fixture
def pool(tmp_path):
    """Yield a FilePool."""
    with FilePool(tmp_path, slots=(2048, 512)) as made:
        yield made


@pytest.fixture
def start(pool, tmp_path):
    """Return a function that starts `ipc-bypass record FILE WORDS`; it observes on return."""
    started = []

    def command(*words, name='recorded.pcapng'):
        process = subprocess.Popen(
            [sys.executable, '-m', 'ipc_bypass.cli.main', 'record', str(tmp_path / name),
             '--control-socket', pool.socket, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        # Its first blocks are written when it observes and heeds signals.
        wait_until(lambda: (tmp_path / name).is_file() and (tmp_path / name).stat().st_size,
                   'the recorder observes')
        return process
    yield command
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('vendor', VENDORS)
def test_real_messages(vendor, pool, start, tmp_path):
    """Each message of real peers is dissected as RTPS, its checksums are good, none is missing."""
    said = messages(vendor)[:400]
    process = start()
    before = time.time()
    for message in said:
        pool.write(message)
    text = end(process)
    after = time.time()
    assert f'written {len(said)}, missed 0, torn 0' in text
    rows = tshark(tmp_path / 'recorded.pcapng', FIELDS)
    assert len(rows) == len(said)
    for message, row in zip(said, rows, strict=True):
        assert row['_ws.col.Protocol'] == ['RTPS']
        assert not row['_ws.malformed']
        assert row['udp.checksum.status'] == GOOD
        assert row['ip.checksum.status'] == GOOD
        facts = parse_rtps(message)
        assert row['rtps.guidPrefix.src'][0] == facts.guid_prefix.hex()
        assert [int(number, 16) for number in row['rtps.sm.id']] == [
            found.number for found in facts.submessages]
        assert row['frame.interface_name'] == ['ipc_bypass']
        assert before - 1 < float(row['frame.time_epoch'][0]) < after + 1
        assert not row['frame.drop_count'] and not row['frame.comment']


def test_as_they_were_sent(pool, start, tmp_path):
    """Addresses, ports and payloads are those of the packets on the wire; headers are rebuilt."""
    packets = heard('cyclone')[:200]
    process = start()
    for packet in packets:
        source, destination = ('.'.join(map(str, packet[at:at + 4])) for at in (12, 16))
        ports = [int.from_bytes(packet[at:at + 2], 'big') for at in (20, 22)]
        pool.write(udp_payload(packet), (source, ports[0]), (destination, ports[1]))
    end(process)
    rows = tshark(tmp_path / 'recorded.pcapng', ('ip.src', 'ip.dst', 'udp.srcport', 'udp.dstport',
                                                 'udp.payload'))
    assert [(row['udp.srcport'], row['udp.dstport'], row['udp.payload']) for row in rows] == [
        ([str(int.from_bytes(packet[20:22], 'big'))], [str(int.from_bytes(packet[22:24], 'big'))],
         [udp_payload(packet).hex()]) for packet in packets]


def test_both_families_and_comments(pool, start, tmp_path):
    """IPv6 as IPv4; a comment says action, rule and processes."""
    message = messages('cyclone')[0]
    process = start('--comments')
    pool.write(message, sender=os.getpid(), receiver=os.getpid())
    pool.write(message, ('::1', 40001), ('fd00::7', 7411), action=layout.DIVERT)
    end(process)
    rows = tshark(tmp_path / 'recorded.pcapng', (*FIELDS, 'ipv6.dst'))
    assert [row['_ws.col.Protocol'] for row in rows] == [['RTPS']] * 2
    assert [row['udp.checksum.status'] for row in rows] == [GOOD] * 2
    assert (rows[1]['ipv6.src'], rows[1]['ipv6.dst']) == (['::1'], ['fd00::7'])
    with open('/proc/self/comm', encoding='utf-8') as stream:
        here = f'{stream.read().strip()}({os.getpid()})'
    assert rows[0]['frame.comment'] == [f'mirror, rule {RULE_ID}, {here} -> {here}']
    assert rows[1]['frame.comment'] == [f'divert, rule {RULE_ID}, ? -> ?']


def test_limits_and_rules(pool, start, tmp_path):
    """--count, --duration, --snaplen and --rule."""
    process = start('--count', '3', '--snaplen', '40', '--rule', '7411')
    for port in (7411, 7500, 7411, 7411, 7411):
        pool.write(bytes(100), destination=('127.0.0.1', port))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert 'written 3,' in errors
    rows = tshark(tmp_path / 'recorded.pcapng', FIELDS)
    assert [(row['udp.dstport'], row['frame.cap_len'], row['frame.len']) for row in rows] == [
        (['7411'], ['40'], ['128'])] * 3
    process = start('--duration', '0.3', name='nothing.pcapng')
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert tshark(tmp_path / 'nothing.pcapng', FIELDS) == []


def test_cut_at_the_capture(pool, start, tmp_path):
    """A truncated datagram is a packet of its whole length, cut."""
    message = messages('cyclone')[0]
    process = start('--comments')
    pool.write(message[:64], flags=layout.TRUNCATED, original_length=len(message))
    end(process)
    row, = tshark(tmp_path / 'recorded.pcapng', FIELDS)
    assert row['frame.cap_len'] == [str(64 + 28)]
    assert row['frame.len'] == [str(len(message) + 28)]
    assert 'truncated at the capture' in row['frame.comment'][0]


def test_messages_of_connections_are_left_out(pool, start, tmp_path):
    """TCP is not written, and the account says so."""
    process = start()
    pool.write(b'RTPS' + bytes(60), flags=layout.TCP)
    pool.write(messages('cyclone')[0])
    assert 'written 1, missed 0, torn 0, left out: tcp 1' in end(process)
    assert len(tshark(tmp_path / 'recorded.pcapng', FIELDS)) == 1


class Late:
    """A Consumer whose first read is followed by more traffic than the pool holds."""

    def __init__(self, pool, consumer, ending, traffic):
        """Read through `consumer`; end when all was read."""
        self._pool, self._consumer, self._ending, self._traffic = pool, consumer, ending, traffic
        self.statistics, self.memory = consumer.statistics, consumer.memory

    def read(self, timeout, most):
        """Return a batch, the first one too late."""
        batch = self._consumer.read(timeout, most)
        if self._traffic:
            for _ in range(self._traffic):
                self._pool.write(b'later')
            self._pool.memory.header['passed'] = 5 + 3
            self._traffic = 0
        elif not len(batch):
            self._ending.signal = signal.SIGINT
        return batch


def test_what_is_lacking(pool, tmp_path):
    """Overwritten while it was read, and before: in the packets, statistics and the account."""
    path = tmp_path / 'late.pcapng'
    traffic = pool.memory.ring_entries + 100
    pool.memory.header['passed'] = 5
    ending = Ending()
    with Consumer(observe=True, control=pool.socket) as consumer, \
            open(path, 'wb', buffering=0) as stream:
        pool.write(b'first')
        account = record(Late(pool, consumer, ending, traffic), stream, ending)
    assert account.torn > 0
    assert account.missed == consumer.statistics.missed > 0
    assert account.written > 0
    assert account.written + account.missed + account.torn == 1 + traffic
    assert account.passed == {'not_captured': 3}
    rows = tshark(path, FIELDS)
    assert len(rows) == account.written
    # What is lacking is said where it is lacking.
    assert rows[0]['frame.drop_count'] == [str(account.missed + account.torn)]
    assert not any(row['frame.drop_count'] for row in rows[1:])
    assert capinfos(path)['Number of packets'] == str(account.written)
    kind, _, options = list(blocks(path.read_bytes()))[-1]
    assert kind == STATISTICS_BLOCK
    assert options[1].decode() == account.text()
    assert [int.from_bytes(options[code], 'little') for code in (4, 5, 7, 8)] == [
        1 + traffic + 3, account.missed + account.torn, 3, account.written]


def test_killed(pool, start, tmp_path):
    """After a flush, what was written can be read, though nobody closed the file."""
    said = messages('cyclone')[:100]
    process = start()
    for message in said:
        pool.write(message)
    size = sum(map(len, said))
    path = tmp_path / 'recorded.pcapng'
    wait_until(lambda: path.stat().st_size > size, 'the recorder writes')
    process.kill()
    process.wait()
    assert len(tshark(path, FIELDS)) == len(said)


def test_standard_output(pool):
    """'-' is standard output; its reader's end is the end."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'ipc_bypass.cli.main', 'record', '-', '--control-socket',
         pool.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(4) == bytes.fromhex('0a0d0d0a')
    process.stdout.close()
    wait_until(lambda: pool.write(bytes(10)) and process.poll() is not None, 'it ends')
    assert process.stderr.read() == b''
    process.stderr.close()


def test_says_what_to_do(tmp_path):
    """No node, and a file that cannot be written: one line each."""
    for words, beginning in (
            (['record', str(tmp_path / 'x'), '--control-socket', str(tmp_path / 'none')],
             'ipc-bypass: reach the node at '),
            (['tap', '--control-socket', str(tmp_path / 'none')],
             'ipc-bypass: reach the node at ')):
        done = subprocess.run([sys.executable, '-m', 'ipc_bypass.cli.main', *words],
                              capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1
        assert done.stderr.startswith(beginning) and done.stderr.count('\n') == 1
        assert '; ' in done.stderr  # the next step


def test_file_cannot_be_written(pool, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'ipc_bypass.cli.main', 'record', str(tmp_path / 'no' / 'x'),
         '--control-socket', pool.socket], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == (f"ipc-bypass: write {tmp_path / 'no' / 'x'}: No such file or "
                           'directory; give a path that this user can write to\n')
