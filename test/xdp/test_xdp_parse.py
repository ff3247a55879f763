"""What the root finds in the headers of frames, seen from a slot behind it."""

import ipaddress
import random
import struct
from types import SimpleNamespace

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.filter.headers import read_headers
from ipc_bypass.xdp.root import RootArray, RootSettings
import pytest
from support import frames
from support.frames import (
    DONT_FRAGMENT,
    ethernet,
    extension,
    FAR,
    FAR_V6,
    fragment6,
    ICMP,
    ip4,
    ip6,
    MORE_FRAGMENTS,
    NEAR,
    NEAR_V6,
    NO_NEXT,
    TCP,
    tcp,
    UDP,
    udp,
    udp4_frame,
    udp6_frame,
)
from support.slot_sources import NOTE, own
from support.xdp import PASS, run_on

FACTS = {'fragment': 1, 'first': 2, 'vlan': 4, 'options': 8, 'ports': 16, 'frame_error': 32,
         'ip_error': 64, 'transport_error': 128, 'multicast': 256, 'whole': 512}
IP6, ROUTING, FRAGMENT, AH, HOP_BY_HOP, DESTINATION = 0x86dd, 43, 44, 51, 0, 60
GROUP = bytes.fromhex('01005e000001')
V6 = FAR_V6, NEAR_V6


class Noting:
    """An array whose first slot notes the facts."""

    def __init__(self, array, slot):
        self.array, self._slot = array, slot

    def facts(self, frame):
        """Return the facts of a frame, `flags` as a set of names."""
        assert run_on(self.array.root_program, frame) == (PASS, frame)
        noted = self._slot.maps['noted']
        found = noted.value.unpack(syscall.map_lookup(noted.fd, bytes(4), noted.value_size))
        found['flags'] = {name for name, bit in FACTS.items() if found['flags'] & bit}
        return SimpleNamespace(**found)

    def addresses(self):
        """Return the source and the destination of the last frame, as text."""
        words = syscall.map_lookup(self._slot.maps['addresses'].fd, bytes(4), 32)
        found = (ipaddress.ip_address(words[at:at + 16]) for at in (0, 16))
        return tuple(str(address.ipv4_mapped or address) for address in found)


@pytest.fixture(scope='module', params=['off', 'on'], ids=['plain', 'frags'])
def noting(request, templates, tmp_path_factory):
    interface = SimpleNamespace(index=1, mtu=1500)
    with RootArray(interface, RootSettings(frags=request.param, pin_directory=''),
                   templates=templates) as array:
        yield Noting(array, array.load(3, own(tmp_path_factory.mktemp('slot'), NOTE,
                                              'note_facts')))


def v6(payload, protocol=UDP, **options):
    return ethernet(ip6(payload, protocol=protocol, **options), ethertype=IP6)


def v6_udp(payload=b'x' * 8):
    return udp(payload, addresses=V6)


def authentication(payload, protocol):
    """Return an AH of 24 bytes before a payload (RFC 4302)."""
    return struct.pack('!BBHII', protocol, 4, 0, 1, 1) + bytes(12) + payload


def with_lengths(udp_length, payload=b'x' * 8):
    datagram = udp(payload)
    return datagram[:4] + struct.pack('!H', udp_length) + datagram[6:]


CASES = {
    # name: (frame, flags, l3, l4, payload), and family and protocol where they are others
    'udp4': (udp4_frame(), 'ports', 14, 34, 42),
    'udp6': (udp6_frame(), 'ports whole', 14, 54, 62),
    'tcp4': (ethernet(ip4(tcp(b'x'), protocol=TCP)), 'ports', 14, 34, 54),
    'tcp6': (v6(tcp(b'x', addresses=V6), TCP), 'ports whole', 14, 54, 74),
    'one tag': (udp4_frame(vlans=[(0x8100, 7)]), 'ports vlan', 18, 38, 46),
    'two tags': (udp6_frame(vlans=[(0x88a8, 7), (0x8100, 9)]), 'ports vlan whole', 22, 62, 70),
    'do not fragment': (ethernet(ip4(udp(), fragment=DONT_FRAGMENT)), 'ports whole', 14, 34, 42),
    'group': (ethernet(ip4(udp()), destination=GROUP), 'ports multicast', 14, 34, 42),
    'options': (ethernet(ip4(udp(), options=bytes(40))), 'ports options', 14, 74, 82),
    'icmp': (ethernet(ip4(frames.icmp_echo(), protocol=ICMP)), '', 14, 34, 0, 4, ICMP),
    'first fragment': (ethernet(ip4(with_lengths(2000), fragment=MORE_FRAGMENTS)),
                       'ports fragment first', 14, 34, 42),
    'middle fragment': (ethernet(ip4(b'y' * 24, fragment=MORE_FRAGMENTS | 5)), 'fragment', 14,
                        34, 0),
    'last fragment': (ethernet(ip4(b'y' * 24, fragment=9)), 'fragment', 14, 34, 0),
    'padding': (udp4_frame(b'') + bytes(18), 'ports', 14, 34, 42),
    'extensions': (v6(extension(extension(authentication(v6_udp(), UDP), AH, units=2),
                                DESTINATION), HOP_BY_HOP), 'ports options whole', 14,
                   54 + 8 + 16 + 24, 54 + 8 + 16 + 24 + 8),
    'first fragment, v6': (v6(fragment6(with_lengths(2000), UDP, more=True), FRAGMENT),
                           'ports fragment first options whole', 14, 62, 70),
    'first fragment, headers before and behind': (
        v6(extension(fragment6(extension(with_lengths(2000), UDP), DESTINATION, more=True),
                     FRAGMENT), ROUTING),
        'ports fragment first options whole', 14, 78, 86),
    'middle fragment, v6': (v6(fragment6(b'y' * 24, UDP, offset=3, more=True), FRAGMENT),
                            'fragment options whole', 14, 62, 0),
    'last fragment, v6': (v6(fragment6(b'y' * 24, TCP, offset=3), FRAGMENT),
                          'fragment options whole', 14, 62, 0, 6, TCP),
    'atomic fragment': (v6(fragment6(v6_udp(), UDP), FRAGMENT), 'ports options whole', 14, 62,
                        70),
    'no next header': (v6(b'', NO_NEXT), 'whole', 14, 54, 0, 6, NO_NEXT),
    'as many headers as are walked': (
        v6(b''.join(struct.pack('!BB6x', DESTINATION if at else UDP, 0)
                    for at in range(5, -1, -1)) + v6_udp(), DESTINATION),
        'ports options whole', 14, 102, 110),
    'jumbogram': (v6(extension(v6_udp(), UDP), HOP_BY_HOP)[:18] + bytes(2)
                  + v6(extension(v6_udp(), UDP), HOP_BY_HOP)[20:],
                  'ports options whole', 14, 62, 70),
    'large': (udp4_frame(b'x' * 1400), 'ports', 14, 34, 42),
}
NEITHER = {
    # name: (frame, flags)
    'arp': (ethernet(bytes(28), destination=b'\xff' * 6, ethertype=0x0806), 'multicast'),
    'three tags': (udp4_frame(vlans=[(0x8100, 1)] * 3), 'vlan'),
    'version 5': (ethernet(b'\x55' + ip4(udp())[1:]), 'ip_error'),
    'version 4 as v6': (ethernet(ip4(udp(b'x' * 40)), ethertype=IP6), 'ip_error'),
    'short header': (ethernet(b'\x44' + ip4(udp())[1:]), 'ip_error'),
    'total below header': (ethernet(ip4(udp())[:2] + b'\0\x13' + ip4(udp())[4:]), 'ip_error'),
    'total beyond frame': (ethernet(ip4(udp())[:2] + b'\0\x1d' + ip4(udp())[4:]), 'ip_error'),
    'options beyond total': (ethernet(b'\x4f' + ip4(udp(b'x' * 8))[1:]), 'ip_error'),
    'payload beyond frame': (v6(v6_udp())[:-1], 'ip_error whole'),
    'seven headers': (v6(b''.join(struct.pack('!BB6x', DESTINATION if at else UDP, 0)
                                  for at in range(6, -1, -1)) + v6_udp(), DESTINATION),
                      'ip_error options whole'),
    'a header too long': (v6(extension(v6_udp(), UDP, units=125), DESTINATION),
                          'ip_error options whole'),
    'header beyond payload': (v6(extension(b'', UDP)[:1] + b'\1' + bytes(6), DESTINATION)
                              + bytes(40), 'ip_error options whole'),
}
TRANSPORT = {
    'udp length 7': ip4(with_lengths(7)),
    'udp length beyond packet': ip4(with_lengths(17)),
    'tcp header of 16 bytes': ip4(tcp()[:12] + b'\x40' + tcp()[13:], protocol=TCP),
    'tcp options beyond packet': ip4(tcp()[:12] + b'\x60' + tcp()[13:], protocol=TCP),
    'tcp in a tiny fragment': ip4(tcp()[:8], protocol=TCP, fragment=MORE_FRAGMENTS),
}


@pytest.mark.parametrize('name', CASES)
def test_facts(noting, name):
    frame, flags, l3, l4, payload, *others = CASES[name]
    found = noting.facts(frame)
    is_v6 = 'whole' in flags and name != 'do not fragment'
    family, protocol = others or (6 if is_v6 else 4, TCP if 'tcp' in name else UDP)
    # DF stands for all of IPv6, too.
    assert found.flags - {'whole'} == set(flags.split()) - {'whole'}
    assert ('whole' in found.flags) == ('whole' in flags)
    assert (found.family, found.protocol, found.l3_offset, found.l4_offset,
            found.payload_offset) == (family, protocol, l3, l4, payload)
    ports = (1000, 7400) if 'ports' in flags else (0, 0)
    assert (found.source_port, found.destination_port) == ports
    assert found.vlan == (7 if 'vlan' in flags else 0)
    assert found.ethertype == (IP6 if family == 6 else 0x0800)
    assert (found.length, found.magic) == (len(frame), 0x1bc1)
    assert noting.addresses() == (V6 if family == 6 else (FAR, NEAR))


@pytest.mark.parametrize('name', NEITHER)
def test_neither_v4_nor_v6(noting, name):
    frame, flags = NEITHER[name]
    found = noting.facts(frame)
    # Of IPv6 that is cut, what was read before may stand.
    assert found.flags - {'whole'} == set(flags.split()) - {'whole'}
    assert (found.family, found.protocol, found.payload_offset) == (0, 0, 0)
    assert (found.source_port, found.destination_port) == (0, 0)
    assert noting.addresses() == ('::', '::')


@pytest.mark.parametrize('name', TRANSPORT)
def test_transport_errors(noting, name):
    # What follows the packet in the frame belongs to no header.
    found = noting.facts(ethernet(TRANSPORT[name]) + b'\xff' * 60)
    assert 'transport_error' in found.flags
    assert 'ports' not in found.flags
    assert (found.family, found.source_port, found.destination_port) == (4, 0, 0)


@pytest.mark.parametrize('name', CASES)
def test_cut_at_every_byte(noting, name):
    frame, _flags, l3, *_others = CASES[name]
    padding = 18 if name == 'padding' else 0
    for length in range(14, len(frame) - padding):
        found = noting.facts(frame[:length])
        if length < l3:
            assert found.flags - {'vlan', 'multicast'} == {'frame_error'}
        elif name != 'jumbogram':
            assert 'ip_error' in found.flags
        else:
            # It does not say how long it is.
            assert found.flags & {'ip_error', 'transport_error'} or length >= 70
        if name != 'jumbogram':
            assert (found.family, 'ports' in found.flags) == (0, False)
        assert found.length == length


@pytest.mark.parametrize('transport, header', [(UDP, 8), (TCP, 20)])
@pytest.mark.parametrize('family', [4, 6])
def test_payload_of_every_length(noting, transport, header, family):
    """The IP packet is whole, whatever it holds, and the frame goes on behind it."""
    content = {UDP: udp(), TCP: tcp()}[transport]
    for length in range(header + 1):
        if transport == UDP and length < header:
            part = content[:length]
        else:
            part = content[:length]
        packet = (ip4(part, protocol=transport) if family == 4
                  else ip6(part, protocol=transport))
        found = noting.facts(ethernet(packet + bytes(range(200, 220)),
                                      ethertype=0x0800 if family == 4 else IP6))
        expected = {'ports'} if length == header else {'transport_error'}
        assert found.flags - {'whole'} == expected, length
        assert found.family == family


def test_facts_of_a_frame_larger_than_a_page(templates, tmp_path):
    """Such a frame comes in several buffers, and only programs that know of them see it."""
    frame = udp4_frame(b'x' * 8900)
    interface = SimpleNamespace(index=1, mtu=9000)
    with RootArray(interface, RootSettings(pin_directory=''), templates=templates) as array:
        assert array.frags
        noting = Noting(array, array.load(3, own(tmp_path, NOTE, 'note_facts')))
        found = noting.facts(frame)
        assert (found.length, found.flags) == (len(frame), {'ports'})
        assert (found.payload_offset, found.destination_port) == (42, 7400)


def test_as_the_model_reads_it(noting):
    """Mutated frames: the program and the model in Python find the same."""
    chance = random.Random(40)
    whole = [case[0] for case in (*CASES.values(), *NEITHER.values()) if len(case[0]) < 300]
    whole += [ethernet(packet) for packet in TRANSPORT.values()]
    for _ in range(3000):
        frame = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 2, 4))):
            # Headers, more often than payload.
            at = min(chance.randrange(len(frame)), chance.randrange(len(frame)))
            frame[at] = chance.choice((0, 6, 17, 44, 51, 60, 255, chance.randrange(256)))
        frame = bytes(frame[:chance.choice((len(frame), chance.randint(14, len(frame))))])
        found, model = noting.facts(frame), read_headers(frame)
        for name in ('family', 'protocol', 'ethertype', 'l3_offset', 'l4_offset',
                     'payload_offset', 'source_port', 'destination_port', 'vlan', 'length'):
            assert getattr(found, name) == getattr(model, name), (name, frame.hex())
        flags = {'fragment': model.fragment, 'first': model.first_fragment,
                 'vlan': model.tagged, 'options': model.options, 'ports': model.ports,
                 'frame_error': model.frame_error, 'ip_error': model.ip_error,
                 'transport_error': model.transport_error, 'multicast': model.multicast,
                 'whole': model.dont_fragment}
        assert found.flags == {name for name, on in flags.items() if on}, frame.hex()
