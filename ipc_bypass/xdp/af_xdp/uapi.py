"""Numbers and structs of AF_XDP, as in uapi/linux/if_xdp.h and asm-generic/socket.h."""

from __future__ import annotations

import enum
import struct

import numpy as np

AF_XDP = 44
SOL_XDP = 283


class Option(enum.IntEnum):
    """Options of SOL_XDP."""

    MMAP_OFFSETS = 1
    RX_RING = 2
    TX_RING = 3
    UMEM_REG = 4
    UMEM_FILL_RING = 5
    UMEM_COMPLETION_RING = 6
    STATISTICS = 7
    OPTIONS = 8
    MAX_TX_SKB_BUDGET = 9  # from 6.17


class BindFlag(enum.IntFlag):
    """Flags of bind(2), sockaddr_xdp.sxdp_flags."""

    SHARED_UMEM = 1
    COPY = 2
    ZEROCOPY = 4
    USE_NEED_WAKEUP = 8


class PageOffset(enum.IntEnum):
    """Where mmap(2) finds the rings of a socket."""

    RX_RING = 0
    TX_RING = 0x80000000
    FILL_RING = 0x100000000
    COMPLETION_RING = 0x180000000


SO_BUSY_POLL = 46
SO_PREFER_BUSY_POLL = 69
SO_BUSY_POLL_BUDGET = 70
#: Flag of XDP_OPTIONS: the driver fills the UMEM itself.
OPTIONS_ZEROCOPY = 1
#: Flag of a ring: the kernel sleeps until it is woken.
NEED_WAKEUP = 1

#: struct xdp_umem_reg as it was at first: address, length, chunk size, headroom (24 bytes).
UMEM_REG = struct.Struct('=QQII')
#: struct sockaddr_xdp: family, flags, interface, queue, descriptor of who shares its UMEM.
ADDRESS = struct.Struct('=HHIII')
#: struct xdp_mmap_offsets: (producer, consumer, descriptors, flags) of rx, tx, fill, completion.
MMAP_OFFSETS = struct.Struct('=16Q')
#: struct xdp_desc, an entry of the rx and the tx ring.
DESCRIPTOR = np.dtype([('address', '=u8'), ('length', '=u4'), ('options', '=u4')])
#: An entry of the fill and the completion ring.
ADDRESS_ENTRY = np.dtype('=u8')
#: struct xdp_statistics (the last three from 5.9).
STATISTICS = ('rx_dropped', 'rx_invalid_descs', 'tx_invalid_descs', 'rx_ring_full',
              'rx_fill_ring_empty_descs', 'tx_ring_empty_descs')
