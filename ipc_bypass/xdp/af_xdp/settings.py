"""What the AF_XDP pipeline may be told, and what of it makes sense."""

from __future__ import annotations

from dataclasses import dataclass
import os

from ipc_bypass.kernel.errors import BypassError

MODES = ('auto', 'copy', 'zero-copy')
#: Bytes that the kernel keeps free before each packet, XDP_PACKET_HEADROOM.
KERNEL_HEADROOM = 256
#: Bytes of Ethernet's header with two VLAN tags, which the MTU does not count.
LINK_HEADER = 22
#: Sizes of a frame in aligned mode: XDP_UMEM_MIN_CHUNK_SIZE to a page, a power of two.
FRAME_SIZES = (2048, 4096)
_MOST_FRAMES = 1 << 20
_MOST_ENTRIES = 1 << 16


@dataclass(frozen=True)
class AfXdpSettings:
    """
    Settings of AF_XDP sockets and of the process that handles their packets.

    frame_size          bytes of one frame of the UMEM: 2048 or 4096; of these, the kernel keeps
                        256 and `headroom` before the packet
    frames              frames of the UMEM, for all sockets that share it
    ring_entries        entries of each ring (fill, completion, rx, tx), a power of two
    batch               packets that are taken at once, at most
    mode                'auto' (zero-copy where the driver has it), 'copy' or 'zero-copy'
    need_wakeup         let the kernel say when it has to be woken (5.4), which saves system calls
    headroom            bytes free before each packet, besides the kernel's own
    drop_oversize       where the MTU is larger than a frame: do without the packets that do not
                        fit (counted in rx_dropped), instead of refusing the interface
    cpu                 processor on which packets are handled, -1 is any
    spin                never sleep: look again at once
    rest_us             microseconds of rest in a busy spell (packets come without a pause): the
                        next batch grows, and senders wake nobody. It adds as much to the latency
                        of what comes then. 0 is none
    busy_poll_us        microseconds for which a look may drive the driver's receive queue itself
                        (SO_BUSY_POLL), 0 is never
    busy_poll_budget    packets of one such turn (SO_BUSY_POLL_BUDGET)
    prefer_busy_poll    keep interrupts off while such turns come (SO_PREFER_BUSY_POLL, 5.11)
    share_umem          one UMEM for the sockets of all queues; else one each
    """

    frame_size: int = 2048
    frames: int = 8192
    ring_entries: int = 4096
    batch: int = 256
    mode: str = 'auto'
    need_wakeup: bool = True
    headroom: int = 0
    drop_oversize: bool = False
    cpu: int = -1
    spin: bool = False
    rest_us: int = 250
    busy_poll_us: int = 0
    busy_poll_budget: int = 64
    prefer_busy_poll: bool = False
    share_umem: bool = True

    def __post_init__(self) -> None:
        """Raise BypassError where a value makes no sense."""
        for name, most in (('frames', _MOST_FRAMES), ('ring_entries', _MOST_ENTRIES)):
            self._within(name, 2, most)
        if self.frame_size not in FRAME_SIZES:
            raise self._error('frame_size', 'use 2048 or 4096')
        if self.ring_entries & (self.ring_entries - 1):
            raise self._error('ring_entries', 'use a power of two')
        if self.mode not in MODES:
            raise self._error('mode', f"use one of {', '.join(MODES)}")
        self._within('batch', 1, _MOST_ENTRIES)
        self._within('headroom', 0, self.frame_size - KERNEL_HEADROOM - 256)
        self._within('busy_poll_us', 0, 1_000_000)
        self._within('busy_poll_budget', 1, 65535)
        self._within('rest_us', 0, 100_000)
        self._within('cpu', -1, 65535)
        if self.cpu >= 0 and self.cpu not in os.sched_getaffinity(0):
            raise self._error('cpu', 'this process may use '
                              + ', '.join(map(str, sorted(os.sched_getaffinity(0)))))

    @property
    def room(self) -> int:
        """Return how many bytes of a frame a packet may have."""
        return self.frame_size - KERNEL_HEADROOM - self.headroom

    def check_mtu(self, interface: str, mtu: int) -> None:
        """
        Raise BypassError where packets of an MTU do not fit in a frame.

        A packet over several frames (XDP_USE_SG, 6.6) is not supported: a handler is given each
        packet as one piece of memory.
        """
        if self.drop_oversize or mtu + LINK_HEADER <= self.room:
            return
        fits = max(FRAME_SIZES) - KERNEL_HEADROOM - self.headroom - LINK_HEADER
        steps = [f'lower the MTU to {fits} at most', 'or set drop_oversize']
        if mtu <= fits:
            steps[0] = 'use frame_size 4096'
        raise BypassError(f'use {interface} with AF_XDP', f'its MTU of {mtu} bytes does not fit '
                          f'in a frame, which has room for {self.room - LINK_HEADER}; packets '
                          'over several frames are not supported', next_step=', '.join(steps))

    def _within(self, name, least, most):
        if not least <= getattr(self, name) <= most:
            raise self._error(name, f'use {least} to {most}')

    def _error(self, name, next_step):
        return BypassError(f'set {name} of AF_XDP', f'{getattr(self, name)!r} is not possible',
                           next_step=next_step)
