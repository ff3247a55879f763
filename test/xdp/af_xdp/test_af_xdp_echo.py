"""The echo between two namespaces: UDP 4242, ARP, ping and neighbours, seen by tcpdump."""

from contextlib import contextmanager
import re
import socket
import struct
import subprocess
import threading

from af_xdp_tools import every_frame_is_somewhere, running, settle
from ipc_bypass.xdp.af_xdp.answers import Answers
from ipc_bypass.xdp.af_xdp.echo import Echo
from ipc_bypass.xdp.af_xdp.pipeline import Pipeline
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.steered import SteeredInterface
from ipc_bypass.xdp.steering import SteeringSettings
import pytest
from support.frames import NEAR, NEAR_MAC, NEAR_V6
from support.waiting import PATIENCE, wait_until

STEERED = SteeringSettings((4242,), neighbours=True, echo=True)


@pytest.fixture
def echo(lab, templates):
    """Yield (Pipeline, Echo, SteeredInterface) of an echo that runs on near0."""
    with lab[0].entered():
        steered = SteeredInterface('near0', AfXdpSettings(frames=512, ring_entries=128),
                                   STEERED, pin_directory='', templates=templates)
    handler = Echo([4242], Answers(NEAR_MAC, [NEAR, NEAR_V6]))
    with steered, Pipeline(steered.sockets, handler) as made:
        with running(made):
            yield made, handler, steered
        settle(made)
        every_frame_is_somewhere(made)


@contextmanager
def tcpdump(space, name, *expression):
    """Yield a list that grows by the lines of what tcpdump sees."""
    process = subprocess.Popen(
        space.command('tcpdump', '-i', name, '-n', '-l', '--immediate-mode', *expression),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []

    def read():
        for line in process.stdout:
            seen.append(line)

    reader = threading.Thread(target=read)
    try:
        for line in process.stderr:
            if 'listening on' in line:
                break
        reader.start()
        yield seen
    finally:
        process.terminate()
        process.wait(PATIENCE)
        reader.join()
        process.stdout.close()
        process.stderr.close()


def ask(space, address, payload, port=4242):
    """Return what comes back to a UDP socket."""
    with space.entered():
        sock = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET,
                             socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(PATIENCE)
        sock.sendto(payload, (address, port))
        return sock.recv(2048)


def ping(space, address):
    """Return the payload of the answer to an echo request."""
    v6 = ':' in address
    with space.entered():
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW,
                             58 if v6 else 1)
    with sock:
        sock.settimeout(PATIENCE)
        request = struct.pack('!BBHHH', 128 if v6 else 8, 0, 0, 4242, 1) + b'are you there'
        if not v6:
            words = struct.unpack(f'!{(len(request) + 1) // 2}H', request + bytes(1))
            total = sum(words)
            total = (total & 0xffff) + (total >> 16)
            request = request[:2] + struct.pack('!H', ~(total + (total >> 16)) & 0xffff) \
                + request[4:]
        sock.sendto(request, (address, 0))
        while True:
            answer = sock.recv(2048)
            message = answer if v6 else answer[20:]
            if message[0] == (129 if v6 else 0) and message[4:6] == request[4:6]:
                return message[8:]


def test_the_far_side_sees_udp_4242_come_back(lab, echo):
    made, handler, steered = echo
    with tcpdump(lab[1], 'far0', 'udp', 'port', '4242') as seen:
        for number in range(20):
            payload = f'number {number}'.encode()
            assert ask(lab[1], (NEAR, NEAR_V6)[number % 2], payload) == payload
        near = f'({re.escape(NEAR)}|{NEAR_V6})'
        for way in (rf'> {near}\.4242: UDP', rf'{near}\.4242 > .*: UDP'):
            wait_until(lambda way=way: sum(bool(re.search(way, line)) for line in seen) == 20,
                       f'tcpdump saw {way}')
    # The far kernel had to find the MAC first, by ARP and by a neighbour solicitation.
    assert handler.answered >= 2
    assert steered.steering.sockets() == {0: 0}
    counters = steered.steering.counters()
    assert counters['redirected'] == made.counters[made.sockets[0]].rx_packets
    assert counters['no_socket'] == 0


def test_arp_ping_and_neighbours_are_answered_by_us_alone(lab, echo):
    made, handler, _ = echo
    # The near kernel cannot have: what it would answer is taken from it.
    with tcpdump(lab[1], 'far0', 'arp', 'or', 'icmp', 'or', 'icmp6') as seen:
        for address in (NEAR, NEAR_V6):
            assert ping(lab[1], address) == b'are you there'
        for said in (f'Reply {NEAR} is-at {NEAR_MAC.hex(":")}', 'neighbor advertisement',
                     'ICMP echo reply', 'ICMP6, echo reply'):
            wait_until(lambda said=said: any(said in line for line in seen),
                       f'tcpdump saw {said}')
    assert handler.answered == made.counters[made.sockets[0]].transmitted >= 4


def test_many_at_once_come_back_whole(lab, echo):
    with lab[1].entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(PATIENCE)
        assert ask(lab[1], NEAR, b'first') == b'first'
        for burst in range(30):
            sent = {bytes([burst, number]) * (number + 1) for number in range(30)}
            for payload in sent:
                sock.sendto(payload, (NEAR, 4242))
            assert {sock.recv(2048) for _ in sent} == sent


def test_what_is_not_enrolled_goes_to_the_kernel(lab, echo):
    with lab[0].entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, lab[1].entered():
        with lab[0].entered():
            receiver.bind((NEAR, 4243))
        receiver.settimeout(PATIENCE)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.sendto(b'for the kernel', (NEAR, 4243))
            assert receiver.recv(100) == b'for the kernel'


def test_when_the_sockets_are_gone_the_kernel_has_it_all(lab, templates):
    with lab[0].entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((NEAR, 4242))
        receiver.settimeout(PATIENCE)
        steered = SteeredInterface('near0', AfXdpSettings(frames=64, ring_entries=16),
                                   SteeringSettings((4242,)), pin_directory='',
                                   templates=templates)
    with receiver, steered:
        steered.sockets[0].close()
        wait_until(lambda: not steered.steering.sockets(), 'the entry is gone')
        with lab[1].entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(5):
                sender.sendto(b'nobody else', (NEAR, 4242))
                assert receiver.recv(100) == b'nobody else'
        assert steered.steering.counters()['no_socket'] == 5


def test_the_far_end_computes_checksums_while_it_lasts(lab, templates):
    def computing():
        said = subprocess.run(lab[1].command('ethtool', '-k', 'far0'), capture_output=True,
                              text=True, check=True).stdout
        return 'tx-checksumming: off' in said

    subprocess.run(lab[1].command('ethtool', '-K', 'far0', 'tx', 'on'), check=True,
                   capture_output=True)
    assert not computing()
    with lab[0].entered():
        steered = SteeredInterface('near0', AfXdpSettings(frames=64, ring_entries=16),
                                   STEERED, pin_directory='', templates=templates)
    with steered:
        assert computing()
    assert not computing()
