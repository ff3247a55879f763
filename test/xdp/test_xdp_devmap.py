"""The slot of devmap forwarding: on frames, and between containers on a real bridge."""

from contextlib import ExitStack
import os
import random
import socket
import subprocess

from fast_path_lab import drain, Lab, OTHER_PORT, PORT, total
from ipc_bypass.kernel import instructions, syscall
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.xdp.devmap import Devmap, DevmapForwarding
from ipc_bypass.xdp.fast_path.containers import BridgePort, Container
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.templates import Templates
import pytest
from support import frames
from support.frames import ethernet, FAR_MAC, ip4, ip6, NEAR_MAC, tcp, udp
from support.waiting import wait_until
from support.xdp import PASS, REDIRECT, run_on

MAPPED = bytes(10) + b'\xff\xff'
NEAR = MAPPED + bytes([10, 124, 0, 1])
NEAR_V6 = bytes.fromhex('fd000124') + bytes(11) + b'\1'
PORTS = {'udp': [(7400, 7410)], 'tcp': [(5000, 5000)]}


@pytest.fixture(scope='module')
def templates():
    return Templates()


@pytest.fixture
def loaded(templates):
    with templates.slot(slot_program('devmap'), 5, False).instantiate() as made:
        yield made


@pytest.fixture
def devmap(loaded):
    made = Devmap(loaded.maps)
    made.enroll(PORTS)
    made.set_active(True)
    made.beat(1 << 62)
    made.set_source(FAR_MAC)
    made.put(BridgePort(77, 'port1', 9, 'br0', Container(0, 2, NEAR_MAC, 1500, (NEAR, NEAR_V6)),
                        ''))
    return made


def verdict(loaded, devmap, frame):
    """Return why a frame went on, 'packets' where it is forwarded."""
    before = devmap.counters()
    answer, left = run_on(loaded.programs['xdp_devmap'], frame)
    assert left == frame
    (name,) = [name for name, count in devmap.counters().items()
               if count != before[name] and name != 'bytes']
    assert answer == (REDIRECT if name == 'packets' else PASS)
    return name.removeprefix('passed_')


@pytest.mark.parametrize(('reason', 'frame'), [
    ('packets', frames.udp4_frame()), ('packets', frames.udp6_frame(destination_port=7410)),
    ('packets', ethernet(ip4(tcp(source_port=5000, destination_port=9), protocol=6))),
    ('not_enrolled', frames.udp4_frame(destination_port=7411)),
    ('not_enrolled', ethernet(ip4(frames.icmp_echo(), protocol=1))),
    ('not_enrolled', ethernet(bytes(46), ethertype=0x0806)),
    ('not_enrolled', ethernet(ip4(udp())[:22])),
    ('vlan', frames.udp4_frame(vlans=((0x8100, 5),))),
    ('multicast', ethernet(ip4(udp()), destination=b'\x01\x00\x5e\x00\x00\x01')),
    ('fragment', ethernet(ip4(udp(), fragment=frames.MORE_FRAGMENTS))),
    ('fragment', ethernet(ip4(udp(), fragment=185))),
    ('options', ethernet(ip4(udp(), options=bytes(4)))),
    ('options', ethernet(ip6(frames.extension(udp(), 17), protocol=0), ethertype=0x86dd)),
    ('source', ethernet(ip4(udp()), source=NEAR_MAC)),
    ('no_entry', ethernet(ip4(udp()), destination=b'\x02\0\0\0\0\x33')),
    ('no_entry', ethernet(ip4(udp()), destination=FAR_MAC)),
    ('address', ethernet(ip4(udp(), destination='10.124.0.9'))),
    ('packets', frames.udp4_frame(b'x' * 1472)), ('too_big', frames.udp4_frame(b'x' * 1473))])
def test_every_reason(loaded, devmap, reason, frame):
    assert verdict(loaded, devmap, frame) == reason


def test_switches(loaded, devmap):
    devmap.beat(1)
    assert verdict(loaded, devmap, frames.udp4_frame()) == 'stale'
    devmap.set_source(None)
    assert verdict(loaded, devmap, frames.udp4_frame()) == 'inactive'
    devmap.set_source(FAR_MAC)
    devmap.set_active(False)
    assert verdict(loaded, devmap, frames.udp4_frame()) == 'inactive'
    devmap.set_active(True)
    devmap.beat(1 << 62)
    devmap.enroll({})
    assert verdict(loaded, devmap, frames.udp4_frame()) == 'not_enrolled'
    devmap.enroll(PORTS)
    devmap.clear()
    assert verdict(loaded, devmap, frames.udp4_frame()) == 'no_entry'


def test_frames_of_several_buffers(templates):
    with templates.slot(slot_program('devmap'), 5, True).instantiate(frags=True) as loaded:
        made = Devmap(loaded.maps)
        made.enroll(PORTS)
        made.set_active(True)
        made.beat(1 << 62)
        made.set_source(FAR_MAC)
        made.put(BridgePort(77, 'port1', 9, 'br0', Container(
            0, 2, NEAR_MAC, 9000, (NEAR, NEAR_V6)), ''))
        for frame, reason in ((frames.udp4_frame(bytes(8900)), 'packets'),
                              (frames.udp6_frame(bytes(8900)), 'packets'),
                              (frames.udp4_frame(bytes(8973)), 'too_big'),
                              (frames.udp4_frame(bytes(8900), destination_port=9),
                               'not_enrolled')):
            assert verdict(loaded, made, frame) == reason
        assert made.counters()['bytes'] == 2 * (8900 + 8 + 14) + 20 + 40


def test_random_frames_add_up(loaded, devmap):
    chosen, seeds = random.Random(5), [frames.udp4_frame(), frames.udp6_frame()]
    for _ in range(3000):
        frame = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randrange(5)):
            frame[chosen.randrange(len(frame))] = chosen.randrange(256)
        run_on(loaded.programs['xdp_devmap'], bytes(frame[:chosen.randrange(14, len(frame) + 1)]))
    assert total(devmap.counters()) == 3000


class Forwarding:
    """Two containers on a bridge, arrays on its ports, and a DevmapForwarding."""

    def __init__(self, stack, templates):
        self.lab = stack.enter_context(Lab())
        self.first, self.second = self.lab.add(), self.lab.add()
        self.lab.acquaint()
        self.keeper = DevmapForwarding(['br*'], heartbeat_ms=5000)
        self.devmaps = {}
        with self.lab.switch.entered():
            for container in self.lab.containers:
                array = stack.enter_context(RootArray(
                    find(container.port), RootSettings(pin_directory=''), templates=templates))
                slot = array.load(5, slot_program('devmap'))
                array.attach('native')
                devmap = self.devmaps[container.port] = Devmap(slot.maps)
                devmap.enroll({'udp': [(PORT, PORT)]})
                devmap.set_active(True)
                self.keeper.add(array.interface.index, devmap)
            stack.callback(self.keeper.close)
            self.keeper.start()

    def offload(self, container, *options):
        subprocess.run(container.command('ethtool', '-K', 'eth0', *options), check=True,
                       capture_output=True)

    def send(self, port=PORT, sender=None, receiver=None):
        """Send a datagram, and return it as it arrived."""
        sender, receiver = sender or self.first, receiver or self.second
        with receiver.socket(bind=port) as server, sender.socket() as client:
            client.sendto(b'payload', (receiver.address, port))
            return server.recv(100)

    def forwarded(self, container):
        return self.devmaps[container.port].counters()['packets']

    def in_use(self):
        wait_until(lambda: set(self.keeper.ports().values()) == {''}, 'in use')


@pytest.fixture
def forwarding(templates):
    with ExitStack() as stack:
        yield Forwarding(stack, templates)


def test_only_far_ends_that_can_take_frames(forwarding):
    wait_until(lambda: all('gro on' in reason for reason in forwarding.keeper.ports().values())
               and forwarding.keeper.ports(), 'refused')
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == 0
    for container in forwarding.lab.containers:
        forwarding.offload(container, 'gro', 'on')
    wait_until(lambda: all('tx off' in reason for reason in forwarding.keeper.ports().values()),
               'refused for checksums')
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == 0
    for container in forwarding.lab.containers:
        forwarding.offload(container, 'tx', 'off')
    forwarding.in_use()
    assert forwarding.send() == b'payload'
    assert forwarding.send(sender=forwarding.second, receiver=forwarding.first) == b'payload'
    assert forwarding.send(OTHER_PORT) == b'payload'
    assert [forwarding.forwarded(each) for each in forwarding.lab.containers] == [1, 1]


def test_changes_and_the_end(forwarding):
    for container in forwarding.lab.containers:
        forwarding.offload(container, 'gro', 'on', 'tx', 'off')
    forwarding.in_use()
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == 1
    # GRO goes off again: nothing may vanish.
    forwarding.offload(forwarding.second, 'gro', 'off')
    wait_until(lambda: 'gro on' in forwarding.keeper.ports()[forwarding.second.port], 'refused')
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == 1
    forwarding.offload(forwarding.second, 'gro', 'on')
    forwarding.in_use()
    # The MAC changes: who still sends to the old one reaches nobody, as by the bridge.
    forwarding.second.ip('link', 'set', 'eth0', 'address', '02:00:00:00:66:01')
    with forwarding.second.socket(bind=PORT) as server, forwarding.first.socket() as client:
        client.sendto(b'old', (forwarding.second.address, PORT))
        forwarding.in_use()
        forwarding.second.mac = '02:00:00:00:66:01'
        forwarding.first.knows(forwarding.second)
        client.sendto(b'new', (forwarding.second.address, PORT))
        assert server.recv(10) == b'new' and drain(server) == []
    forwarding.keeper.close()
    before = forwarding.forwarded(forwarding.first)
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == before


def test_two_bridges_are_two_worlds(forwarding):
    lab = forwarding.lab
    lab.bridge('br1')
    for container in lab.containers:
        forwarding.offload(container, 'gro', 'on', 'tx', 'off')
    forwarding.in_use()
    lab.switch.ip('link', 'set', forwarding.second.port, 'master', 'br1')
    wait_until(lambda: 'br1' in {port.bridge_name for port
                                 in forwarding.keeper._keeper.ports.values()}, 'noticed')
    forwarding.in_use()
    with forwarding.second.socket(bind=PORT) as server, forwarding.first.socket() as client:
        client.sendto(b'across', (forwarding.second.address, PORT))
        wait_until(lambda: forwarding.devmaps[forwarding.first.port].counters()[
            'passed_no_entry'], 'not forwarded')
        assert drain(server) == []
    with forwarding.first.socket(bind=PORT) as server, forwarding.second.socket() as client:
        client.sendto(b'back', (forwarding.first.address, PORT))
        wait_until(lambda: forwarding.devmaps[forwarding.second.port].counters()[
            'passed_no_entry'], 'not forwarded')
        assert drain(server) == []
    assert [forwarding.forwarded(each) for each in lab.containers] == [0, 0]


def test_the_same_macs_on_two_bridges(forwarding):
    lab = forwarding.lab
    lab.bridge('br1')
    for host, like in ((1, forwarding.first), (2, forwarding.second)):
        lab.add(host, mac=like.mac, bridge='br1')
    for container in lab.containers:
        forwarding.offload(container, 'gro', 'on', 'tx', 'off')
    wait_until(lambda: len(forwarding.keeper.ports()) == 4, 'four ports')
    forwarding.in_use()
    # One of the other bridge goes, and takes nothing of ours with it.
    lab.containers[3].unplug()
    wait_until(lambda: len(forwarding.keeper.ports()) == 3, 'three ports')
    assert forwarding.send() == b'payload'
    assert forwarding.forwarded(forwarding.first) == 1


def test_an_xdp_program_in_the_container_runs(forwarding):
    program = syscall.prog_load(ProgType.XDP, instructions.leave(PASS), name='inside')
    links = []
    for container in forwarding.lab.containers:
        forwarding.offload(container, 'tx', 'off')
        with container.entered():
            links.append(syscall.link_create(program, socket.if_nametoindex('eth0'),
                                             AttachType.XDP))
    try:
        forwarding.in_use()
        # What changed at the devices is looked at once more: until then it goes by the bridge.
        wait_until(lambda: forwarding.send() == b'payload'
                   and forwarding.forwarded(forwarding.first) > 0, 'one is forwarded')
    finally:
        for fd in (*links, program):
            os.close(fd)
