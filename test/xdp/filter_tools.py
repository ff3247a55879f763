"""Frames for the filter, rules at random, and the program with maps of its own."""

from collections import Counter
from contextlib import contextmanager
import ipaddress
import struct
import threading

from ipc_bypass.kernel import capabilities, syscall
from ipc_bypass.xdp.filter.filter import Filter
from ipc_bypass.xdp.filter.model import DROP, Model, PASS, TX, verdict_of
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.kinds import SHARED_MAPS, slot_program
from ipc_bypass.xdp.templates import Templates
import pytest

ANSWERS = {1: DROP, 2: PASS, 3: TX}
SLOT = 2
MACS = bytes.fromhex('020000000002' '020000000001')
GROUP_MACS = bytes.fromhex('01005e000001' '020000000001')
UDP, TCP, ICMP, ICMP6 = 17, 6, 1, 58
RTPS = b'RTPS\x02\x03\x01\x10' + bytes(24)
TEMPLATES = Templates()


class Rig:
    """The filter behind the root, not attached to anything, and the model with its rules."""

    def __init__(self, program, maps):
        self.program, self.maps, self.filter = program, maps, Filter(maps)
        self.model = Model(FilterSettings(), [])

    def apply(self, *rules, **settings):
        """Put rules and settings in force, in the program and in the model."""
        self.filter.apply(FilterSettings(rules=rules, **settings))
        self.model = Model(self.filter.settings, self.filter.rules())

    def run(self, frame):
        """Return (verdict, the frame as it is then) of the program."""
        answer, after = syscall.prog_test_run(self.program, frame)
        return ANSWERS[answer], after

    def judge(self, frame):
        """Return the verdict, the same in the program and in the model."""
        before = self.filter.status()
        verdict, after = self.run(frame)
        decision = self.model.judge(frame)
        grown = difference(before, self.filter.status())
        expected = {decision.outcome: 1}
        if decision.rule:
            expected[decision.rule.id] = 1
        assert grown == expected, (frame.hex(), grown, decision)
        assert verdict == verdict_of(decision.outcome, self.filter.settings)
        if verdict == TX:
            assert after == decision.answer
        return verdict

    def agree(self, frames):
        """Run many frames: verdicts and counters are the model's. Return what was counted."""
        before, expected = self.filter.status(), Counter()
        for frame in frames:
            verdict, after = self.run(frame)
            decision = self.model.judge(frame)
            assert verdict == verdict_of(decision.outcome, self.filter.settings), (
                [str(rule) for rule in self.model.rules], self.filter.settings, frame.hex(),
                decision)
            assert verdict != TX or after == decision.answer
            expected[decision.outcome] += 1
            if decision.rule:
                expected[decision.rule.id] += 1
        grown = self.filter.status()
        assert difference(before, grown) == dict(expected), self.filter.settings
        assert grown.packets == before.packets + len(frames)
        return expected

    def outcome(self, frame):
        """Return the outcome of a frame, the same in the program and in the model."""
        self.judge(frame)
        return self.model.judge(frame).outcome


def difference(before, after):
    """Return what was counted between two statuses: {outcome or rule id: packets}."""
    grown = {name: after.outcomes[name] - before.outcomes[name] for name in after.outcomes}
    known = {rule.id: rule.packets for rule in before.rules}
    grown |= {rule.id: rule.packets - known.get(rule.id, 0) for rule in after.rules}
    return {name: packets for name, packets in grown.items() if packets}


@contextmanager
def rig(frags=False):
    """Yield a Rig: root and filter with maps of their own, attached to nothing."""
    needs_privileges()
    with TEMPLATES.root(frags).instantiate(frags=frags) as root:
        shared = {name: root.maps[name].fd for name in SHARED_MAPS}
        with TEMPLATES.slot(slot_program('filter'), SLOT, frags).instantiate(
                reuse=shared, frags=frags) as loaded:
            syscall.map_update(shared['slots'], struct.pack('=I', SLOT),
                               struct.pack('=I', loaded.programs['xdp_filter']))
            yield Rig(root.programs['xdp_root'], loaded.maps)


@contextmanager
def running(action):
    """Do something again and again in a thread; yields what returns how often, at the end."""
    stop, turns = threading.Event(), [0]

    def work():
        while not stop.is_set():
            action()
            turns[0] += 1
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: turns[0] if stop.is_set() else None
    finally:
        stop.set()
        thread.join()


def needs_privileges():
    """Skip where a capability is missing, with its name."""
    lacking = capabilities.missing(['CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'])
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))


def ethernet(payload, ethertype, tags=(), macs=MACS):
    """Return a frame; `tags` are (ethertype, id)."""
    middle = b''.join(struct.pack('>HH', kind, number) for kind, number in tags)
    return macs + middle + struct.pack('>H', ethertype) + payload


def udp(source_port, destination_port, payload=b'x' * 20, length=None):
    """Return a UDP datagram with its header."""
    return struct.pack('>HHHH', source_port, destination_port,
                       8 + len(payload) if length is None else length, 0) + payload


def tcp(source_port, destination_port, payload=b'', words=5):
    """Return a TCP segment with its header, of so many words."""
    return struct.pack('>HHIIBBHHH', source_port, destination_port, 1, 2, words << 4, 0x18, 512,
                       0, 0) + bytes(4 * max(0, words - 5)) + payload


def ip4(body, protocol=UDP, source='10.1.0.1', destination='10.2.0.1', *, fragment=0, options=b'',
        tags=(), macs=MACS):
    """Return a frame of IPv4; `fragment` are the 16 bits of flags and offset."""
    header = struct.pack(
        '>BBHHHBBH4s4s', 0x40 | 5 + len(options) // 4, 0, 20 + len(options) + len(body), 7,
        fragment, 64, protocol, 0, ipaddress.ip_address(source).packed,
        ipaddress.ip_address(destination).packed)
    return ethernet(header + options + body, 0x0800, tags, macs)


def ip6(body, protocol=UDP, source='fd00:1::1', destination='fd00:2::1', *, extensions=(),
        tags=(), macs=MACS):
    """Return a frame of IPv6; `extensions` are (number, bytes from the third byte on)."""
    inner, following = body, protocol
    for number, rest in reversed(extensions):
        size = (len(rest) + 2) // 8 - 1 if number != 51 else (len(rest) + 2) // 4 - 2
        inner = bytes((following, 0 if number == 44 else size)) + rest + inner
        following = number
    header = struct.pack('>IHBB16s16s', 6 << 28, len(inner), following, 64,
                         ipaddress.ip_address(source).packed,
                         ipaddress.ip_address(destination).packed)
    return ethernet(header + inner, 0x86dd, tags, macs)


def fragment6(offset, more):
    """Return the fragment header of IPv6 for `ip6`; the offset in units of 8 bytes."""
    return 44, struct.pack('>HI', offset << 3 | more, 99)
