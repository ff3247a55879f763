"""20,000 frames, at random and mutated, under rules at random: the program does as the model."""

from collections import Counter
import random
import struct

import filter_tools as tools
from filter_tools import ip4, ip6, rig, RTPS
from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.rules import parse
import pytest

PORTS = (0, 1, 22, 53, 7399, 7400, 7401, 7410, 7500, 9000, 65535)
ADDRESSES = {
    4: ('10.0.0.1', '10.1.0.1', '10.1.2.3', '10.1.2.4', '192.168.1.1', '224.0.0.1',
        '239.255.0.1', '255.255.255.255', '0.0.0.0', '127.0.0.1'),
    6: ('fd00::1', 'fd00:1::1', 'fd00:1:2::3', 'fd00:1:2::4', 'fe80::1', 'ff02::1', '::', '::1',
        '::ffff:10.1.2.3')}
PREFIXES = {4: ('0.0.0.0/0', '10.0.0.0/8', '10.1.0.0/16', '10.1.2.0/24', '10.1.2.3',
                '10.1.2.2/31', '224.0.0.0/4', '192.168.1.1'),
            6: ('::/0', 'fd00::/16', 'fd00:1::/32', 'fd00:1:2::/48', 'fd00:1:2::3', 'ff00::/8',
                '::ffff:0:0/96', 'fe80::1')}
PROTOCOLS = (tools.UDP, tools.TCP, tools.ICMP, tools.ICMP6, 2, 89)
RULE_SETS, FRAMES = 40, 500


def random_rule(chance):
    """Return the text of a rule, which may be refused."""
    words = [chance.choice(('allow', 'deny'))]
    if chance.random() < 0.6:
        words.append(chance.choice(('udp', 'udp', 'tcp')))
        for kind in ('dport', 'sport'):
            if chance.random() < (0.7 if kind == 'dport' else 0.25):
                first, last = sorted(chance.choices(PORTS, k=2))
                words += [kind, f'{first}-{last}' if chance.random() < 0.5 else str(first)]
        if words[1] == 'udp' and chance.random() < 0.25:
            words.append(chance.choice(('rtps', 'not-rtps')))
    elif chance.random() < 0.3:
        words += ['protocol', str(chance.choice(PROTOCOLS))]
    version = chance.choice((4, 6))
    for kind in ('from', 'to'):
        if chance.random() < (0.25 if len(words) > 1 else 0.7):
            words += [kind, chance.choice(PREFIXES[version])]
    return ' '.join(words)


def random_rules(chance, most):
    """Return rules that stand together."""
    table = FilterTable()
    for _ in range(chance.randint(0, most)):
        try:
            table.add(random_rule(chance))
        except RuleError:
            continue
    return [str(rule) for rule in table.rules()]


def random_settings(chance):
    """Return settings; answers to packets that are too big have tests of their own."""
    return {'default_action': chance.choice(('allow', 'deny')),
            **{name: chance.random() < 0.5 for name in
               ('frags_drop', 'malformed_drop', 'other_drop')}}


def random_frame(chance):
    """Return a frame, whole or mutated."""
    version, protocol = chance.choice((4, 6)), chance.choice((17, 17, 6, *PROTOCOLS))
    source, destination = chance.choices(ADDRESSES[version], k=2)
    payload = chance.choice((b'', RTPS, b'RTPX' + bytes(8), chance.randbytes(20), b'RTPS'))
    ports = chance.choices(PORTS, k=2)
    if protocol == tools.UDP:
        body = tools.udp(*ports, payload, chance.choice((None, None, None, 8, 11)))
    elif protocol == tools.TCP:
        body = tools.tcp(*ports, payload, chance.choice((5, 5, 8, 4)))
    else:
        body = chance.randbytes(chance.randint(0, 40))
    tags = tuple((chance.choice((0x8100, 0x88a8)), chance.randint(0, 4095))
                 for _ in range(chance.choice((0, 0, 0, 1, 2, 3))))
    if version == 4:
        frame = ip4(body, protocol, source, destination, tags=tags,
                    fragment=chance.choice((0, 0, 0, 0x4000, 0x2000, 0x2010, 0x0020)),
                    options=bytes(4 * chance.choice((0, 0, 0, 1, 10))))
    else:
        extensions = [chance.choice((
            (0, bytes(6)), (43, bytes(14)), (60, bytes(22)), (51, bytes(14)),
            tools.fragment6(chance.choice((0, 0, 16)), chance.randint(0, 1))))
            for _ in range(chance.choice((0, 0, 0, 1, 2, 7)))]
        frame = ip6(body, protocol, source, destination, extensions=extensions, tags=tags)
    return mutated(chance, frame) if chance.random() < 0.4 else frame


def mutated(chance, frame):
    """Return a frame with some bytes changed, or its end cut off, or more behind it."""
    block = bytearray(frame)
    for _ in range(chance.randint(0, 4)):
        block[chance.randrange(12, min(len(block), 80))] = chance.choice((0, 0xff, 0x45, 6, 17,
                                                                         chance.randrange(256)))
    if chance.random() < 0.3:
        del block[chance.randint(14, len(block)):]
    elif chance.random() < 0.3:
        block += chance.randbytes(chance.randint(1, 60))
    return bytes(block)


def test_the_program_does_as_the_model():
    chance, seen = random.Random(20), Counter()
    with rig() as made:
        for number in range(RULE_SETS):
            rules = random_rules(chance, most=60 if number % 2 else 8)
            made.apply(*rules, **random_settings(chance))
            seen += made.agree([random_frame(chance) for _ in range(FRAMES)])
    assert len([name for name in seen if isinstance(name, str)]) == 14, seen


@pytest.mark.parametrize('count', [1000, 4096])
def test_many_rules(count):
    """Up to the most rules that there may be, of every kind."""
    chance = random.Random(count)
    rules = [f'deny udp {chance.randrange(60000)}-{chance.randrange(60000, 65536)}'
             for _ in range(count // 4)]
    rules += [f'allow tcp sport {port}' for port in range(count // 4)]
    rules += [f'deny from 10.{number >> 8}.{number & 255}.0/{chance.randint(24, 30)}'
              for number in range(count // 4)]
    rules += [f'deny to fd00::{number:x}' for number in range(count // 8)]
    rules += [f'deny udp {number} from 10.0.0.0/{number % 20 + 8}' for number in range(count // 8)]
    rules = list({str(parse(text).conditions): text for text in rules}.values())
    with rig() as made:
        made.apply(*rules)
        frames = []
        for _ in range(300):
            block = bytearray(ip4(tools.udp(chance.randrange(1024), chance.randrange(65536))))
            struct.pack_into('>HH', block, 28, chance.randrange(8), chance.randrange(65536))
            frames += [bytes(block), ip6(tools.tcp(chance.randrange(count // 2), 5), 6,
                                         destination=f'fd00::{chance.randrange(1000):x}')]
        assert len(made.agree(frames)) > 100
