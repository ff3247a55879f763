"""
The right to read a ring buffer of the sampler: two readers would steal from each other.

A lease is an entry in a map, so that processes of any mount or network namespace see it. Its key
ends with an epoch that only rises, and the last epoch counts: the kernel lets one of two takers
make the entry. It holds while its heartbeat is fresh, which is what the program asks, too.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.uapi import UpdateFlag
from ipc_bypass.xdp.sampler_layout import LEASE, LEASE_KEY, READERS, WORD_HEARTBEAT

_WORD = struct.Struct('=Q')
_TRIES = 16


class ReaderError(BypassError):
    """Another process reads these samples, or took the right to from this one."""


class ReaderLease:
    """
    One reader's right, taken with `take` and kept by `beat`.

    :param leases: descriptor of the map sampler_leases
    :param words: descriptor of the map sampler_words
    :param reader: 'node' or 'capture'
    :param fresh_ns: how long a heartbeat is believed
    :param clock: nanoseconds, as time.monotonic_ns
    """

    def __init__(self, leases: int, words: int, reader: str, *, fresh_ns: int,
                 clock=time.monotonic_ns) -> None:
        self._leases, self._words, self.reader = leases, words, reader
        self._number = list(READERS).index(reader)
        self._fresh_ns, self._clock = fresh_ns, clock
        self._key = b''

    def take(self, name: str) -> None:
        """
        Take the right.

        :param name: what others are told when they want it, for example 'ipc-bypass xdp capture'
        :raises ReaderError: when another process has it
        """
        for _ in range(_TRIES):
            epochs = self._epochs()
            last = max(epochs, default=0)
            if last and self._held(epochs[last]):
                _, pid, _, holder = LEASE.unpack(epochs[last])
                raise ReaderError(
                    f'read the samples for {self.reader}', f"'{_text(holder)}' (pid {pid}) reads "
                    'them', errno=errno.EBUSY, next_step='end it first: each sample is read once')
            if self._enter(last + 1, name):
                for epoch in epochs:
                    syscall.map_delete(self._leases, LEASE_KEY.pack(self._number, epoch))
                self._write_heartbeat(self._clock())
                return
        raise ReaderError(f'read the samples for {self.reader}', 'others take them in turn',
                          errno=errno.EBUSY, next_step='try again')

    def beat(self) -> None:
        """Say that this reader lives; raises ReaderError when it lost the right meanwhile."""
        if not self._mine():
            self._key = b''
            raise ReaderError(f'read the samples for {self.reader}', 'another process took them, '
                              'since this one did not read for too long', errno=errno.ESTALE,
                              next_step='start it again')
        self._write_heartbeat(self._clock())

    def release(self) -> None:
        """Give the right up; nothing is written for this reader from now on."""
        if self._key and self._mine():
            self._write_heartbeat(0)
            syscall.map_update(self._leases, self._key, LEASE.pack(0, 0, 0, b''))
        self._key = b''

    @property
    def holder(self) -> str:
        """Return who reads now, as 'name (pid 123)', '' for nobody."""
        epochs = self._epochs()
        entry = epochs.get(max(epochs, default=0))
        if entry is None or not self._held(entry):
            return ''
        _, pid, _, name = LEASE.unpack(entry)
        return f'{_text(name)} (pid {pid})'

    def _enter(self, epoch: int, name: str) -> bool:
        """Make the entry of an epoch; return whether it is ours, and the last one."""
        key = LEASE_KEY.pack(self._number, epoch)
        entry = LEASE.pack(self._clock(), os.getpid(), _pid_namespace(), name.encode()[:15])
        try:
            syscall.map_update(self._leases, key, entry, UpdateFlag.NOEXIST)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        if max(self._epochs(), default=0) > epoch:
            # The epochs that we saw are long gone: others came and went.
            syscall.map_delete(self._leases, key)
            return False
        self._key = key
        return True

    def _epochs(self) -> dict[int, bytes]:
        """Return {epoch: struct sampler_lease} of this reader."""
        found = {}
        for key, entry in syscall.map_items(self._leases, LEASE_KEY.size, LEASE.size):
            reader, epoch = LEASE_KEY.unpack(key)
            if reader == self._number:
                found[epoch] = entry
        return found

    def _held(self, entry: bytes) -> bool:
        """Return whether the holder of an entry is alive, as far as can be told."""
        taken, pid, namespace, _ = LEASE.unpack(entry)
        if not pid:
            return False
        if namespace == _pid_namespace() and not _exists(pid):
            return False
        raw = syscall.map_lookup(self._words, self._word, _WORD.size)
        seen = max(taken, _WORD.unpack(raw or bytes(_WORD.size))[0])
        return self._clock() - seen < self._fresh_ns

    def _mine(self) -> bool:
        return bool(self._key) and syscall.map_lookup(
            self._leases, self._key, LEASE.size) is not None

    @property
    def _word(self) -> bytes:
        return struct.pack('=I', WORD_HEARTBEAT + self._number)

    def _write_heartbeat(self, now: int) -> None:
        syscall.map_update(self._words, self._word, _WORD.pack(now))


def _text(name: bytes) -> str:
    return name.split(b'\0', 1)[0].decode('utf-8', 'replace')


def _pid_namespace() -> int:
    return os.stat('/proc/self/ns/pid').st_ino & 0xffffffff


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True
