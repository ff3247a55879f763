"""What programs write for user space: ring buffers, samples, traced sends, BTF."""

import mmap
import os
import struct

from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.trace.records import RECORD, unpack
from ipc_bypass.xdp.limiter_layout import LIMIT
from ipc_bypass.xdp.ring_buffer import RingBuffer
from ipc_bypass.xdp.sampler import _sample
from ipc_bypass.xdp.sampler_layout import SAMPLE, SETTINGS_SIZE, SNAP
from ipc_bypass.xdp.sampler_settings import SamplerSettings
from mutations import Values

LONGEST = 4096
_PAGE = mmap.PAGESIZE
_RING = 4096


def _btf():
    """Return the BTF of `struct pair { int first; long second[2]; }` and a typedef of it."""
    strings = b'\0int\0long\0pair\0first\0second\0pair_t\0'
    at = {name: strings.index(b'\0' + name + b'\0') + 1 for name in (
        b'int', b'long', b'pair', b'first', b'second', b'pair_t')}
    types = b''.join((
        struct.pack('=IIII', at[b'int'], 1 << 24, 4, 32 | 1 << 24),
        struct.pack('=IIII', at[b'long'], 1 << 24, 8, 64 | 1 << 24),
        struct.pack('=IIIIII', 0, 3 << 24, 0, 2, 1, 2),
        struct.pack('=III', at[b'pair'], 4 << 24 | 2, 24),
        struct.pack('=III', at[b'first'], 1, 0), struct.pack('=III', at[b'second'], 3, 64),
        struct.pack('=III', at[b'pair_t'], 8 << 24, 4)))
    return struct.pack('=HBBIIIII', 0xeb9f, 1, 0, 24, 0, len(types), len(types),
                       len(strings)) + types + strings


_BTF = _btf()
_file = os.memfd_create('fuzz_ring', os.MFD_CLOEXEC)
os.ftruncate(_file, 2 * _PAGE + 2 * _RING)
_shared = mmap.mmap(_file, 2 * _PAGE + 2 * _RING)
_ring = RingBuffer(_file, _RING, least=SAMPLE.size, most=SAMPLE.size + SNAP)


def seeds():
    """Yield what is read, each with a byte that says what it is."""
    sample = SAMPLE.pack(*(b'' if isinstance(value, bytes) else 0
                           for value in SAMPLE.unpack(bytes(SAMPLE.size))))
    record = struct.pack('=II', len(sample) + 16, 0) + sample + bytes(16)
    yield b'\0' + struct.pack('=QQ', 0, len(record) + 7 & ~7) + record
    yield b'\0' + struct.pack('=QQ', 0, 3 * (len(record) + 7 & ~7)) + record.ljust(
        len(record) + 7 & ~7, b'\0') * 3
    yield b'\0' + struct.pack('=QQ', 0, 64) + struct.pack('=II', 16 | 1 << 31, 0)
    yield b'\1' + RECORD.pack(1, 2, bytes(16), bytes(16), 7411, 7410, 4, 17, 4, 4, 1) + b'data'
    yield b'\1' + SamplerSettings(every=3).packed()
    yield b'\1' + bytes(LIMIT.size)
    yield b'\2' + _BTF


def one(data):
    """Read it by what the first byte says."""
    values = Values(data)
    (_read_ring, _read_records, _read_btf)[values.number() % 3](values)


def _read_ring(values):
    consumed, produced = values.number(8), values.number(8)
    content = values.rest()[:2 * _RING]
    _shared[:8] = consumed.to_bytes(8, 'little')
    _shared[_PAGE:_PAGE + 8] = produced.to_bytes(8, 'little')
    _shared[2 * _PAGE:2 * _PAGE + len(content)] = content
    _ring._place = consumed
    for _ in range(4):
        for record in _ring.read(64):
            assert SAMPLE.size <= len(record) <= SAMPLE.size + SNAP
            _sample(record)
    _ring.skip()


def _read_records(values):
    data = values.rest()
    if len(data) >= RECORD.size:
        send = unpack(data)
        assert len(send.data) <= len(data) - RECORD.size
    if len(data) >= SETTINGS_SIZE:
        for rule in SamplerSettings.unpacked(data[:SETTINGS_SIZE]).rules:
            str(rule)


def _read_btf(values):
    try:
        btf = Btf(values.rest())
        for name in ('pair', 'pair_t', 'int'):
            try:
                identifier = btf.struct_id(name)
                StructLayout.from_btf(btf, identifier).dtype_dict()
                btf.offset(name, 'second')
                btf.bit_field(name, 'first')
            except BypassError:
                continue
    except ValueError:
        return
