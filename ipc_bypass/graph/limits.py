"""Limits of the kernel that a graph may run into, held against the sizes of its messages."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
import fcntl
import os
import shlex
import socket
import struct
import threading

from ipc_bypass.graph.entering import enter
from ipc_bypass.graph.model import Finding, NOTE, OK, Process, WARNING
from ipc_bypass.kernel.namespaces import NetworkNamespace

#: Bytes of a message where nobody says it: a camera's picture.
MESSAGE_BYTES = 1 << 20
#: Messages that a receive buffer should hold, since a reader is late at times.
_MESSAGES = 2
#: What the reassembly of fragments should hold, in messages.
_FRAGMENTED = 8
# Fragments of messages that lost one stay for so long; the kernel's 30 s fill the memory.
_LONGEST_FRAGMENT_SECONDS = 10
_NET = '/proc/sys/net'
_SIOCGIFFLAGS, _IFF_MULTICAST, _IFF_UP = 0x8913, 0x1000, 0x1
_FEW_FILES = 64


def limit_findings(processes: Iterable[Process], namespaces: dict[int, NetworkNamespace],
                   message_bytes: int = MESSAGE_BYTES) -> list[Finding]:
    """
    Return a finding for each limit, those that hold too.

    :param namespaces: where to look at interfaces and fragments, by inode
    :param message_bytes: size of the largest message
    """
    processes = list(processes)
    found = [_buffer('rmem_max', message_bytes * _MESSAGES, 'the largest buffer for reception'),
             _buffer('wmem_max', message_bytes, 'the largest buffer for sending')]
    for inode in dict.fromkeys(process.namespaces.get('net', 0) for process in processes):
        if inode in namespaces:
            found += _in_namespace(namespaces[inode], message_bytes)
    return [*filter(None, found), *_files(processes)]


def _buffer(name, wanted, what):
    value = _number(f'{_NET}/core/{name}')
    if value is None:
        return None
    if value >= wanted:
        return Finding(OK, f'net.core.{name}', f'{value} bytes')
    return Finding(WARNING, f'net.core.{name}',
                   f'{what} is {value} bytes, less than {wanted} for messages of this size',
                   f'sudo sysctl -w net.core.{name}={wanted}')


def _in_namespace(namespace, message_bytes):
    """Return what one network namespace says, [] where it may not be entered."""
    values: dict[str, int | bool | None] = {}
    thread = threading.Thread(target=_read_inside, args=(namespace, values))
    thread.start()
    thread.join()
    if not values:
        return []
    where = f'network namespace {namespace.inode}'
    found = []
    if values['multicast'] is False:
        found.append(Finding(
            NOTE, 'multicast on lo', 'off: a DDS that is told to use lo finds others by '
            'unicast only', f'sudo {_inside(namespace)}ip link set lo multicast on', where))
    if values['up'] is False:
        found.append(Finding(WARNING, 'lo', 'it is down', f'sudo {_inside(namespace)}ip link set '
                             'lo up', where))
    high, seconds = values['ipfrag_high_thresh'], values['ipfrag_time']
    wanted = _FRAGMENTED * message_bytes
    if high is not None and high < wanted:
        found.append(Finding(
            WARNING, 'net.ipv4.ipfrag_high_thresh',
            f'{high} bytes for fragments, less than {wanted} for messages of this size',
            f'sudo {_inside(namespace)}sysctl -w net.ipv4.ipfrag_high_thresh={wanted}', where))
    if seconds is not None and seconds > _LONGEST_FRAGMENT_SECONDS:
        found.append(Finding(
            NOTE, 'net.ipv4.ipfrag_time',
            f'{seconds} s: fragments of lost messages fill the memory for so long',
            f'sudo {_inside(namespace)}sysctl -w net.ipv4.ipfrag_time=3', where))
    return found


def _read_inside(namespace, values):
    with suppress(OSError):
        enter(namespace.path, namespace.inode)
        flags = None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack('16sh14x', b'lo', 0))
            flags = struct.unpack_from('16sh', answer)[1]
        values.update(
            multicast=None if flags is None else bool(flags & _IFF_MULTICAST),
            up=None if flags is None else bool(flags & _IFF_UP),
            **{name: _number(f'{_NET}/ipv4/{name}')
               for name in ('ipfrag_high_thresh', 'ipfrag_time')})


def _inside(namespace):
    """Return the words that run a command in a namespace, '' for our own."""
    with suppress(OSError):
        if os.stat('/proc/self/ns/net').st_ino == namespace.inode:
            return ''
    return f'nsenter --net={shlex.quote(namespace.path)} '


def _files(processes):
    for process in processes:
        if process.file_limit and process.open_files + _FEW_FILES > process.file_limit:
            wanted = 4 * process.file_limit
            # A number alone would set the hard limit as well, and lower it on most hosts.
            soft_only = wanted <= (process.file_limit_hard or wanted)
            yield Finding(
                WARNING, 'open files', f'{process.open_files} of {process.file_limit} in use',
                f'sudo prlimit --pid {process.pid} --nofile={wanted}{":" if soft_only else ""}',
                f'{process.comm} ({process.pid})')


def _number(path):
    try:
        with open(path, encoding='ascii') as stream:
            return int(stream.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
