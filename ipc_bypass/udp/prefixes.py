"""Sets of address prefixes, matched against many addresses at once."""

from __future__ import annotations

from collections.abc import Iterable
import errno
import ipaddress

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.udp.packets import MAPPED
import numpy as np


class Prefixes:
    """
    Prefixes of IPv4 and IPv6, as '10.9.0.0/16' and 'fd00:9::/64'.

    `networks` are they as ipaddress has them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Raise BypassError where a text is no prefix, or one of multicast."""
        self.networks = [_network(text) for text in texts]
        rows = [_words(network) for network in self.networks]
        self._masks = np.array([mask for mask, _ in rows], '>u8').reshape(-1, 2)
        self._wanted = np.array([wanted for _, wanted in rows], '>u8').reshape(-1, 2)
        self._whole = [(mask[0] << 64 | mask[1], wanted[0] << 64 | wanted[1])
                       for mask, wanted in rows]

    def __len__(self) -> int:
        """Return how many prefixes there are."""
        return len(self.networks)

    def match(self, addresses: np.ndarray) -> np.ndarray:
        """Return which of these addresses, u1 of shape (count, 16), are within; bool."""
        words = np.ascontiguousarray(addresses).view('>u8').reshape(-1, 2)
        found = np.zeros(len(words), dtype=bool)
        for mask, wanted in zip(self._masks, self._wanted, strict=True):
            found |= ((words & mask) == wanted).all(axis=1)
        return found

    def __contains__(self, address: bytes) -> bool:
        """Return whether an address of 4 or 16 bytes is within."""
        if len(address) == 4:
            address = MAPPED + address
        number = int.from_bytes(address, 'big')
        return any(number & mask == wanted for mask, wanted in self._whole)


def _network(text):
    what = f"claim the prefix '{text}'"
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BypassError(what, str(error), errno=errno.EINVAL,
                          next_step='write it as 10.9.0.0/16 or fd00:9::/64') from None
    if network.is_multicast:
        raise BypassError(what, 'multicast is never diverted', errno=errno.EINVAL)
    return network


def _words(network):
    """Return (mask, wanted) as pairs of 64-bit words, of addresses in 16 bytes."""
    length = network.prefixlen + (96 if network.version == 4 else 0)
    mask = (1 << 128) - (1 << 128 - length)
    packed = network.network_address.packed
    wanted = int.from_bytes(MAPPED + packed if network.version == 4 else packed, 'big')
    low = (1 << 64) - 1
    return (mask >> 64, mask & low), (wanted >> 64, wanted & low)
