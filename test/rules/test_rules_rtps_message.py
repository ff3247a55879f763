"""
The facts of RTPS messages: of real peers against tshark, of built ones, and of any bytes at all.

Real messages are those of Cyclone DDS and Fast DDS; built ones have every kind in both orders of
bytes; the rest is made by hypothesis and by changing real ones.
"""

from datetime import datetime, timezone
import random
import struct
import tempfile

from hypothesis import given, HealthCheck, settings, strategies
from hypothesis.configuration import set_hypothesis_home_dir
from ipc_bypass.rules import rtps_message
from ipc_bypass.rules.rtps_message import KINDS, parse_rtps, RtpsMessage
import pytest
from support.rtps_peers import heard, messages, tshark, udp_payload, VENDORS, write_pcap

ERRORS = {'', rtps_message.SHORT_HEADER, rtps_message.SUBMESSAGE_LENGTH,
          rtps_message.SHORT_SUBMESSAGE, rtps_message.STRAY_BYTES}
PREFIX = bytes(range(1, 13))
HEADER = b'RTPS' + bytes((2, 5, 0x01, 0x10)) + PREFIX
# Kinds with a reader, a writer and a sequence number.
WITH_ENTITIES = {'DATA', 'DATA_FRAG', 'HEARTBEAT', 'HEARTBEAT_FRAG', 'ACKNACK', 'NACK_FRAG', 'GAP'}
# Hypothesis keeps files in the current folder, from the collection of the tests on.
_HOME = tempfile.TemporaryDirectory(prefix='ipc_bypass_hypothesis_')
set_hypothesis_home_dir(_HOME.name)
# Nothing is kept between runs: no files, and a failure names its input.
FUZZ = settings(max_examples=400, deadline=None, database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MUTATIONS = 20_000


def submessage(number, content, *, little=True, flags=0, length=None):
    """Return a submessage; `length` replaces what its header says."""
    order = '<' if little else '>'
    return struct.pack(f'{order}BBH', number, flags | little,
                       len(content) if length is None else length) + content


def entities(sequence, *, little=True, before=b''):
    """Return reader 0x000004c7, writer 0x000003c2 and a sequence number."""
    order = '<' if little else '>'
    return (before + bytes.fromhex('000004c7000003c2')
            + struct.pack(f'{order}iI', sequence >> 32, sequence & 0xffffffff))


def checked(payload, length=None):
    """Return parse_rtps(), with what holds for any input asserted."""
    facts = parse_rtps(payload, length)
    if facts is None:
        assert bytes(payload[:4]) != b'RTPS'
        return None
    assert isinstance(facts, RtpsMessage)
    assert facts.error in ERRORS
    assert len(facts.guid_prefix) == 12
    assert len(facts.submessages) <= len(payload) // 4
    assert all(found.kind and found.length >= 0 for found in facts.submessages)
    assert len(facts.kinds) == len(facts.submessages)
    assert facts.carrier is None or facts.carrier in facts.submessages
    return facts


def nanoseconds(text):
    """Return tshark's 'Nov 20, 2026 17:01:04.471916840 UTC' as nanoseconds since 1970."""
    seconds, _, fraction = text.removesuffix(' UTC').partition('.')
    moment = datetime.strptime(seconds, '%b %d, %Y %H:%M:%S').replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 10**9 + int(fraction)


@pytest.mark.parametrize('vendor', VENDORS)
def test_real_messages_as_tshark_reads_them(vendor, tmp_path):
    """The same sender, kinds, entities and sequence numbers in every message of real peers."""
    packets = heard(vendor)
    path = tmp_path / 'heard.pcap'
    write_pcap(path, packets)
    fields = ('rtps.vendorId', 'rtps.version.major', 'rtps.version.minor', 'rtps.guidPrefix.src',
              'rtps.guidPrefix.dst', 'rtps.sm.id', 'rtps.sm.wrEntityId', 'rtps.sm.rdEntityId',
              'rtps.sm.seqNumber', '_ws.malformed')
    dissected = tshark(path, fields)
    assert len(dissected) == len(packets)
    for packet, theirs in zip(packets, dissected, strict=True):
        facts = checked(udp_payload(packet))
        assert facts.error == '' and not facts.truncated
        assert not theirs['_ws.malformed']
        # A participant's announcement has version and vendor once more, in its parameters.
        assert facts.vendor_id == int(theirs['rtps.vendorId'][0], 16) == VENDORS[vendor]
        assert facts.version == (int(theirs['rtps.version.major'][0]),
                                 int(theirs['rtps.version.minor'][0]))
        assert facts.guid_prefix.hex() == theirs['rtps.guidPrefix.src'][0]
        assert [found.number for found in facts.submessages] == [
            int(number, 16) for number in theirs['rtps.sm.id']]
        assert [found.prefix.hex() for found in facts.submessages if found.kind == 'INFO_DST'] \
            == theirs['rtps.guidPrefix.dst']
        those = [found for found in facts.submessages if found.kind in WITH_ENTITIES]
        assert [found.writer for found in those] == [
            int(number, 16) for number in theirs['rtps.sm.wrEntityId']]
        assert [found.reader for found in those] == [
            int(number, 16) for number in theirs['rtps.sm.rdEntityId']]
        numbers = iter(theirs['rtps.sm.seqNumber'])
        for found in those:
            assert found.sequence == int(next(numbers))
            if found.kind in ('HEARTBEAT', 'GAP'):
                next(numbers)  # the writer's last one, and the end of what the gap begins
        assert next(numbers, None) is None


@pytest.mark.parametrize('vendor', VENDORS)
def test_real_timestamps(vendor, tmp_path):
    """INFO_TS, to the nanosecond where tshark shows it."""
    packets = heard(vendor)
    path = tmp_path / 'heard.pcap'
    write_pcap(path, packets)
    found = []
    for packet, theirs in zip(
            packets, tshark(path, ('rtps.info_ts.timestamp',)), strict=True):
        ours = [submessage.timestamp for submessage in parse_rtps(udp_payload(packet)).submessages
                if submessage.kind == 'INFO_TS']
        found += ours
        assert ours == [nanoseconds(text) for text in theirs['rtps.info_ts.timestamp']]
    assert found


@pytest.mark.parametrize('little', [True, False])
def test_every_kind_in_both_orders(little):
    """Numbers follow the flag of their submessage, entity ids do not."""
    order = '<' if little else '>'
    data = struct.pack(f'{order}HH', 0, 16)
    facts = checked(HEADER + b''.join((
        submessage(0x09, struct.pack(f'{order}II', 1_800_000_000, 1 << 31), little=little),
        submessage(0x0e, PREFIX[::-1], little=little),
        submessage(0x0c, bytes(8) + PREFIX[::-1], little=little),
        submessage(0x15, entities(1 << 40, little=little, before=data), little=little),
        submessage(0x16, entities(7, little=little, before=data) + bytes(12), little=little),
        submessage(0x07, entities(1, little=little) + bytes(12), little=little),
        submessage(0x13, entities(8, little=little) + bytes(8), little=little),
        submessage(0x06, entities(3, little=little) + bytes(8), little=little),
        submessage(0x12, entities(9, little=little) + bytes(12), little=little),
        submessage(0x08, entities(4, little=little) + bytes(12), little=little),
        submessage(0x01, bytes(4), little=little),
        submessage(0x81, bytes(4), little=little),
        submessage(0x40, bytes(4), little=little))))
    assert facts[:4] == ((2, 5), 0x0110, 'Cyclone DDS', PREFIX)
    assert facts.error == ''
    assert facts.kinds == [
        'INFO_TS', 'INFO_DST', 'INFO_SRC', 'DATA', 'DATA_FRAG', 'HEARTBEAT', 'HEARTBEAT_FRAG',
        'ACKNACK', 'NACK_FRAG', 'GAP', 'PAD', 'VENDOR_0x81', 'UNKNOWN_0x40']
    assert facts.submessages[0].timestamp == 1_800_000_000_500_000_000
    assert [found.prefix for found in facts.submessages[1:3]] == [PREFIX[::-1]] * 2
    numbered = facts.submessages[3:10]
    assert {(found.reader, found.writer) for found in numbered} == {(0x4c7, 0x3c2)}
    assert [found.sequence for found in numbered] == [1 << 40, 7, 1, 8, 3, 9, 4]
    assert facts.carrier is facts.submessages[3]
    assert {found.little_endian for found in facts.submessages} == {little}


def test_length_zero():
    """It means 'to the end' for the last submessage, and 'nothing' for PAD and INFO_TS."""
    content = entities(5, before=bytes(4)) + bytes(100)
    facts = checked(HEADER + submessage(0x09, b'', flags=2) + submessage(0x01, b'')
                    + submessage(0x15, content, length=0))
    assert facts.kinds == ['INFO_TS', 'PAD', 'DATA']
    assert facts.submessages[0].timestamp is None
    assert [found.length for found in facts.submessages] == [0, 0, len(content)]
    assert facts.carrier.sequence == 5
    assert facts.error == ''


@pytest.mark.parametrize('payload, error, kinds', [
    (HEADER[:19], 'short_header', []),
    (HEADER, '', []),
    (HEADER + b'\x15\x01', 'stray_bytes', []),
    (HEADER + submessage(0x15, bytes(24), length=25), 'submessage_length', []),
    (HEADER + submessage(0x07, bytes(15)) + submessage(0x01, b''), 'short_submessage',
     ['HEARTBEAT']),
    (HEADER + submessage(0x09, bytes(7)), 'short_submessage', ['INFO_TS']),
    (HEADER + submessage(0x0e, bytes(11)), 'short_submessage', ['INFO_DST']),
])
def test_errors_have_names(payload, error, kinds):
    facts = checked(payload)
    assert (facts.error, facts.kinds, facts.truncated) == (error, kinds, False)


@pytest.mark.parametrize('payload', [b'', b'RTP', b'RTPX' + bytes(16), b'rtps' + bytes(100)])
def test_other_payloads(payload):
    assert checked(payload) is None


def test_names():
    """A number without a name is shown as a number."""
    assert rtps_message.vendor_name(0x010f) == 'Fast DDS'
    assert rtps_message.vendor_name(0x0199) == 'vendor 0x0199'
    assert rtps_message.entity_name(0x000100c2) == 'participants'
    assert rtps_message.entity_name(0x00000b02) == '00000b02'
    assert parse_rtps(HEADER[:6] + b'\x01\x99' + PREFIX).vendor == 'vendor 0x0199'


@pytest.mark.parametrize('vendor', VENDORS)
def test_first_bytes_of_real_messages(vendor):
    """A cut message says what is there, and nothing that the whole one does not say."""
    kinds = {}
    for message in messages(vendor):
        kinds.setdefault(tuple(parse_rtps(message).kinds), message)
    for message in kinds.values():
        whole = parse_rtps(message)
        ends = sorted({*range(min(len(message), 400)), *range(400, len(message), 97)})
        for end in ends:
            facts = checked(message[:end], len(message))
            if end < 4:
                assert facts is None
                continue
            assert facts.truncated and facts.error == ''
            if end < 20:
                continue
            assert facts.guid_prefix == whole.guid_prefix
            for ours, theirs in zip(facts.submessages, whole.submessages, strict=False):
                assert (ours.kind, ours.length) == (theirs.kind, theirs.length)
                assert all(mine in (None, theirs[place]) for place, mine in enumerate(ours))
            assert len(facts.submessages) <= len(whole.submessages)


@FUZZ
@given(strategies.binary(max_size=300), strategies.none() | strategies.integers(-9, 70_000))
def test_any_bytes(payload, length):
    checked(payload, length)
    checked(memoryview(b'RTPS' + payload), length)


@FUZZ
@given(strategies.binary(min_size=16, max_size=16), strategies.lists(strategies.tuples(
    strategies.sampled_from(sorted(KINDS)) | strategies.integers(0, 255),
    strategies.integers(0, 255), strategies.none() | strategies.integers(0, 65535),
    strategies.binary(max_size=60)), max_size=12), strategies.integers(0, 200))
def test_any_submessages(head, parts, cut):
    """Known kinds with any flags, contents and lengths, whole and cut."""
    payload = b'RTPS' + head + b''.join(
        submessage(number, content, little=bool(flags & 1), flags=flags, length=length)
        for number, flags, length, content in parts)
    facts = checked(payload)
    short = checked(payload[:max(4, len(payload) - cut)], len(payload))
    assert len(short.submessages) <= len(facts.submessages)


@pytest.mark.parametrize('vendor', VENDORS)
def test_changed_real_messages(vendor):
    """Bytes and bits of real messages changed, doubled, dropped: facts, and never an exception."""
    chosen = [message[:2000] for message in messages(vendor)]
    numbers = random.Random(20260)
    for _ in range(MUTATIONS):
        message = bytearray(numbers.choice(chosen))
        for _ in range(numbers.choice((1, 1, 2, 8))):
            # The headers are at the beginning, so most changes are as well.
            place = min(int(numbers.expovariate(1 / 40)), len(message) - 1)
            match numbers.randrange(4):
                case 0:
                    message[place] ^= 1 << numbers.randrange(8)
                case 1:
                    message[place] = numbers.choice((0, 1, 0x7f, 0x80, 0xff))
                case 2:
                    del message[place:place + numbers.randrange(1, 9)]
                case 3:
                    message[place:place] = message[place:place + 12]
            if not message:
                break
        checked(message, numbers.choice((None, len(message) + numbers.randrange(99))))


def test_most_submessages():
    """The largest datagram, full of the smallest submessages, is read to its end."""
    count = (65507 - 20) // 4
    facts = checked(HEADER + submessage(0x01, b'') * count)
    assert len(facts.submessages) == count
