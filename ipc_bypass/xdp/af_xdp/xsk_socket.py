"""One AF_XDP socket: bound to one queue of one interface, with its four rings."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import ctypes
import errno
import os
import socket
import struct
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp import uapi
from ipc_bypass.xdp.af_xdp.placing import busy_poll
from ipc_bypass.xdp.af_xdp.refusals import refusal
from ipc_bypass.xdp.af_xdp.rings import ConsumerRing, ProducerRing
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.umem import Umem
import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
# What the kernel answers to a wake-up that it cannot follow just now.
_BUSY = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)
_GONE = (errno.ENXIO, errno.ENETDOWN, errno.ENODEV)
#: Most packets that one wake-up sends in copy mode, where the kernel lets that be set.
_SEND_BUDGET = 1024
#: Seconds for which a queue that is taken is asked for again.
_RELEASE_S = 0.3


class InterfaceGone(BypassError):
    """The interface of a socket was removed, or is down."""


class XskSocket:
    """
    An AF_XDP socket.

    Not thread-safe. What it receives comes once its descriptor stands in the XSKMAP of a program
    on the interface (`steering.Steering.set_socket`).

    :param interface: name, in the network namespace of this thread
    :param queue: number of the receive queue
    :param umem: Umem, that other sockets may share
    :param settings: AfXdpSettings
    :param first: the socket that registered the UMEM, None for the first one
    :param receive: have an rx ring, and a fill ring with frames in it
    :raises BypassError: one line that says what is lacking
    """

    def __init__(self, interface: str, queue: int, umem: Umem, settings: AfXdpSettings, *,
                 first: XskSocket | None = None, receive: bool = True) -> None:
        self.interface, self.queue, self.umem, self.settings = interface, queue, umem, settings
        self._what = f'bind an AF_XDP socket to {interface} queue {queue}'
        #: Packets that are in the hands of this process's handler.
        self.held = 0
        #: Frames that `refill` puts into the fill ring, at most.
        self.fill_target = settings.ring_entries
        self._posted = self._received = self._submitted = self._completed = 0
        self._error = 0
        self._parts = contextlib.ExitStack()
        self.rx = self.fill = None
        try:
            self._open(first, receive)
        except OSError as error:
            self._parts.close()
            raise refusal(self._what, interface, queue, settings, error) from error
        except BaseException:
            self._parts.close()
            raise

    # Receiving --------------------------------------------------------------------------------

    def receive(self, most: int) -> np.ndarray:
        """Return up to so many packets, records of uapi.DESCRIPTOR; their frames are held."""
        found = self.rx.take(most)
        count = len(found)
        self.held += count
        self._received += count
        return found

    def receive_few(self, count: int) -> tuple[list[int], list[int]]:
        """Return (addresses, lengths) of packets that are there, held as by `receive`."""
        self.held += count
        self._received += count
        return self.rx.take_few(count)

    def refill(self) -> int:
        """Fill the fill ring up to `fill_target` from the free frames; return how many."""
        room = self.fill_target - self.fill.held
        if room <= 0 or not self.umem.free:
            return 0
        addresses = self.umem.take(room)
        self.fill.put(addresses)
        self._posted += len(addresses)
        return len(addresses)

    def recycle(self, addresses: np.ndarray) -> None:
        """Free frames that were held here."""
        self.held -= len(addresses)
        self.umem.give_back(addresses)

    # Transmitting -----------------------------------------------------------------------------

    def transmit(self, addresses: np.ndarray, lengths: np.ndarray) -> int:
        """
        Queue packets that lie in taken frames and return how many of the first found room.

        The queued ones are the kernel's then; `kick` has it send them.
        """
        count = min(len(addresses), self.tx.room)
        if count:
            self.tx.put_packets(addresses[:count], lengths[:count])
            self._submitted += count
        return count

    def transmit_few(self, addresses: list[int], lengths: list[int]) -> int:
        """Do as `transmit`, for a few packets."""
        count = min(len(addresses), self.tx.room)
        if count:
            self.tx.put_few(addresses[:count], lengths[:count])
            self._submitted += count
        return count

    def send(self, packets: Iterable[bytes]) -> int:
        """Send frames from their bytes and return how many found a frame and room."""
        packets = list(packets)
        self.reclaim()
        room = min(len(packets), self.tx.room)
        addresses = self.umem.take(room)
        for address, packet in zip(addresses.tolist(), packets, strict=False):
            self.umem.view[address:address + len(packet)] = packet
        lengths = np.fromiter(map(len, packets[:len(addresses)]), np.uint32, len(addresses))
        sent = self.transmit(addresses, lengths)
        self.kick()
        return sent

    def kick(self) -> bool:
        """
        Have the kernel send what is queued; return whether it took all of it.

        :raises InterfaceGone: there is nobody to send it
        """
        if self.settings.need_wakeup and not self.tx.needs_wakeup:
            return True
        for _ in range(1 + self.tx.entries // 32):
            try:
                self._socket.send(b'', socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno in _GONE:
                    self._error = error.errno
                    raise self._gone() from None
                if error.errno not in _BUSY:
                    raise
                if error.errno != errno.EAGAIN:
                    return False
            if not self.tx.waiting:
                return True
        return False

    def reclaim(self) -> int:
        """Free the frames of packets that were sent; return how many."""
        ring = self.completion
        if not ring.ready:
            return 0
        done = ring.take(ring.entries)
        self._completed += len(done)
        self.umem.give_back(done)
        return len(done)

    # Waiting ----------------------------------------------------------------------------------

    def drive(self) -> None:
        """Let the kernel work on the receive queue now: a wake-up, or a turn of busy polling."""
        with contextlib.suppress(OSError):
            self._socket.recv(0, socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        """Return the descriptor, for poll(2) and for the XSKMAP."""
        return self._socket.fileno()

    def check(self) -> None:
        """Raise InterfaceGone where the interface was removed, or is down."""
        self._error = self._error or self._socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_ERROR)
        if self._error:
            raise self._gone()

    # What is shown ----------------------------------------------------------------------------

    @property
    def zero_copy(self) -> bool:
        """Return whether the driver fills the UMEM itself."""
        data = self._socket.getsockopt(uapi.SOL_XDP, uapi.Option.OPTIONS, 4)
        return bool(struct.unpack('=I', data)[0] & uapi.OPTIONS_ZEROCOPY)

    def statistics(self) -> dict[str, int]:
        """Return XDP_STATISTICS by name; what the kernel does not know is 0."""
        data = self._socket.getsockopt(uapi.SOL_XDP, uapi.Option.STATISTICS,
                                       8 * len(uapi.STATISTICS))
        found = struct.unpack(f'={len(data) // 8}Q', data)
        return {name: found[place] if place < len(found) else 0
                for place, name in enumerate(uapi.STATISTICS)}

    def in_kernel(self) -> int:
        """Return how many frames the kernel holds outside of the rings."""
        receiving = sending = 0
        if self.rx is not None:
            receiving = self._posted - self._received - self.fill.waiting - self.rx.waiting
        sending = (self._submitted - self._completed - self.tx.waiting
                   - self.completion.waiting)
        return receiving + sending

    def close(self) -> None:
        """Close it; frames that were with the kernel are free when the UMEM's last user goes."""
        self._parts.close()

    def __enter__(self) -> XskSocket:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()

    # Inside -----------------------------------------------------------------------------------

    def _gone(self):
        return InterfaceGone(f'use {self.interface} queue {self.queue}',
                             os.strerror(self._error), errno=self._error,
                             next_step='is the interface there, and up? see `ip link`')

    def _open(self, first, receive):
        index = socket.if_nametoindex(self.interface)
        self._socket = self._parts.enter_context(
            socket.socket(uapi.AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0))
        entries = self.settings.ring_entries
        if first is None:
            self._set(uapi.Option.UMEM_REG, uapi.UMEM_REG.pack(
                self.umem.address, self.umem.size, self.umem.frame_size,
                self.settings.headroom))
        options = [uapi.Option.UMEM_FILL_RING, uapi.Option.UMEM_COMPLETION_RING,
                   uapi.Option.TX_RING]
        if receive:
            options.append(uapi.Option.RX_RING)
        for option in options:
            self._set(option, struct.pack('=I', entries))
        with contextlib.suppress(OSError):  # a kernel before 6.17 sends 32 packets a call
            self._set(uapi.Option.MAX_TX_SKB_BUDGET, struct.pack(
                '=I', min(_SEND_BUDGET, entries)))
        found = uapi.MMAP_OFFSETS.unpack(self._socket.getsockopt(
            uapi.SOL_XDP, uapi.Option.MMAP_OFFSETS, uapi.MMAP_OFFSETS.size))
        offsets = [found[place:place + 4] for place in range(0, 16, 4)]
        self.tx = self._ring(ProducerRing, uapi.PageOffset.TX_RING, offsets[1], uapi.DESCRIPTOR)
        self.fill = self._ring(ProducerRing, uapi.PageOffset.FILL_RING, offsets[2],
                               uapi.ADDRESS_ENTRY)
        self.completion = self._ring(ConsumerRing, uapi.PageOffset.COMPLETION_RING, offsets[3],
                                     uapi.ADDRESS_ENTRY)
        if receive:
            self.rx = self._ring(ConsumerRing, uapi.PageOffset.RX_RING, offsets[0],
                                 uapi.DESCRIPTOR)
        busy_poll(self._socket, self.settings)
        self._bind(index, first)

    def _ring(self, kind, page_offset, offsets, dtype):
        ring = kind(self._socket.fileno(), page_offset, offsets, self.settings.ring_entries,
                    dtype)
        self._parts.callback(ring.close)
        return ring

    def _set(self, option, value):
        self._socket.setsockopt(uapi.SOL_XDP, option, value)

    def _bind(self, index, first):
        flags = 0
        if first is not None:
            # The kernel takes the other flags from who registered the UMEM.
            flags = uapi.BindFlag.SHARED_UMEM
        else:
            if self.settings.mode != 'auto':
                flags |= {'copy': uapi.BindFlag.COPY, 'zero-copy': uapi.BindFlag.ZEROCOPY}[
                    self.settings.mode]
            if self.settings.need_wakeup:
                flags |= uapi.BindFlag.USE_NEED_WAKEUP
        address = uapi.ADDRESS.pack(uapi.AF_XDP, flags, index, self.queue,
                                    0 if first is None else first.fileno())
        deadline = time.monotonic() + _RELEASE_S
        # Python's bind() does not know this family.
        while _libc.bind(self._socket.fileno(), address, len(address)):
            number = ctypes.get_errno()
            # A socket that was closed gives its queue back a moment later.
            if number != errno.EBUSY or time.monotonic() > deadline:
                raise OSError(number, os.strerror(number))
            time.sleep(0.005)
