"""Real datagrams through an attached array: changes lose none, and a crash leaves nothing."""

import json
from pathlib import Path
import random
import socket
import struct
import subprocess
import threading
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.root import pin_name, RootArray, RootSettings
import pytest
from support.array_processes import ArrayProcess
from support.frames import NEAR
from support.slot_sources import ANSWER, NOTE, own
from support.waiting import PATIENCE, wait_until
from support.xdp import veth_lab

PORT = 7400
#: Datagrams a millisecond, and changes under them.
BURST, CHANGES = 10, 200
#: Packets that a veth's ring holds (drivers/net/veth.c).
RING = 256
NUMBER = struct.Struct('=Q')


class Load:
    """Numbered datagrams from one namespace to the other, until it is stopped."""

    def __init__(self, near, far):
        """Start to send."""
        with near.entered():
            self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Nobody reads while they come.
        self._sink.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
        self._sink.bind((NEAR, PORT))
        with far.entered():
            self._source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._source.connect((NEAR, PORT))
        self.sent, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        wait_until(lambda: self.sent, 'the first datagram is sent')

    def _send(self):
        while not self._stop.is_set():
            for _ in range(BURST):
                self._source.send(NUMBER.pack(self.sent))
                self.sent += 1
            time.sleep(0.001)

    def stop(self):
        """Return the numbers that arrived, in their order."""
        self._stop.set()
        self._thread.join(PATIENCE)
        self._source.send(NUMBER.pack(self.sent))
        self._sink.settimeout(PATIENCE)
        arrived = []
        while not arrived or arrived[-1] < self.sent:
            arrived += NUMBER.unpack(self._sink.recv(64))
        return arrived[:-1]

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End it."""
        self._stop.set()
        self._thread.join(PATIENCE)
        self._source.close()
        self._sink.close()


@pytest.fixture
def lab():
    """Yield (near, far) Namespace."""
    with veth_lab() as spaces:
        yield spaces


@pytest.fixture
def attached(lab, templates):
    """Yield an array that is attached natively to the receiving end."""
    with lab[0].entered():
        array = RootArray(find('near0'), RootSettings(pin_directory=''), templates=templates)
        with array:
            array.attach('native')
            yield array


def test_changes_of_slots_lose_nothing(lab, attached, templates, tmp_path):
    """200 times a slot is loaded, replaced or unloaded while datagrams come."""
    program = own(tmp_path, ANSWER, 'answer_port')
    chance = random.Random(4)
    done = {'load': 0, 'replace': 0, 'unload': 0}
    for index in (1, 2, 5):
        templates.slot(program, index, False)
    with Load(*lab) as load:
        for _ in range(CHANGES):
            index, before = chance.choice((1, 2, 5)), load.sent
            if index not in attached.slots:
                attached.load(index, program)
                done['load'] += 1
            elif chance.random() < 0.6:
                attached.load(index, program)
                done['replace'] += 1
            else:
                attached.unload(index)
                done['unload'] += 1
            if done['load'] % 4 == 0:
                wait_until(lambda before=before: load.sent > before, 'datagrams go on')
        arrived = load.stop()
        assert arrived == list(range(load.sent))
        assert min(done.values()) > 20, done
        assert load.sent > 1000
        # Every one came by the array.
        assert attached.counters()['root']['pass'] >= load.sent


def test_attaching_and_detaching_under_load(lab, attached):
    """A veth gives up its ring when the program goes, with what is in it, and nothing else."""
    rounds = 10
    with Load(*lab) as load:
        for _ in range(rounds):
            attached.detach()
            attached.attach('native')
        arrived = load.stop()
    assert arrived == sorted(set(arrived))
    assert load.sent - len(arrived) <= rounds * RING
    assert attached.attachment.attached


def test_killed_process_leaves_nothing_attached(lab, templates, pin_directory, tmp_path):
    near, _ = lab
    folder = Path(pin_directory())
    program = own(tmp_path, NOTE, 'note_facts')
    # `ip netns exec` would hide the bpffs behind a new /sys.
    inside = ['nsenter', f'--net=/run/netns/{near.name}']
    with near.entered():
        interface = find('near0')
        name = pin_name(interface.index)
    with ArrayProcess('near0', folder, program, prefix=inside) as process:
        root = xdp_of(near)['id']
        with Load(*lab) as load:
            reached = load.sent
            wait_until(lambda: load.sent > reached + 100, 'datagrams go through the array')
            process.kill()
            wait_until(lambda: not xdp_of(near), 'nothing is attached')
            reached = load.sent
            wait_until(lambda: load.sent > reached + 100, 'the interface carries on')
            arrived = load.stop()
        assert arrived == sorted(set(arrived))
        assert load.sent - len(arrived) <= RING
        # What is left is pinned, and nothing else.
        assert {root, process.objects['program']} <= set(syscall.prog_ids())
        assert (folder / name / 'slot2_noted').exists()
        with near.entered(), RootArray(interface, RootSettings(pin_directory=str(folder)),
                                       templates=templates) as array:
            array.attach('native')
            wait_until(lambda: not {root, process.objects['program']} & set(syscall.prog_ids()),
                       "the earlier process's programs are gone")
            assert not (folder / name / 'slot2_noted').exists()
            assert xdp_of(near)['id'] not in (0, root)
            with Load(*lab) as load:
                wait_until(lambda: load.sent > 100, 'datagrams go through the next array')
                assert load.stop() == list(range(load.sent))
            assert array.counters()['root']['pass'] >= load.sent
    assert not folder.exists()
    assert not xdp_of(near)


def xdp_of(space):
    """Return what `ip` says of the program on near0, {} where none is."""
    done = subprocess.run(['ip', '-n', space.name, '-j', 'link', 'show', 'near0'], check=True,
                          capture_output=True, text=True)
    return json.loads(done.stdout)[0].get('xdp', {}).get('prog', {})
