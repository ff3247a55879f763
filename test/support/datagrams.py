"""
Numbered datagrams: made, sent by the many, and accounted for one by one.

Each is one 64-bit word over and over, which holds its sender and its number: a datagram that is
made of two shows, and so does one that comes twice, or in the wrong length.
"""

import ctypes
import os

from ipc_bypass.pool import layout
import numpy as np

#: Bytes of datagrams, by their numbers in turn; divisors of the batch that is sent at once.
LENGTHS = (16, 64, 256, 1024)
#: Any odd number, and what undoes a multiplication by it.
_FACTOR = 0x9e3779b97f4a7c15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_NUMBER_BITS = 40
_BATCH = 64

_IOVEC = np.dtype([('base', '<u8'), ('length', '<u8')])
_MMSGHDR = np.dtype([
    ('name', '<u8'), ('name_length', '<u4'), ('padding', '<u4'), ('vectors', '<u8'),
    ('vector_count', '<u8'), ('control', '<u8'), ('control_length', '<u8'), ('flags', '<u4'),
    ('padding2', '<u4'), ('sent', '<u4'), ('padding3', '<u4')])


def words(sender, numbers):
    """Return the words that datagrams of a sender are made of, an array of uint64."""
    numbers = np.asarray(numbers, dtype=np.uint64)
    return (numbers | np.uint64(sender << _NUMBER_BITS)) * np.uint64(_FACTOR)


def content(sender, number, length):
    """Return one datagram of `length` bytes, a multiple of 8."""
    return words(sender, [number]).tobytes() * (length // 8)


class Many:
    """Sends numbered datagrams over a connected socket, 64 in one sendmmsg(2)."""

    def __init__(self, sock, sender, lengths=LENGTHS):
        """Prepare; `lengths` are multiples of 8, their number a divisor of 64."""
        self._sock, self._sender = sock, sender
        self._data = np.zeros((_BATCH, max(lengths) // 8), '<u8')
        self._vectors = np.zeros(_BATCH, _IOVEC)
        self._vectors['base'] = self._data.ctypes.data + \
            np.arange(_BATCH, dtype=np.uint64) * np.uint64(self._data.strides[0])
        self._vectors['length'] = np.resize(lengths, _BATCH)
        self._messages = np.zeros(_BATCH, _MMSGHDR)
        self._messages['vectors'] = self._vectors.ctypes.data + \
            np.arange(_BATCH, dtype=np.uint64) * np.uint64(_IOVEC.itemsize)
        self._messages['vector_count'] = 1
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._sendmmsg.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int

    def send(self, first, count):
        """Send `count` from number `first` on, both multiples of 64; raises OSError."""
        for start in range(first, first + count, _BATCH):
            self._data[:] = words(self._sender, np.arange(start, start + _BATCH))[:, None]
            done = 0
            while done < _BATCH:
                sent = self._sendmmsg(
                    self._sock.fileno(),
                    self._messages.ctypes.data + done * _MMSGHDR.itemsize, _BATCH - done, 0)
                if sent < 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
                done += sent


class Ledger:
    """Which datagrams came, how often, and what was wrong with them."""

    def __init__(self, senders, count, lengths=LENGTHS):
        """Expect numbers below `count` of senders 0 and on."""
        self.seen = np.zeros((senders, count), np.uint8)
        self.torn, self.strangers = 0, 0
        self._lengths = np.array(lengths)
        self._sources = {}

    def add(self, payload):
        """Take one payload, as a socket received it."""
        found = np.frombuffer(payload, '<u8')
        self._note(found[:1], np.array([len(payload)]))
        self.torn += not (found == found[0]).all()

    def add_batch(self, batch):
        """Take a Batch of the pool; descriptors are held against the payloads."""
        descriptors = batch.descriptors
        for kind, data in enumerate(batch._memory.data):
            rows = np.frombuffer(data, '<u8').reshape(-1, layout.SLOT[kind] // 8)
            first = 0 if kind == layout.SMALL else batch._memory.slots[layout.SMALL]
            mine = (descriptors['slot'] >= first) & (
                descriptors['slot'] < first + len(rows))
            for length in np.unique(descriptors['length'][mine]):
                some = descriptors[mine & (descriptors['length'] == length)]
                found = rows[some['slot'].astype(np.int64) - first,
                             layout.SLOT_HEADER.itemsize // 8:][:, :int(length) // 8]
                self.torn += int(np.count_nonzero((found != found[:, :1]).any(axis=1)))
                senders = self._note(found[:, 0], some['length'])
                self._hold_against(senders, some)

    def summary(self):
        """Return the sums, by name."""
        return {'came': int(np.count_nonzero(self.seen)), 'torn': self.torn,
                'twice': int(np.count_nonzero(self.seen > 1)), 'strangers': self.strangers}

    def _note(self, first_words, lengths):
        plain = first_words * np.uint64(_INVERSE)
        senders = (plain >> np.uint64(_NUMBER_BITS)).astype(np.int64)
        numbers = (plain & np.uint64((1 << _NUMBER_BITS) - 1)).astype(np.int64)
        known = (senders < self.seen.shape[0]) & (numbers < self.seen.shape[1])
        known &= self._lengths[numbers % len(self._lengths)] == lengths
        self.strangers += int(np.count_nonzero(~known))
        np.add.at(self.seen, (senders[known], numbers[known]), 1)
        return senders

    def _hold_against(self, senders, descriptors):
        """Count descriptors that do not name the socket of the payload's sender."""
        for sender in np.unique(senders).tolist():
            some = descriptors[senders == sender]
            names = 'cookie', 'source_port', 'destination_port', 'sender_pid', 'rule_id', 'family'
            first = self._sources.setdefault(sender, some[0].copy())
            wrong = np.zeros(len(some), dtype=bool)
            for name in names:
                wrong |= some[name] != first[name]
            self.strangers += int(np.count_nonzero(wrong))
