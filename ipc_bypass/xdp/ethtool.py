"""
Settings of an interface by the ioctl SIOCETHTOOL; structures of uapi/linux/ethtool.h.

The ioctl is chosen over its netlink family since it needs no search for the family, works on
every kernel, and acts in the namespace of the socket, whatever thread calls it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
import errno
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GDRVINFO, _GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x03, 0x1b, 0x37, 0x3a, 0x3b
_GCHANNELS, _SCHANNELS, _GRXFHINDIR, _SRXFHINDIR = 0x3c, 0x3d, 0x38, 0x39
_GRXCLSRULE, _SRXCLSRLDEL, _SRXCLSRLINS = 0x2f, 0x31, 0x32
_FEATURE_NAMES = 4  # ETH_SS_FEATURES
_NAME_BYTES = 32
_CHANNELS = struct.Struct('=9I')
# struct ethtool_rxnfc: where the rule stands in it (struct ethtool_rx_flow_spec), and in that the
# values, their mask, the queue and the location.
_RULE_BYTES, _SPEC, _SPEC_BYTES = 192, 16, 168
_MASK, _QUEUE, _LOCATION = 76, 152, 160
_ANY_LOCATION = 0xffffffff
#: enum of flow types: UDP over IPv4 and over IPv6; where the destination port stands in each.
UDP4, UDP6 = 0x02, 0x06
_PORT_AT = {UDP4: 4 + 10, UDP6: 4 + 34}


@dataclass(frozen=True)
class Feature:
    """
    A feature by what the kernel says of it.

    `changeable`: whether ethtool may switch it; `wanted`: what was asked for; `active`: what is,
    which differs where another feature that it needs is off.
    """

    changeable: bool
    wanted: bool
    active: bool


@dataclass(frozen=True)
class Channels:
    """Numbers of queues of each kind, and the most that the driver takes."""

    rx: int
    tx: int
    other: int
    combined: int
    max_rx: int = 0
    max_tx: int = 0
    max_other: int = 0
    max_combined: int = 0

    @property
    def receiving(self) -> int:
        """Return how many queues receive."""
        return self.rx + self.combined

    @property
    def sending(self) -> int:
        """Return how many queues send."""
        return self.tx + self.combined


class Ethtool:
    """
    The settings of the interfaces in the namespace of the thread that makes this.

    Every method takes an interface's name and raises OSError: ENODEV where there is none of that
    name, EOPNOTSUPP where its driver has no such setting, EPERM without CAP_NET_ADMIN.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._names: list[str] = []

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Ethtool:
        """Return itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the socket."""
        self.close()

    def driver(self, name: str) -> str:
        """Return the driver's name, '' where it tells none."""
        try:
            block = self._call(name, struct.pack('=I', _GDRVINFO).ljust(196, b'\0'))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return ''
            raise
        return block[4:36].split(b'\0', 1)[0].decode('ascii', 'replace')

    def features(self, name: str) -> dict[str, Feature]:
        """Return every feature by the kernel's name for it, 'rx-gro' and others."""
        names = self._feature_names(name)
        blocks = (len(names) + 31) // 32
        block = self._call(name, struct.pack('=II', _GFEATURES, blocks) + bytes(16 * blocks))
        words = struct.unpack_from(f'={4 * blocks}I', block, 8)
        found = {}
        for index, feature in enumerate(names):
            bit, at = 1 << index % 32, index // 32 * 4
            available, wanted, active, fixed = words[at:at + 4]
            if feature:
                found[feature] = Feature(bool(available & ~fixed & bit), bool(wanted & bit),
                                         bool(active & bit))
        return found

    def set_features(self, name: str, wanted: dict[str, bool]) -> None:
        """Switch features by their names, all in one call; what depends on them may follow."""
        names = self._feature_names(name)
        blocks = (len(names) + 31) // 32
        words = [0] * (2 * blocks)
        for feature, on in wanted.items():
            index = names.index(feature)
            words[index // 32 * 2] |= 1 << index % 32
            words[index // 32 * 2 + 1] |= int(on) << index % 32
        self._call(name, struct.pack(f'=II{2 * blocks}I', _SFEATURES, blocks, *words))

    def channels(self, name: str) -> Channels:
        """Return the numbers of queues."""
        (_, max_rx, max_tx, max_other, max_combined, rx, tx, other,
         combined) = _CHANNELS.unpack(self._call(name, _CHANNELS.pack(_GCHANNELS, *[0] * 8)))
        return Channels(rx, tx, other, combined, max_rx, max_tx, max_other, max_combined)

    def set_channels(self, name: str, channels: Channels) -> None:
        """Set the numbers of queues; the largest numbers in `channels` are ignored."""
        self._call(name, _CHANNELS.pack(_SCHANNELS, 0, 0, 0, 0, channels.rx, channels.tx,
                                        channels.other, channels.combined))

    def indirection(self, name: str) -> list[int]:
        """Return the table by which hashes of flows choose a queue."""
        size, = struct.unpack_from('=I', self._call(name, struct.pack('=II', _GRXFHINDIR, 0)), 4)
        block = self._call(name, struct.pack('=II', _GRXFHINDIR, size) + bytes(4 * size))
        return list(struct.unpack_from(f'={size}I', block, 8))

    def set_indirection(self, name: str, table: list[int]) -> None:
        """Write that table; [] puts back the driver's own."""
        self._call(name, struct.pack(f'=II{len(table)}I', _SRXFHINDIR, len(table), *table))

    def add_rule(self, name: str, flow: int, port: int, queue: int) -> bytes:
        """
        Steer datagrams to a destination port to a queue, and return the rule as it stands.

        :param flow: UDP4 or UDP6
        :raises OSError: EOPNOTSUPP where the driver has no such rules (ntuple filters)
        """
        spec = bytearray(_SPEC_BYTES)
        struct.pack_into('=I', spec, 0, flow)
        struct.pack_into('!H', spec, _PORT_AT[flow], port)
        struct.pack_into('!H', spec, _MASK - 4 + _PORT_AT[flow], 0xffff)
        struct.pack_into('=Q', spec, _QUEUE, queue)
        struct.pack_into('=I', spec, _LOCATION, _ANY_LOCATION)
        return self._rule(name, _SRXCLSRLINS, bytes(spec))

    def rule(self, name: str, rule: bytes) -> bytes | None:
        """Return the rule that stands now where `rule` stood, None where there is none."""
        try:
            return self._rule(name, _GRXCLSRULE, bytes(_LOCATION) + rule[_LOCATION:])
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None
            raise

    def remove_rule(self, name: str, rule: bytes) -> None:
        """Remove the rule that stands where `rule` stood."""
        self._rule(name, _SRXCLSRLDEL, bytes(_LOCATION) + rule[_LOCATION:])

    def _rule(self, name: str, command: int, spec: bytes) -> bytes:
        block = struct.pack('=IIQ', command, 0, 0) + spec
        return self._call(name, block.ljust(_RULE_BYTES, b'\0'))[_SPEC:_SPEC + _SPEC_BYTES]

    def _feature_names(self, name: str) -> list[str]:
        """Return the kernel's names of features, in the order of their bits."""
        if not self._names:
            block = self._call(name, struct.pack('=IIQI', _GSSET_INFO, 0, 1 << _FEATURE_NAMES, 0))
            count, = struct.unpack_from('=I', block, 16)
            block = self._call(name, struct.pack('=III', _GSTRINGS, _FEATURE_NAMES, count)
                               + bytes(_NAME_BYTES * count))
            self._names = [
                block[at:at + _NAME_BYTES].split(b'\0', 1)[0].decode('ascii', 'replace')
                for at in range(12, 12 + _NAME_BYTES * count, _NAME_BYTES)]
        return self._names

    def _call(self, name: str, block: bytes) -> bytes:
        """Make the ioctl with a command's structure and return the structure afterwards."""
        buffer = ctypes.create_string_buffer(block, len(block))
        request = struct.pack('@16sP16x', name.encode('utf-8', 'surrogateescape'),
                              ctypes.addressof(buffer))
        fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
        return buffer.raw
