"""Whether descriptors make sense: every consumer of the pool can write them."""

from __future__ import annotations

from ipc_bypass.pool import layout
import numpy as np

#: Bytes of the largest datagram of IPv4: its length field counts the header, too.
_LARGEST_V4 = 65507


def sound(descriptors: np.ndarray) -> np.ndarray:
    """
    Return which records of layout.DESCRIPTOR can be true, a bool array.

    The family is IPv4 or IPv6, and the lengths are those of a datagram of it. Of a message of
    TCP the whole may be longer. Addresses, ports and times are not judged.
    """
    family, flags, length = (descriptors[name] for name in ('family', 'flags', 'length'))
    of_tcp = flags & layout.TCP != 0
    most = np.where(of_tcp, layout.SLOT_DATA[layout.LARGE],
                    np.where(family == 4, _LARGEST_V4, layout.LARGEST_PAYLOAD))
    whole = (flags & layout.TRUNCATED == 0) | (descriptors['original_length'] <= most) | of_tcp
    return ((family == 4) | (family == 6)) & (length <= most) & whole
