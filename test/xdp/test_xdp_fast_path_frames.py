"""The fast path's program on frames by PROG_TEST_RUN: every reason, and that the counts add up."""

import errno
import random
import struct

from fast_path_lab import grown, object_ids, total
from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.fast_path.containers import BridgePort, Container
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings, PROGRAM
import pytest
from support import frames
from support.frames import ethernet, FAR_MAC, ip4, ip6, NEAR_MAC, tcp, udp

#: Of the interface that PROG_TEST_RUN says frames came in at: the loopback.
HERE, THERE, BRIDGE = 1, 77, 99
UNSPEC, REDIRECT = 0xffffffff, 7
MAPPED = bytes(10) + b'\xff\xff'
NEAR = MAPPED + bytes([10, 124, 0, 1])
NEAR_V6 = bytes.fromhex('fd000124') + bytes(11) + b'\1'


def port(index, mac, *addresses, mtu=1500, bridge=BRIDGE):
    return BridgePort(index, f'port{index}', bridge, 'br0',
                      Container(0, 2, mac, mtu, addresses), '')


class Program:
    """A loaded program with tables as a test writes them."""

    def __init__(self, path):
        self.path, self.tables = path, path._tables
        self.fd = path._object.programs[PROGRAM]
        self.known = {HERE: port(HERE, FAR_MAC), THERE: port(THERE, NEAR_MAC, NEAR, NEAR_V6)}
        self.write(self.known)
        self.tables.set_active(True)
        self.tables.beat(1 << 62)

    def write(self, ports):
        self.tables.activate(self.tables.write(ports))

    def verdict(self, frame):
        """Return why a frame goes by the bridge, 'packets' where it is handed over."""
        before = self.path.counters()
        answer, left = syscall.prog_test_run(self.fd, frame)
        assert left == frame
        (name, count), = [(name, count) for name, count in grown(self.path, before).items()
                          if name not in ('bytes', 'moves')]
        assert count == 1
        assert answer == (REDIRECT if name == 'packets' else UNSPEC)
        return name.removeprefix('passed_')


@pytest.fixture(scope='module')
def loaded(leaks):
    with FastPath(FastPathSettings(udp_ports=('7400-7410',), tcp_ports=('5000',))) as path:
        path.load()
        leaks.note(object_ids(path))
        yield path


@pytest.fixture
def program(loaded):
    made = Program(loaded)
    yield made
    loaded._tables.write({})
    loaded.set_ports(udp=('7400-7410',), tcp=('5000',))


def test_enrolled_flows_are_handed_over(program):
    before = program.path.counters()
    frame = frames.udp4_frame(destination_port=7410)
    assert program.verdict(frame) == 'packets'
    assert grown(program.path, before) == {'packets': 1, 'bytes': len(frame)}
    assert program.verdict(frames.udp6_frame(destination_port=7400)) == 'packets'
    for ports in ({'destination_port': 5000}, {'source_port': 5000, 'destination_port': 9}):
        assert program.verdict(ethernet(ip4(tcp(**ports), protocol=6))) == 'packets'


@pytest.mark.parametrize('frame', [
    frames.udp4_frame(destination_port=7411), frames.udp4_frame(destination_port=5000),
    frames.udp4_frame(source_port=7400, destination_port=9), frames.udp6_frame(
        destination_port=7399), ethernet(ip4(tcp(destination_port=7400), protocol=6)),
    ethernet(ip4(frames.icmp_echo(), protocol=1)), ethernet(bytes(46), ethertype=0x0806),
    ethernet(ip6(bytes(8), protocol=58), ethertype=0x86dd)])
def test_other_flows_are_not(program, frame):
    assert program.verdict(frame) == 'not_enrolled'


@pytest.mark.parametrize(('reason', 'frame'), [
    ('multicast', ethernet(ip4(udp()), destination=b'\x01\x00\x5e\x00\x00\x01')),
    ('multicast', ethernet(ip4(udp()), destination=b'\xff' * 6)),
    ('fragment', ethernet(ip4(udp(), fragment=frames.MORE_FRAGMENTS))),
    ('fragment', ethernet(ip4(udp(), fragment=185))),
    ('fragment', ethernet(ip6(frames.fragment6(udp(), 17), protocol=44), ethertype=0x86dd)),
    ('options', ethernet(ip4(udp(), options=bytes(4)))),
    ('options', ethernet(ip6(frames.extension(udp(), 17), protocol=0), ethertype=0x86dd)),
    ('no_entry', ethernet(ip4(udp()), destination=b'\x02\0\0\0\0\x33')),
    ('same_port', ethernet(ip4(udp()), destination=FAR_MAC)),
    ('address', ethernet(ip4(udp(), destination='10.124.0.9'))),
    ('address', ethernet(ip6(udp(), destination='fd00:124::9'), ethertype=0x86dd)),
    ('source', ethernet(ip4(udp()), source=b'\x02\0\0\0\0\x44')),
    ('too_big', frames.udp4_frame(b'x' * 1473)),
    ('packets', frames.udp4_frame(b'x' * 1472)),
    ('headers', ethernet(ip4(udp())[:23])),
    ('headers', ethernet(ip6(udp())[:43], ethertype=0x86dd)),
    ('not_enrolled', frames.udp4_frame(vlans=((0x8100, 5),)))])
def test_every_reason(program, reason, frame):
    assert program.verdict(frame) == reason


def test_an_unknown_port(program):
    program.write({THERE: program.known[THERE]})
    assert program.verdict(frames.udp4_frame()) == 'unknown_port'


def test_withdrawn_ports_and_no_activity(program):
    program.path.set_ports(udp=('1',))
    assert program.verdict(frames.udp4_frame()) == 'not_enrolled'
    program.path.set_ports(udp=('7400',))
    assert program.verdict(frames.udp4_frame()) == 'packets'
    program.tables.set_active(False)
    assert program.verdict(frames.udp4_frame()) == 'inactive'
    program.tables.set_active(True)
    program.tables.beat(1)
    assert program.verdict(frames.udp4_frame()) == 'stale'


def test_a_source_that_belongs_elsewhere_ends_its_entry(program):
    before = program.path.counters()['moves']
    assert program.verdict(ethernet(ip4(udp()), source=NEAR_MAC)) == 'moved'
    assert program.verdict(frames.udp4_frame()) == 'no_entry'
    assert program.tables.moved() == [THERE]
    assert program.verdict(ethernet(ip4(udp()), source=NEAR_MAC)) == 'moved'
    assert program.path.counters()['moves'] == before + 1, 'counted once'
    program.write(program.known)  # after the next look
    assert program.verdict(frames.udp4_frame()) == 'packets'


def test_an_entry_that_was_given_up_while_it_was_written_stays_out(program):
    program.tables.disable([THERE])
    written = program.tables.write(program.known)
    assert written == [THERE]
    assert program.verdict(frames.udp4_frame()) == 'no_entry', 'not activated yet'
    assert program.verdict(ethernet(ip4(udp()), source=NEAR_MAC)) == 'moved'
    program.tables.activate(written)
    assert program.verdict(frames.udp4_frame()) == 'no_entry'


def test_a_source_out_of_use(program):
    program.tables.disable([HERE])
    assert program.verdict(frames.udp4_frame()) == 'source'


def test_a_port_that_is_only_looked_at(program):
    only = BridgePort(HERE, 'eth1', BRIDGE, 'br0', None, 'it is no veth')
    program.write({HERE: only, THERE: program.known[THERE]})
    assert program.verdict(frames.udp4_frame()) == 'source'
    assert program.verdict(ethernet(ip4(udp()), source=NEAR_MAC)) == 'moved'
    assert not program.tables.in_use(THERE)


def test_other_bridges_are_other_worlds(program):
    program.write({HERE: program.known[HERE],
                   THERE: port(THERE, NEAR_MAC, NEAR, bridge=BRIDGE + 1)})
    assert program.verdict(frames.udp4_frame()) == 'no_entry'
    assert program.verdict(ethernet(ip4(udp()), source=NEAR_MAC)) == 'source'
    assert program.tables.in_use(THERE)


def test_a_mac_that_goes_from_port_to_port(program):
    third = THERE + 1
    program.write({**program.known, third: port(third, b'\x02\0\0\0\0\x55', NEAR)})
    program.write({**program.known, THERE: port(THERE, b'\x02\0\0\0\0\x55', NEAR),
                   third: port(third, NEAR_MAC, NEAR)})
    for mac in (NEAR_MAC, b'\x02\0\0\0\0\x55'):
        assert program.verdict(ethernet(ip4(udp()), destination=mac)) == 'packets'


def test_more_ports_than_there_is_room_for(leaks):
    with FastPath(FastPathSettings(max_ports=2)) as path:
        path.load()
        leaks.note(object_ids(path))
        tables = path._tables
        ports = {index: port(index, bytes([2, 0, 0, 0, 0, index]), NEAR) for index in (3, 4, 5)}
        assert tables.write(ports) == [3, 4]
        assert not tables.has(5)
        del ports[3]
        assert 5 in tables.write(ports)


def test_random_frames_add_up(program):
    chosen = random.Random(4)
    seeds = [frames.udp4_frame(), frames.udp6_frame(), ethernet(ip4(tcp(), protocol=6)),
             ethernet(ip6(frames.extension(udp(), 17), protocol=60), ethertype=0x86dd)]
    before, count, ran = total(program.path.counters()), 6000, 0
    for number in range(count):
        frame = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randrange(6)):
            frame[chosen.randrange(len(frame))] = chosen.randrange(256)
        if number % 3 == 0:
            frame = frame[:chosen.randrange(14, len(frame) + 1)]
        try:
            answer, _ = syscall.prog_test_run(program.fd, bytes(frame))
        except OSError as error:
            assert error.errno == errno.EINVAL  # newer kernels try no IP header that is cut
            continue
        ran += 1
        assert answer in (UNSPEC, REDIRECT)
    assert ran > count / 2
    assert total(program.path.counters()) == before + ran


def test_tables_stand_in_network_byte_order(program):
    entry = program.path._object.maps['stations']
    (key, value), = [(key, entry.value.unpack(value)) for key, value in syscall.map_items(
        entry.fd, entry.key_size, entry.value_size) if NEAR_MAC in key]
    assert struct.unpack('=I', key[:4]) == (BRIDGE,)
    assert struct.pack('=8I', *value['address'][:8]) == NEAR + NEAR_V6
    assert (value['ifindex'], value['addresses'], value['mtu']) == (THERE, 2, 1500)
