"""
Where this kernel keeps whether a UDP socket asked for errors: IP_RECVERR and IPV6_RECVERR.

To such a socket the kernel tells ENOBUFS where a datagram was diverted, so that the program has
to see the flag. Its place comes from the kernel's own BTF.
"""

from __future__ import annotations

import struct
import sys

from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.btf_child import from_child, print_answer
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.tcp.offsets import UNKNOWN


def error_queue_definitions() -> dict[str, int]:
    """
    Return the definitions for the program, as find() does, for the running kernel.

    :raises UnsupportedError: where the kernel offers no BTF, or lacks a member
    """
    return from_child(__name__)


def find(btf: Btf) -> dict[str, int]:
    """
    Return bytes and masks of the flags in a kernel's struct inet_sock, which a UDP socket is.

    OFFSET_RECVERR4, MASK_RECVERR4: a byte from the socket's address on, and the bit in it.
    OFFSET_PINET6: where the socket has the address of its IPv6 part; UNKNOWN where the IPv6 flag
    is in the socket itself. OFFSET_RECVERR6, MASK_RECVERR6: a byte from that address on (or from
    the socket's), and the bit in it.

    :raises UnsupportedError: where there is no such member
    """
    # A numbered bit of inet_flags, from 6.6 and 6.7 on; before, a bit-field.
    try:
        offset4, mask4 = _bit(btf, 'INET_FLAGS_RECVERR')
    except UnsupportedError:
        offset4, mask4 = btf.bit_field('inet_sock', 'recverr')
    try:
        pointer, (offset6, mask6) = UNKNOWN, _bit(btf, 'INET_FLAGS_RECVERR6')
    except UnsupportedError:
        pointer = btf.offset('inet_sock', 'pinet6')
        offset6, mask6 = btf.bit_field('ipv6_pinfo', 'recverr')
    return {'OFFSET_RECVERR4': offset4, 'MASK_RECVERR4': mask4, 'OFFSET_PINET6': pointer,
            'OFFSET_RECVERR6': offset6, 'MASK_RECVERR6': mask6}


def _bit(btf: Btf, enumerator: str) -> tuple[int, int]:
    """Return the byte and the mask of a bit of inet_flags (a long), as the kernel numbers it."""
    byte, bit = divmod(btf.enumerator(enumerator), 8)
    if sys.byteorder == 'big':
        byte = struct.calcsize('L') - 1 - byte
    return btf.offset('inet_sock', 'inet_flags') + byte, 1 << bit


if __name__ == '__main__':
    print_answer(find)
