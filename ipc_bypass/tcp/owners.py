"""
Which process owns a socket, and a descriptor of our own for it.

A socket is known by its cookie (SO_COOKIE), which the programs note. Its owner is found by
duplicating the sockets of processes with pidfd_getfd(2) (from 5.6; needs CAP_SYS_PTRACE for the
processes of other users) and asking each for its cookie.
"""

import ctypes
import functools
import os
import socket
import struct
import threading
import time

from ipc_bypass.graph.parameter_list import printable

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_SO_COOKIE = 57
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def comm(pid):
    """
    Return the command name of a process (at most 15 bytes), '' where there is none.

    A process may call itself anything: what would move a terminal's cursor becomes '?'.
    """
    return printable(raw_comm(pid).decode('utf-8', 'replace'))


def raw_comm(pid):
    """Return the command name of a process as the kernel has it, b'' where there is none."""
    try:
        with open(f'/proc/{pid}/comm', 'rb') as stream:
            return stream.read().removesuffix(b'\n') if pid else b''
    except OSError:
        return b''


def real_user(pid):
    """Return the real user id of a process, None where there is none."""
    # Not the owner of its folder: that is root for a process that may not be dumped.
    try:
        with open(f'/proc/{pid}/status', 'rb') as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith(b'Uid:')),
                        None)
    except OSError:
        return None


def open_process(pid):
    """Return a pidfd of a process; raises OSError."""
    fd = _syscall(_PIDFD_OPEN, pid, 0)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def duplicate(process_fd, target_fd):
    """Return our own descriptor for the file that a process has as `target_fd`, or None."""
    fd = _syscall(_PIDFD_GETFD, process_fd, target_fd, 0)
    return fd if fd >= 0 else None


def _cookie_or_none(fd):
    """Return the cookie of the socket behind a descriptor, None where it has none."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return struct.unpack('=Q', sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0]
    except OSError:
        return None


def socket_descriptors(pid):
    """Yield (descriptor number, 'socket:[inode]') of a process."""
    folder = f'/proc/{pid}/fd'
    try:
        numbers = os.listdir(folder)
    except OSError:
        return
    for number in numbers:
        try:
            target = os.readlink(f'{folder}/{number}')
        except OSError:
            continue
        if target.startswith('socket:'):
            yield int(number), target


def _locked(method):
    """Let one thread at a time into a method: the register is read and renewed by several."""
    @functools.wraps(method)
    def call(self, *arguments, **options):
        with self._lock:
            return method(self, *arguments, **options)
    return call


class Owners:
    """
    Owners by cookie; every method may be called from any thread.

    Finding one looks into the process `hint` first, where it is known, then into all, but that
    at most once in `interval` seconds, and ever more seldom for cookies that were not found
    (not accepted yet, or another user's). A socket is asked for its cookie once.
    """

    def __init__(self, interval=2.0, longest=64.0):
        """Make an empty register; intervals in seconds."""
        self._lock = threading.RLock()
        self._found, self._tried, self._cookies = {}, set(), {}
        self._shortest, self._longest, self._interval = interval, longest, interval
        self._last_scan = -interval

    def pid(self, cookie):
        """Return the pid that was found for a cookie, 0 where none was."""
        return self._found.get(cookie, (0, 0))[0]

    @_locked
    def find(self, cookies, hint=0):
        """Find the owners of these cookies; `hint` is a pid that likely owns them."""
        missing = {cookie for cookie in cookies if cookie and cookie not in self._found}
        if missing and hint:
            self._take(self._look_into(hint), missing)
        if not missing <= self._tried:
            self._interval = self._shortest
        now = time.monotonic()
        if not missing or now - self._last_scan < self._interval:
            return
        self._last_scan = now
        self._interval = min(2 * self._interval, self._longest)
        seen = {}
        for name in os.listdir('/proc'):
            if name.isdigit():
                seen.update(self._look_into(int(name)))
        self._cookies = seen
        self._take(seen, missing)
        self._tried = missing

    @_locked
    def socket(self, cookie, hint=0):
        """Return our own descriptor for the socket of this cookie, None where it is not found."""
        self.find([cookie], hint)
        pid, number = self._found.get(cookie, (0, 0))
        if not pid:
            return None
        try:
            process_fd = open_process(pid)
        except OSError:
            return None
        try:
            fd = duplicate(process_fd, number)
        finally:
            os.close(process_fd)
        if fd is not None and _cookie_or_none(fd) != cookie:
            os.close(fd)
            fd = None
        if fd is None:
            del self._found[cookie]
        return fd

    @_locked
    def forget(self, live):
        """Drop what is known of cookies that are not in `live`."""
        for cookie in [cookie for cookie in self._found if cookie not in live]:
            del self._found[cookie]

    def _take(self, seen, missing):
        """Note the owners of the cookies in `missing`, and take them out of it."""
        for (pid, number, _), cookie in seen.items():
            if cookie in missing:
                self._found[cookie] = pid, number
                missing.discard(cookie)

    def _look_into(self, pid):
        """Return {(pid, descriptor, 'socket:[inode]'): cookie} of a process's sockets."""
        seen, process_fd = {}, None
        try:
            for number, target in socket_descriptors(pid):
                key = pid, number, target
                if key not in self._cookies:
                    process_fd = process_fd or open_process(pid)
                    fd = duplicate(process_fd, number)
                    if fd is None:
                        continue
                    self._cookies[key] = _cookie_or_none(fd)
                    os.close(fd)
                seen[key] = self._cookies[key]
        except OSError:
            pass  # the process ended, or belongs to another user and CAP_SYS_PTRACE is missing
        finally:
            if process_fd is not None:
                os.close(process_fd)
        return seen
