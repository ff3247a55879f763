"""What the TUN bridge carries between its two devices: the usual way, and the way back."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import socket
import struct
import threading

from ipc_bypass.udp.fragments import fragments
from ipc_bypass.udp.outcomes import GROUPS, Tally
from ipc_bypass.udp.packets import addresses
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.raw import RawSockets
from ipc_bypass.udp.tun import namespace_path, READ_BYTES, TunDevice

#: Packets that are read from a device at once.
_AT_ONCE = 256


class Crossing:
    """
    Carries packets that wait in the devices, whenever it is called; one thread at a time does.

    :param device: the TunDevice at the far end
    :param local_device: the one whose routes are the claimed prefixes, or None: then answers are
        sent by a raw socket
    :param prefixes: the claimed ones
    :param tally: where packets are counted
    :param exempt: called with a raw socket
    """

    def __init__(self, device: TunDevice, local_device: TunDevice | None, prefixes: Prefixes,
                 tally: Tally, exempt: Callable[[socket.socket], object]) -> None:
        self._device, self._local, self._prefixes = device, local_device, prefixes
        self._tally, self._raw, self._own = tally, RawSockets(exempt), namespace_path('')
        self._busy = threading.Lock()
        self._ways = [(device, 'device', self._answer_outcome)]
        if local_device is not None:
            self._ways.append((local_device, 'local', self._usual_outcome))

    def carry(self, going: Callable[[], bool] = lambda: True, *, wait: bool = True) -> None:
        """
        Carry what waits, some hundred packets at most.

        :param going: asked before each packet whether to go on
        :param wait: False returns at once where another thread is at it
        :raises OSError: EBADFD, a device is gone
        """
        if not self._busy.acquire(blocking=wait):
            return
        try:
            for device, total, outcome in self._ways:
                outcomes = dict.fromkeys(GROUPS[total], 0)
                try:
                    for packet in _read_packets(device, going):
                        outcomes[outcome(packet)] += 1
                finally:
                    # Every packet is counted, also where one ends it all.
                    self._tally.add(total, outcomes)
        finally:
            self._busy.release()

    def forget_sockets(self) -> None:
        """Close the raw sockets; the next answer makes a new one."""
        self._raw.close()

    def _usual_outcome(self, packet):
        ends = _ends(packet)
        if ends is None:
            return 'local_malformed'
        if ends[1] not in self._prefixes:
            return 'local_not_claimed'
        return 'local_to_device' if write(self._device, packet) else 'local_refused'

    def _answer_outcome(self, packet):
        ends = _ends(packet)
        if ends is None:
            return 'answers_malformed'
        if ends[0] not in self._prefixes:
            return 'answers_not_claimed'
        if _is_group(ends[1]) or (self._local is not None and ends[1] in self._prefixes
                                  and ends[1] not in self._local.addresses):
            return 'answers_not_carried'  # to a prefix that leads here it would come back
        return 'answers' if self._answer(packet) else 'answers_refused'

    def _answer(self, packet):
        if self._local is not None:
            return write(self._local, packet)
        with contextlib.suppress(OSError):
            answer = bytearray(packet)
            hops = 8 if answer[0] >> 4 == 4 else 7
            if answer[hops] > 1:  # so that no packet goes round for ever
                answer[hops] -= 1
                self._raw.send(self._own, bytes(answer))
                return True
        return False


def write(device: TunDevice, packet: bytes) -> bool:
    """
    Write a packet, in fragments where the MTU is smaller; return whether it was taken.

    Of a device that is gone, the next read tells.
    """
    try:
        if len(packet) <= device.mtu:
            os.write(device.fileno(), packet)
        else:
            for piece in fragments(packet, device.mtu):
                os.write(device.fileno(), piece)
    except OSError:
        return False
    return True


def _read_packets(device, going):
    """Yield packets that wait in a device, _AT_ONCE at most; raises OSError when it is gone."""
    for _ in range(_AT_ONCE):
        if not going():
            return
        try:
            yield os.read(device.fileno(), READ_BYTES)
        except BlockingIOError:
            return


def _ends(packet):
    """Return the (source, destination) of an IP packet, in network order; None for another."""
    version, length = packet[0] >> 4 if packet else 0, len(packet)
    if version == 4 and length >= 20 and struct.unpack_from('!H', packet, 2)[0] == length:
        return addresses(packet)
    if version == 6 and length >= 40 and struct.unpack_from('!H', packet, 4)[0] == length - 40:
        return addresses(packet)
    return None


def _is_group(address):
    """Return whether an address is multicast, or the broadcast one."""
    return address[0] >= 0xe0 if len(address) == 4 else address[0] == 0xff
