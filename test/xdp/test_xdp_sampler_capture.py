"""Captures of real traffic: the file as tshark reads it, accounts, and two readers at a time."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import threading

from ipc_bypass.cli import xdp_capture
from ipc_bypass.cli.main import main
from ipc_bypass.cli.observing import Ending
from ipc_bypass.kernel import bpffs
from ipc_bypass.xdp.capturing import CaptureError
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.reader_lease import ReaderError
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.sample_file import SampleWriter
from ipc_bypass.xdp.sampler import Sampler
from ipc_bypass.xdp.sampler_settings import parse_rule, SamplerSettings
import pytest
from support import frames, pcapng_blocks
from support.waiting import wait_until
from support.xdp import run_on, veth_lab

PORT = 7411


@pytest.fixture
def pins(pin_directory):
    bpffs.ensure_bpffs(mount=True)
    return pin_directory()


class Lab:
    """A sampler on the near end of a veth pair, attached."""

    def __init__(self, near, far, pins, templates):
        """Make it; the thread has to be in `near`."""
        self.near, self.far = near, far
        self.interface = find('near0')
        self.array = RootArray(self.interface, RootSettings(pin_directory=pins),
                               templates=templates)
        self.slot = self.array.load(1, slot_program('sampler'))
        self.sampler = Sampler(self.slot.maps)

    def send(self, count, size=100, port=PORT):
        """Send datagrams from the far end."""
        with self.far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(count):
                sender.sendto(number.to_bytes(4, 'big') + bytes(size - 4), (frames.NEAR, port))

    def close(self):
        """Let go of it."""
        self.sampler.close()
        self.array.close()


@pytest.fixture
def lab(pins, templates):
    with veth_lab() as (near, far), near.entered():
        made = Lab(near, far, pins, templates)
        try:
            made.array.attach('native')
            yield made
        finally:
            made.close()


def tshark(path, *fields):
    """Return the fields of each packet, as tshark prints them."""
    program = shutil.which('tshark')
    assert program, 'tshark is missing: apt-get install tshark'
    words = [program, '-n', '-r', str(path), '-T', 'fields']
    for field in fields:
        words += ['-e', field]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [line.split('\t') for line in done.stdout.splitlines()]


def test_a_file_that_tshark_reads(lab, pins, tmp_path, capsys):
    lab.sampler.apply(SamplerSettings(rules=(parse_rule(f'udp:{PORT}'),), snap=64))
    path = tmp_path / 'traffic.pcapng'
    ended = []

    def run():
        with lab.near.entered():
            stream = stack.enter_context(open(path, 'wb', buffering=0))
            ended.append(xdp_capture.capture(stream, Ending(20), pins))
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: lab.sampler.status().readers['capture'].holder, 'the capture')
        lab.send(15)
        lab.send(10, port=PORT + 1)
        lab.send(5)
        thread.join()
    rows = tshark(path, 'frame.interface_name', 'frame.len', 'frame.cap_len', 'ip.src',
                  'udp.dstport', 'frame.interface_queue', 'frame.comment', 'frame.time_epoch')
    assert [row[:7] for row in rows] == [
        ['near0', '142', '64', frames.FAR, str(PORT), '0', 'queue 0, rule 1']] * 20
    times = [float(row[7]) for row in rows]
    assert times == sorted(times) and abs(times[0] - os.stat(path).st_mtime) < 60
    assert times != [round(time, 6) for time in times]  # nanoseconds
    (name, text), = ended[0]
    assert name == 'near0' and text.startswith('20 written, 0 lost (ring buffer full); the ')
    statistics = [options for kind, _, options in pcapng_blocks.blocks(path.read_bytes())
                  if kind == 5]
    assert statistics[0][8] == (20).to_bytes(8, 'little')
    assert int.from_bytes(statistics[0][4], 'little') >= 30


def test_the_command(lab, pins, tmp_path, capsys):
    lab.sampler.apply(SamplerSettings(every=1))
    path = tmp_path / 'none.pcapng'
    assert main(['xdp', 'capture', str(path), '-i', 'near*', '--seconds', '0.2',
                 '--pin-directory', pins]) == 0
    assert 'near0: ' in capsys.readouterr().err
    assert main(['xdp', 'capture', str(path), '-i', 'eth7', '--pin-directory', pins]) == 1
    assert 'no sampler is loaded there; start the node' in capsys.readouterr().err
    assert main(['xdp', 'capture', f'{tmp_path}/no/x', '--pin-directory', pins]) == 1
    assert 'No such file or directory' in capsys.readouterr().err


def test_a_sampler_that_takes_nothing_is_said(lab, pins, capsys):
    lab.sampler.apply(SamplerSettings())
    xdp_capture.capture(io.BytesIO(), Ending(None, 0.1), pins)
    assert 'the sampler of near0 takes nothing: set' in capsys.readouterr().err


def test_the_node_and_a_capture_see_all_and_a_second_capture_is_refused(lab, pins):
    lab.sampler.apply(SamplerSettings(every=1, random=False))
    lab.sampler.read()
    recorder = xdp_capture.Recorder(io.BytesIO(), pins)
    recorder.look()
    other = xdp_capture.Recorder(io.BytesIO(), pins)
    with pytest.raises(ReaderError, match=rf"'xdp capture' \(pid {os.getpid()}\) reads them"):
        other.look()
    other.close()
    before = lab.sampler.status().readers
    lab.send(200)
    taken, read = 0, 0

    def all_came():
        nonlocal taken, read
        taken += recorder.take(0.01, 1000)
        read += len(lab.sampler.read())
        after = lab.sampler.status().readers
        return min(taken, read) >= 200 and (taken, read) == tuple(
            after[name].written - before[name].written for name in ('capture', 'node'))
    wait_until(all_came, 'the samples')
    recorder.close()
    assert lab.sampler.status().readers['capture'].holder == ''


def test_samples_that_were_lost_are_in_the_account(pins, templates):
    with veth_lab() as (near, far), near.entered():
        lab = Lab(near, far, pins, templates)
        try:
            slot = lab.array.load(1, slot_program('sampler', sizes={'sampler_captures': 4096}))
            lab.sampler = Sampler(slot.maps)
            lab.sampler.apply(SamplerSettings(every=1, snap=200))
            stream = io.BytesIO()
            recorder = xdp_capture.Recorder(stream, pins)
            recorder.look()
            for _ in range(2):
                for _ in range(50):
                    run_on(slot.program, frames.udp4_frame(bytes(300)))
                recorder.take(0, 1000)
            recorder.close()
        finally:
            lab.close()
    blocks = list(pcapng_blocks.blocks(stream.getvalue()))
    packets = [options for kind, _, options in blocks if kind == 6]
    counters = [options for kind, _, options in blocks if kind == 5][0]
    drops = [int.from_bytes(options[4], 'little') for options in packets if 4 in options]
    assert len(packets) < 100 and sum(drops) == 100 - len(packets)
    seen, selected, lost, written = (
        int.from_bytes(counters[code], 'little') for code in (4, 6, 5, 8))
    assert (seen, selected, lost + written, written) == (100, 100, 100, len(packets))


def test_a_capture_follows_interfaces_that_come_and_go(pins, templates):
    with veth_lab() as (near, far), near.entered():
        stream = io.BytesIO()
        recorder = xdp_capture.Recorder(stream, pins)
        recorder.look()
        with pytest.raises(CaptureError, match='capture: no sampler is loaded there'):
            recorder.sources.require()
        for _ in range(2):
            lab = Lab(near, far, pins, templates)
            try:
                lab.sampler.apply(SamplerSettings(every=1))
                recorder.look()
                for _ in range(10):
                    run_on(lab.slot.program, frames.udp6_frame())
            finally:
                lab.close()
            recorder.look()  # what it had taken by then is not lost
        recorder.close()
    kinds = [kind for kind, _, _ in pcapng_blocks.blocks(stream.getvalue())]
    assert kinds == [0x0a0d0d0a, 1, *[6] * 10, 1, *[6] * 10, 5, 5]
    assert [text.partition(' ')[0] for _, text in recorder.accounts()] == ['10', '10']


def test_a_stream_that_takes_little_at_a_time(lab):
    class Slow(io.BytesIO):
        """Takes seven bytes at most."""

        def write(self, data):
            """Write some."""
            return super().write(data[:7])
    stream = Slow()
    writer = SampleWriter(stream)
    writer.add_interface('near0', lab.sampler.status())
    writer.write_statistics()
    writer.flush()
    assert [kind for kind, _, _ in pcapng_blocks.blocks(stream.getvalue())] == [0x0a0d0d0a, 1, 5]
