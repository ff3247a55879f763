"""Give packets back: to the kernel by a TUN device, or out of another interface."""

from __future__ import annotations

from collections.abc import Sequence
import os
import socket
import struct

from ipc_bypass.kernel.errors import BypassError, PrivilegeError
from ipc_bypass.udp.tun import TunDevice

_VLAN = (0x8100, 0x88a8)
_IP = (0x0800, 0x86dd)
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h


class TunReinjector:
    """
    Gives IP packets to the kernel, which takes them as if they had come by a TUN device.

    What is no IP packet (ARP) has no place there and is not taken. The TUN device stands in for
    the interface: firewall rules and sockets that name that interface do not see the packets.

    :param name: of the TUN device, which is made
    :param options: further parameters of udp.tun.TunDevice
    :raises DeviceError: it cannot be made
    """

    def __init__(self, name: str, **options) -> None:
        self._device = TunDevice(name, **{'accept_local': True, **options})
        self._fd = self._device.fileno()

    def send(self, packets: Sequence[memoryview]) -> int:
        """Write the IP packet of each frame; return how many the kernel took."""
        taken = 0
        for packet in packets:
            start = ip_offset(packet)
            if not start:
                continue
            try:
                os.write(self._fd, packet[start:])
                taken += 1
            except OSError:
                continue
        return taken

    def close(self) -> None:
        """Remove the device."""
        self._device.close()


class InterfaceReinjector:
    """
    Sends frames out of an interface by a packet socket: the peer sees them as they came.

    :param interface: name, in this thread's network namespace
    :raises PrivilegeError: it takes CAP_NET_RAW
    :raises BypassError: there is no such interface
    """

    def __init__(self, interface: str) -> None:
        what = f'reinject by {interface}'
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        except PermissionError as error:
            raise PrivilegeError(what, 'needs CAP_NET_RAW', errno=error.errno,
                                 next_step='run with sudo, or with CAP_NET_RAW') from error
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            self._socket.bind((interface, 0))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise BypassError(what, errno=error.errno or 0, next_step='see `ip link`') from error

    def send(self, packets: Sequence[memoryview]) -> int:
        """Send each frame; return how many the interface took."""
        taken = 0
        for packet in packets:
            try:
                self._socket.send(packet)
                taken += 1
            except OSError:
                continue
        return taken

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def ip_offset(packet) -> int:
    """Return where the IP packet of an Ethernet frame begins, 0 where there is none."""
    place = 12
    for _ in range(3):
        if len(packet) < place + 22:
            return 0
        ethertype, = struct.unpack_from('!H', packet, place)
        if ethertype in _IP:
            return place + 2
        if ethertype not in _VLAN:
            return 0
        place += 4
    return 0
