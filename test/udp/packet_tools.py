"""What the tests of packets, of the way back and of the bridge share."""

import fcntl
import ipaddress
import os
import struct

from ipc_bypass.pool.layout import DESCRIPTOR
import numpy as np
from support.waiting import wait_until

TUNSETIFF = 0x400454ca
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
NEAR, FAR = {4: '10.124.0.1', 6: 'fd00:124::1'}, {4: '10.124.0.2', 6: 'fd00:124::2'}
MIRROR, DIVERT = 2, 3
_numbers = iter(range(1, 1 << 62))


def mapped(address):
    """Return the 16 bytes of an address as descriptors hold it."""
    parsed = ipaddress.ip_address(address)
    return (bytes(10) + b'\xff\xff' if parsed.version == 4 else b'') + parsed.packed


def descriptor(source, destination, length=0, *, action=DIVERT, flags=0, pid=0):
    """Return a record of dtype DESCRIPTOR for a datagram between two (address, port)."""
    record = np.zeros(1, DESCRIPTOR)
    record['number'] = record['sequence'] = next(_numbers)
    record['source_address'][0] = np.frombuffer(mapped(source[0]), 'u1')
    record['destination_address'][0] = np.frombuffer(mapped(destination[0]), 'u1')
    record['source_port'], record['destination_port'] = source[1], destination[1]
    record['family'] = ipaddress.ip_address(source[0]).version
    record['length'], record['action'] = length, action
    record['flags'], record['sender_pid'] = flags, pid
    return record[0]


def content(length, seed=7):
    """Return `length` bytes that differ from their neighbours."""
    return np.random.default_rng(seed + length).integers(0, 256, length, 'u1').tobytes()


def tun_in(space, name='tun0', mtu=65535):
    """Make a TUN device in a Namespace, with NEAR as its addresses; return its descriptor."""
    with space.entered():
        fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TUN | IFF_NO_PI))
    space.ip('link', 'set', name, 'mtu', str(mtu), 'up')
    space.ip('address', 'add', f'{FAR[4]}/24', 'dev', name)
    space.ip('address', 'add', f'{FAR[6]}/64', 'dev', name, 'nodad')
    wanted = ipaddress.ip_address(FAR[6]).packed.hex()

    def takes_packets():
        with space.entered(), open('/proc/thread-self/net/ipv6_route') as stream:
            return any(line[0] == wanted and line[8].startswith('8')
                       for line in map(str.split, stream))
    wait_until(takes_packets, 'the kernel takes packets to the address')
    return fd


def read_packet(fd, size=1 << 17):
    """Return the next packet of a TUN descriptor, None where there is none."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
