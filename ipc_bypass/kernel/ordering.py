"""
The order in which other processors see our stores, and in which our loads are made.

x86 (Intel SDM 3A, 8.2) keeps stores and loads in the order of the program, but for a store before
a load. AArch64 (Arm ARM, B2.3) keeps none of it: a datagram could be read before the number that
says that it is whole. Python has no fence of its own; a lock is made of them. Who shares memory
with programs or with the kernel calls `full_barrier` where the order counts and the machine is
`WEAK`.
"""

from __future__ import annotations

import platform
import threading

_STRONG = ('x86_64', 'i686')
#: Whether this machine makes loads, and shows stores, in another order than the program has.
WEAK = platform.machine() not in _STRONG
_LOCK = threading.Lock()


def full_barrier() -> None:
    """
    Keep every load and store before this from being made, or seen, after one behind it.

    To let go of a lock is a store-release, to take one is a load-acquire, and an acquire is never
    made before the release that stands before it in the program: with both, in this order,
    nothing passes. On x86, either one is a locked instruction, which is a full barrier.
    """
    with _LOCK:
        pass
    with _LOCK:
        pass
