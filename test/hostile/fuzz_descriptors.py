"""Descriptors that a hostile consumer wrote: in files, on topics, in the bridge."""

import io
import json

from ipc_bypass.cli.record import Recorder
from ipc_bypass.cli.tap import _json_line, Lines
from ipc_bypass.nodes.packet_events import packet_bypassed
from ipc_bypass.pool import layout
from ipc_bypass.pool.batch import Batch
from ipc_bypass.pool.consumer import Statistics
from ipc_bypass.pool.describe import Commands, datagrams
from ipc_bypass.udp.outcomes import POOL_OUTCOMES
from ipc_bypass.udp.packets import build_parts, parse_packet
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.resend import REASONS, Resender
from ipc_bypass.udp.ways import ways_of
from mutations import Values
import numpy as np
from rclpy.serialization import serialize_message
from support.file_pool import mapped
from support.pcapng_blocks import blocks

#: One of these inputs takes as long as so many of the others.
COST = 5
LONGEST = 2048
_SIZE = layout.DESCRIPTOR.itemsize
_PREFIXES, _NEAR = Prefixes(['10.9.0.0/16', 'fd00:9::/64']), Prefixes(['10.9.0.1/32'])
_OFFSET = 1_700_000_000_000_000_000
_commands, _lines = Commands(lambda pid: 'talker'), Lines(rtps=True, payload=True)
_resender = Resender()


def descriptor(**values):
    """Return the bytes of a sound descriptor with these members."""
    record = np.zeros(1, layout.DESCRIPTOR)
    sound = {'number': 1, 'sequence': 1, 'capture_ns': 1 << 40, 'slot': 1, 'length': 24,
             'source_port': 7411, 'destination_port': 7410, 'family': 4, 'action': 2,
             'rule_id': 7, 'original_length': 24, 'source_address': list(mapped('127.0.0.1')),
             'destination_address': list(mapped('10.9.0.2'))}
    for name, value in {**sound, **values}.items():
        record[name] = value
    return record.tobytes()


def seeds():
    """Yield a few descriptors each, and a payload."""
    payload = b'RTPS\x02\x03\x01\x0f' + bytes(12) + b'\x09\1\x08\0' + bytes(8)
    six = {'family': 6, 'source_address': list(mapped('::1')),
           'destination_address': list(mapped('fd00:9::2'))}
    yield bytes([0]) + descriptor() + payload
    yield bytes([1]) + descriptor(action=3) + descriptor(**six) + payload
    yield bytes([2]) + descriptor(flags=1, original_length=9000) + descriptor(flags=2) + \
        descriptor(flags=3, original_length=1 << 24) + payload
    yield bytes([1]) + descriptor(action=3, destination_address=list(mapped('10.9.0.1')),
                                  source_address=list(mapped('10.9.0.3'))) * 2 + payload
    yield bytes([0]) + descriptor(length=65507, original_length=65507) + payload


class Memory:
    """What a batch asks of a pool's memory, with one payload in every slot."""

    def __init__(self, payload, sequences):
        self._payload, self._sequences = payload, sequences

    def payload(self, _slot, length):
        """Return a payload, as long as the descriptor says and the slot is."""
        whole = self._payload.ljust(min(length, layout.SLOT_DATA[layout.LARGE]), b'\0')
        return memoryview(whole)[:length]

    def sequences(self, _slots):
        """Return what stands in the slots: the datagrams of the descriptors."""
        return self._sequences


class Observer:
    """What a Recorder asks of its consumer."""

    statistics = Statistics()

    @staticmethod
    def passed_by_reason():
        """Return what was not captured."""
        return {'inactive': 3}


def one(data):
    """Describe, publish, record and carry some descriptors."""
    values = Values(data)
    count = 1 + values.number() % 3
    head = values.take(count * _SIZE).ljust(count * _SIZE, b'\0')
    records = np.frombuffer(bytearray(head), layout.DESCRIPTOR)
    payload = values.rest()
    batch = Batch(records, Memory(payload, records['sequence'].copy()), statistics=Statistics())
    _describe(records, payload)
    _record(batch)
    _carry(records, batch)


def _describe(records, payload):
    for found in datagrams(records, _commands, _OFFSET):
        _lines(found, payload)
        json.loads(_json_line(found, payload))
    for record in records:
        serialize_message(packet_bypassed(record, payload, commands=_commands,
                                          receiver_of=lambda *_: None))


def _record(batch):
    stream = io.BytesIO()
    recorder = Recorder(Observer(), stream, snaplen=96, comments=True)
    written = recorder.take(batch)
    recorder.write_statistics()
    recorder.writer.flush()
    kinds = [kind for kind, *_ in blocks(stream.getvalue())]
    assert kinds.count(6) == written == recorder.account.written
    assert written + recorder.account.torn + sum(recorder.account.left_out.values()) == len(batch)
    assert len(stream.getvalue()) < 4096


def _carry(records, batch):
    for local in (False, True):
        ways = ways_of(records, _PREFIXES, _NEAR, local=local)
        chosen = ways.onward | ways.back | ways.astray
        assert not (ways.onward & ways.back).any() and not (chosen & ways.astray & ~chosen).any()
        assert int(chosen.sum()) + sum(ways.left.values()) == len(records)
        assert set(ways.left) <= set(POOL_OUTCOMES)
        places = np.flatnonzero(chosen)
        payloads = [bytes(batch.payload(place)) for place in places.tolist()]
        for (head, body), place in zip(build_parts(records[places], payloads), places,
                                       strict=True):
            packet = parse_packet(bytes(head) + body)
            assert packet is not None and packet.payload == payloads[list(places).index(place)]
    nobody = records.copy()
    nobody['sender_pid'] = 0  # else it is sent, from that process's namespace
    for number, record in enumerate(nobody):
        assert _resender.send(record, batch.payload(number)) in REASONS
