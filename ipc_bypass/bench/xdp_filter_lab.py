"""What both halves of the filter's bench share: rules, frames, and how a program is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
from dataclasses import dataclass
import ipaddress
import struct

from ipc_bypass.kernel.errors import BypassError

# That of no interface here: what does not drop these frames does as little as it can.
_MACS = bytes.fromhex('02aaaaaaaaaa' '02bbbbbbbbbb')


@dataclass(frozen=True)
class RuleSet:
    """The same rules for all: UDP destination ports, and destination hosts."""

    name: str
    ports: tuple[int, ...]
    hosts: tuple[str, ...]
    features: str  # of xdp-filter, as few as will do

    @property
    def rules(self) -> list[str]:
        """Return them for our filter."""
        return [*(f'deny udp {port}' for port in self.ports),
                *(f'deny to {host}' for host in self.hosts)]


def frame_of(port: int, host: str, ipv6: bool) -> bytes:
    """Return a frame of 64 bytes and more with a UDP datagram to a port of a host."""
    body = struct.pack('>HHHH', 1234, port, 8 + 24, 0) + bytes(24)
    to = ipaddress.ip_address(host).packed
    if ipv6:
        return _MACS + b'\x86\xdd' + struct.pack('>IHBB', 6 << 28, len(body), 17, 64) + \
            ipaddress.ip_address('fd00::2').packed + to + body
    return _MACS + b'\x08\x00' + struct.pack(
        '>BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, bytes((10, 7, 0, 1)),
        to) + body


def test_run_attributes(program, frame, given, packets, answer, room, flags=0):
    """Return union bpf_attr for PROG_TEST_RUN, uapi/linux/bpf.h."""
    return bytearray(struct.pack('=IIIIQQIIIIQQIII4x', program, 0, len(frame), room, given, answer,
                                 packets, 0, 0, 0, 0, 0, flags, 0, 0))


@contextmanager
def entered(space) -> Iterator[None]:
    """Have this thread in a network namespace."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    with open('/proc/thread-self/ns/net', 'rb') as before, \
            open(f'/run/netns/{space.name}', 'rb') as there:
        if setns(there.fileno(), 0):
            raise BypassError(f'enter {space.name}', errno=ctypes.get_errno())
        try:
            yield
        finally:
            setns(before.fileno(), 0)
