"""`ipc-bypass tap`: a line a datagram, held against what was written into the pool."""

import io
import json
import os
import re
import signal
import subprocess
import sys

from ipc_bypass.cli import observing
from ipc_bypass.cli.observing import Ending, Hints, PassedCounts
from ipc_bypass.cli.tap import Lines, tap
from ipc_bypass.pool import layout
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.pool.describe import Commands
from ipc_bypass.rules.rtps_message import parse_rtps
import pytest
from support.file_pool import FilePool, RULE_ID
from support.rtps_peers import messages, VENDORS
from support.waiting import PATIENCE, wait_until


@pytest.fixture
def pool(tmp_path):
    """Yield a FilePool."""
    with FilePool(tmp_path) as made:
        yield made


class Tap:
    """A running `ipc-bypass tap`; its consumer looks from the moment on that it is made."""

    def __init__(self, pool, *words, shell=''):
        """Start it, its output through a shell's pipe where `shell` says so."""
        command = [sys.executable, '-m', 'ipc_bypass.cli.main', 'tap', '--control-socket',
                   pool.socket, *words]
        if shell:
            command = ['bash', '-o', 'pipefail', '-c', f'"$@" | {shell}', 'bash', *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, start_new_session=True)
        self._pool = pool

    def until(self, text, write):
        """Call `write()` until the first line is there; return it, which has `text`."""
        os.set_blocking(self.process.stdout.fileno(), False)
        line = wait_until(lambda: write() and self.process.stdout.readline(), 'a first line',
                          interval=0.05)
        os.set_blocking(self.process.stdout.fileno(), True)
        assert text in line
        return line

    def end(self):
        """End it; return (lines, what it said at the end)."""
        os.killpg(self.process.pid, signal.SIGINT)
        out, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors
        return out.splitlines(), errors


def printed(pool, show, *datagrams):
    """Return what `tap` prints of datagrams: tuples of FilePool.write's arguments."""
    out = io.StringIO()
    with Consumer(observe=True, control=pool.socket) as consumer:
        for payload, options in datagrams:
            pool.write(payload, **options)
        assert tap(consumer, Ending(count=len(datagrams)), show, out,
                   commands=Commands({7: 'talker', 8: 'listener'}.get)) == (len(datagrams), 0)
    return out.getvalue()


@pytest.mark.parametrize('vendor', VENDORS)
def test_real_messages(vendor, pool):
    """Vendor, beginning of the guid prefix, kinds and writer of each message."""
    said = messages(vendor)[:100]
    lines = printed(pool, Lines(), *((message, {'sender': 7, 'receiver': 8}) for message in said))
    lines = lines.splitlines()
    assert len(lines) == len(said)
    for line, message in zip(lines, said, strict=True):
        facts = parse_rtps(message)
        head, summary = line.split('  mirror  ')
        assert re.fullmatch(
            r'\d\d:\d\d:\d\d\.\d{6} IPv4 127\.0\.0\.1:40000 -> 127\.0\.0\.1:7411  '
            rf'talker\(7\) -> listener\(8\)  {len(message)} B', head)
        begin = f"{facts.vendor} {facts.guid_prefix.hex()[:16]} {' '.join(facts.kinds)}"
        assert summary.startswith(begin)
        assert (', writer ' in summary) == (facts.carrier is not None)
        assert 'malformed' not in summary


def test_other_lines(pool):
    """IPv6, divert, TCP, truncated, unknown processes, and what is no RTPS."""
    message = messages('cyclone')[0]
    lines = printed(
        pool, Lines(), (b'abc', {'source': ('fd00::1', 1), 'destination': ('::1', 7411)}),
        (message[:30], {'flags': layout.TRUNCATED, 'original_length': len(message)}),
        (message[:-1], {'action': layout.DIVERT, 'flags': layout.TCP})).splitlines()
    assert ' IPv6 [fd00::1]:1 -> [::1]:7411  ? -> ?  3 B  mirror  not RTPS' in lines[0]
    assert f'  30 of {len(message)} B  mirror  Cyclone DDS ' in lines[1]
    assert 'malformed' not in lines[1]
    assert '  divert tcp  Cyclone DDS ' in lines[2]
    assert lines[2].endswith(', malformed: submessage_length')


def test_submessages_and_hexadecimal(pool):
    """--rtps and --hex, below the line."""
    message = messages('fast')[0]
    text = printed(pool, Lines(rtps=True, payload=True), (message, {}))
    lines = text.splitlines()
    kinds = parse_rtps(message).kinds
    assert [line.split()[0] for line in lines[1:1 + len(kinds)]] == kinds
    dump = ''.join(line[11:11 + 47] for line in lines[1 + len(kinds):])
    assert bytes.fromhex(dump) == message


def test_json(pool, tmp_path):
    """An object a line from the command, with all facts."""
    said = messages('cyclone')[:20]
    running = Tap(pool, '--json')
    first = json.loads(running.until('{', lambda: pool.write(b'first', sender=os.getpid())))
    assert (first['rtps'], first['length'], first['sender_pid']) == (None, 5, os.getpid())
    stamps = [pool.write(message) for message in said]
    found = []
    while len(found) < len(said):
        one = json.loads(running.process.stdout.readline())
        found += [one] if one['rtps'] else []
    _, errors = running.end()
    assert re.search(r'^\d+ printed, 0 missed, 0 torn$', errors, re.M)
    for one, message, stamp in zip(found, said, stamps, strict=True):
        facts = parse_rtps(message)
        assert one['rtps']['guid_prefix'] == facts.guid_prefix.hex()
        assert [part['kind'] for part in one['rtps']['submessages']] == facts.kinds
        assert one['rule_id'] == RULE_ID
        assert one['stamp_ns'] - stamp == found[0]['stamp_ns'] - stamps[0]


def test_count_and_closed_pipe(pool):
    """--count ends it; so does a reader who has seen enough, without a word."""
    running = Tap(pool, '--count', '1')
    running.until('not RTPS', lambda: pool.write(b'x'))
    _, errors = running.process.communicate(timeout=PATIENCE)
    assert (running.process.returncode, errors) == (0, '1 printed, 0 missed, 0 torn\n')
    running = Tap(pool, shell='head -n 1')
    wait_until(lambda: pool.write(b'x') and running.process.poll() is not None, 'it ends',
               interval=0.05)
    out, errors = running.process.communicate(timeout=PATIENCE)
    assert out.count('\n') == 1
    assert errors == ''


def test_torn_datagrams_are_not_printed(pool):
    """What was overwritten while it was read is counted instead."""
    class Late:
        """A Consumer whose batches are overwritten at once."""

        def __init__(self, consumer):
            """Read through `consumer`."""
            self._consumer, self.statistics = consumer, consumer.statistics

        def read(self, timeout, most):
            """Return a batch that is gone, and end."""
            batch = self._consumer.read(timeout, most)
            for _ in range(pool.memory.slots[layout.SMALL]):
                pool.write(b'later')
            ending.signal = signal.SIGINT
            return batch
    ending, out = Ending(), io.StringIO()
    with Consumer(observe=True, control=pool.socket) as consumer:
        for _ in range(3):
            pool.write(b'early')
        assert tap(Late(consumer), ending, Lines(), out) == (0, 3)
    assert out.getvalue() == ''


def test_hints():
    """No rule, silence, and a node that goes and comes: each is said once."""
    class Node:
        """A consumer of nothing."""

        rules, connected = ['udp:7411'], True
    now, out, node = [0.0], io.StringIO(), Node()
    hints = Hints('tap', node, out=out, clock=lambda: now[0])
    hints.saw(0)
    assert out.getvalue() == ''
    now[0] = observing.SILENCE
    hints.saw(0)
    hints.saw(0)
    assert out.getvalue().count('nothing was captured so far') == 1
    node.connected = False
    hints.saw(0)
    hints.saw(0)
    node.connected = True
    hints.saw(1)
    assert out.getvalue().count('the node is gone') == 1
    assert out.getvalue().count('a node is there again') == 1
    node.rules, out = [], io.StringIO()
    Hints('tap', node, out=out)
    assert 'no UDP rule is enrolled; enrol one' in out.getvalue()
    assert out.getvalue().count('\n') == 1


def test_passed_counts():
    """By reason where the consumer can tell; a new node's counters begin anew."""
    class Told:
        """A consumer that knows reasons."""

        def __init__(self):
            """Begin with one that passed before."""
            self.memory, self.reasons = object(), {'pool_full': 1}

        def passed_by_reason(self):
            """Return the node's counters."""
            return self.reasons
    told = Told()
    counts = PassedCounts(told)
    assert counts.update() == {}
    told.reasons = {'pool_full': 4, 'fragment': 2}
    assert counts.update() == {'pool_full': 3, 'fragment': 2}
    told.memory, told.reasons = object(), {'fragment': 10}
    assert counts.update() == {'pool_full': 3, 'fragment': 12}
    told.reasons = {'fragment': 11}
    assert counts.update() == {'pool_full': 3, 'fragment': 13}
