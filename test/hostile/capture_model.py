"""The program of the UDP path by PROG_TEST_RUN, held against a model of what it may take."""

import errno
import ipaddress
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.pool import layout
from ipc_bypass.udp.destinations import Destinations
from ipc_bypass.udp.objects import CAPTURE, UdpObjects
from ipc_bypass.udp.settings import UdpSettings
from support import frames

#: (port: (action, rule id)); MIRRORED_LATE has no ring.
DIVERTED, MIRRORED, UNOWNED = 7410, 7411, 7412
_RULES = ((DIVERTED, 'divert', 1, 0), (MIRRORED, 'mirror', 2, 1), (UNOWNED, 'divert', 3, None))
_HERE = (frames.NEAR, frames.NEAR_V6, '127.0.0.1', '::1')
_FAR = ('10.9.0.1', 'fd00:9::1', '239.255.0.1', 'ff02::1', '127.255.255.255', '255.255.255.255')
_WALKED = (0, 43, 44, 60)
_TAKEN, _GO_ON = 2, 1
_ALL = bytes(14)  # what PROG_TEST_RUN takes for the Ethernet header, but for its type


def packets():
    """Return whole packets of many kinds: IPv4, IPv6, options, extensions, fragments."""
    found = []
    for port in (DIVERTED, MIRRORED, UNOWNED, 53):
        for where in (*_HERE, *_FAR):
            six = ':' in where
            make = frames.ip6 if six else frames.ip4
            for size in (0, 32, 3000):
                content = frames.udp(b'RTPS' + bytes(size), destination_port=port, addresses=(
                    (frames.FAR_V6, where) if six else (frames.FAR, where)))
                found.append(make(content, destination=where))
            if six:
                found += [
                    make(frames.extension(content, 17, units=2), protocol=60, destination=where),
                    make(frames.fragment6(content, 17), protocol=44, destination=where),
                    make(frames.fragment6(content, 17, more=True), protocol=44,
                         destination=where)]
            else:
                found += [make(content, options=bytes(8), destination=where),
                          make(content, fragment=0x2000, destination=where),
                          make(content, fragment=3, destination=where)]
    return found


def run_where_whole(program, frame):
    """Return what PROG_TEST_RUN does, None where the kernel tries no IP header that is cut."""
    try:
        return syscall.prog_test_run(program, frame)
    except OSError as error:
        if error.errno != errno.EINVAL or len(frame) >= 14 + 40:
            raise
        return None


def mutated_packets(chance):
    """Yield packets: whole ones, with bytes of their headers changed, and cut off."""
    whole = packets()
    while True:
        packet, kind = bytearray(chance.choice(whole)), chance.random()
        if kind < 0.75:
            for _ in range(chance.choice((1, 1, 2, 4))):
                at = min(chance.randrange(len(packet)), chance.randrange(80), len(packet) - 1)
                packet[at] = chance.choice((0, 1, 17, 43, 44, 60, 0x45, 0x60, 0xff,
                                            chance.randrange(256)))
        if kind < 0.3:
            del packet[chance.randint(0, len(packet)):]
        yield bytes(packet)


class Udp:
    """What a packet says, by the model: `port` None where no rule can be meant."""

    def __init__(self, packet, ethertype):
        self.port, self.plain, self.payload, self.destination = None, False, b'', None
        if ethertype == 0x0800:
            self._read_v4(packet)
        elif ethertype == 0x86dd:
            self._read_v6(packet)

    def _read_v4(self, packet):
        if len(packet) < 20 or packet[9] != 17:
            return
        fragment, = struct.unpack_from('!H', packet, 6)
        if fragment & 0x1fff:
            return
        self.destination = ipaddress.ip_address(packet[16:20])
        self._read_udp(packet, (packet[0] & 15) * 4, not fragment & 0x2000)

    def _read_v6(self, packet):
        if len(packet) < 40:
            return
        following, at, plain = packet[6], 40, True
        for _ in range(8):
            if following not in _WALKED:
                break
            if len(packet) < at + 4:
                return
            kind, following = following, packet[at]
            if kind == 44:
                if packet[at + 2] or packet[at + 3] & 0xf8:
                    return
                plain &= not packet[at + 3] & 1
                at += 8
            else:
                plain &= not (kind == 43 and packet[at + 3])
                at += (packet[at + 1] + 1) * 8
        if following == 17:
            self.destination = ipaddress.ip_address(packet[24:40])
            self._read_udp(packet, at, plain)

    def _read_udp(self, packet, at, plain):
        if len(packet) < at + 8:
            return
        _, self.port, length, _ = struct.unpack_from('!4H', packet, at)
        self.plain = plain and length >= 8 and at + length <= len(packet)
        self.payload = packet[at + 8:at + length] if self.plain else b''

    @property
    def here(self):
        """Return whether a divert may take it: unicast, to an address of this host."""
        to = self.destination
        if to.version == 4 and int(to) >> 24 == 127:
            return str(to) != '127.255.255.255'
        return str(to) in _HERE


class Lab:
    """The program with a pool, two owners that read at once, and the host's addresses."""

    def __init__(self):
        self.objects = UdpObjects(UdpSettings(pool_size=4 << 20, max_consumers=2))
        objects, self.memory = self.objects, self.objects.memory
        self.program = {spec.name: fd for spec, fd in objects.attachments()}[CAPTURE]
        objects.set('active', 1)
        objects.set('heartbeat_ns', 1 << 60)
        objects.set_use_limit(90)
        objects.set_rules(_RULES)
        for ring in range(2):
            self.memory.rings[ring]['heartbeat_ns'] = time.monotonic_ns()
        self._destinations = Destinations(objects.maps['destinations'].fd)
        self._destinations.claim([f'{address}/{128 if ":" in address else 32}'
                                  for address in _HERE[:2]], 0)
        self.verdicts = {'taken': 0, 'mirrored': 0, 'passed': 0, 'no_rule': 0}

    def run(self, packet, ethertype):
        """
        Run a packet and hold the verdict, the slot and the descriptor against the model.

        Return whether the kernel takes such a packet for a trial.
        """
        data = _ALL[:12] + struct.pack('!H', ethertype) + packet
        heads = self.memory.rings['head'].tolist()
        ran = run_where_whole(self.program, data)
        if ran is None:
            return False
        answer, left = ran
        assert answer in (_GO_ON, _TAKEN), answer
        udp, grown = Udp(packet, ethertype), self._grown(heads)
        diverts = udp.port == DIVERTED and udp.plain and udp.here
        mirrors = udp.port == MIRRORED and udp.plain
        assert (answer == _TAKEN) == diverts, (packet.hex(), answer)
        assert grown == ([0] if diverts else [1] if mirrors else []), (packet.hex(), grown)
        if grown:
            self._read(grown[0], udp, packet)
        name = ('taken' if diverts else 'mirrored' if mirrors else
                'passed' if udp.port in (DIVERTED, MIRRORED, UNOWNED) else 'no_rule')
        self.verdicts[name] += 1
        assert left.endswith(packet)
        return True

    def _grown(self, heads):
        return [ring for ring, head in enumerate(self.memory.rings['head'].tolist())
                if head != heads[ring]]

    def _read(self, ring, udp, packet):
        memory = self.memory
        head = int(memory.rings[ring]['head'])
        found = memory.descriptors[ring, (head - 1) & (memory.ring_entries - 1)]
        slot, sequence = int(found['slot']), int(found['sequence'])
        assert found['number'] == head and slot < sum(memory.slots)
        assert int(self.objects.claims[slot]) == sequence << 1
        assert memory.sequences([slot])[0] == sequence
        assert found['length'] == found['original_length'] == len(udp.payload)
        assert bytes(memory.payload(slot, len(udp.payload))) == udp.payload, packet.hex()
        assert found['destination_port'] == udp.port and found['family'] == (
            udp.destination.version)
        raw = udp.destination.packed
        assert found['destination_address'].tobytes()[-len(raw):] == raw
        memory.rings[ring]['cursor'] = head
        memory.rings[ring]['released'][int(slot >= memory.slots[layout.SMALL])] += 1
        memory.released[slot] = sequence


def run(chance, count):
    """Run so many packets; return what became of them, which the program counted alike."""
    lab = Lab()
    try:
        for packet in mutated_packets(chance):
            first = packet[0] >> 4 if packet else 0
            ethertype = (0x86dd if first == 6 else 0x0800) if chance.random() < 0.97 else \
                chance.choice((0x86dd, 0x0800, 0x0806))
            count -= lab.run(packet.ljust(1, b'\0'), ethertype)
            if not count:
                break
        totals = lab.objects.totals()
        assert totals['captured'] == [lab.verdicts['mirrored'], lab.verdicts['taken']]
        assert sum(totals['passed_by_reason']) == lab.verdicts['passed'], totals
        assert min(lab.verdicts.values()) > 0
        return lab.verdicts
    finally:
        lab.objects.close()
