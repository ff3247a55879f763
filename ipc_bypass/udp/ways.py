"""Where the datagrams of a batch go: into the bridge's device, back, or elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from ipc_bypass.pool import layout
from ipc_bypass.pool.soundness import sound
from ipc_bypass.udp.prefixes import Prefixes
import numpy as np


class Ways(NamedTuple):
    """
    Which datagrams go where, as bool arrays; each goes at most one way.

    onward   into the device
    back     into the local device: an answer of the far end to an address of that
    astray   the usual way: diverted, and neither
    left     nowhere: {name in outcomes.POOL_OUTCOMES: how many}
    """

    onward: np.ndarray
    back: np.ndarray
    astray: np.ndarray
    left: dict[str, int]


def ways_of(records: np.ndarray, prefixes: Prefixes, near: Prefixes, *, local: bool) -> Ways:
    """
    Return the Ways of datagrams.

    :param records: of dtype layout.DESCRIPTOR
    :param prefixes: those that the bridge claims
    :param near: addresses of the local device, which may be within the claimed prefixes
    :param local: whether there is a local device: then what is mirrored goes the usual way
    """
    whole = ((records['flags'] & (layout.TRUNCATED | layout.TCP)) == 0) & sound(records)
    diverted = records['action'] == layout.DIVERT
    to_near = near.match(records['destination_address'])
    to_far = prefixes.match(records['destination_address']) & ~to_near
    from_far = prefixes.match(records['source_address']) & ~near.match(records['source_address'])
    onward = whole & to_far & (diverted | (not local))
    back = whole & to_near & from_far & diverted
    return Ways(onward, back, whole & diverted & ~to_far & ~back, {
        'truncated': int(np.count_nonzero(~whole)),
        'mirrored': int(np.count_nonzero(whole & to_far & ~onward)),
        'not_claimed': int(np.count_nonzero(whole & ~to_far & ~diverted))})
