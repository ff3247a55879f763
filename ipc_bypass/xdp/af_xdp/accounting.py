"""Where every frame of a UMEM is: what is shown has to add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipc_bypass.xdp.af_xdp.umem import Umem
from ipc_bypass.xdp.af_xdp.xsk_socket import XskSocket


@dataclass(frozen=True)
class Frames:
    """
    Where the frames of a UMEM are, as `account` finds them; `total` is the sum.

    free         with this process, for anybody
    user         with this process, in a batch that is being handled
    fill         in a fill ring
    rx           in an rx ring
    tx           in a tx ring
    completion   in a completion ring
    kernel       with the kernel: taken from a fill ring and not received yet, or taken from a tx
                 ring and not completed yet
    """

    free: int
    user: int
    fill: int
    rx: int
    tx: int
    completion: int
    kernel: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return (self.free + self.user + self.fill + self.rx + self.tx + self.completion
                + self.kernel)


def account(umem: Umem, sockets: Iterable[XskSocket]) -> Frames:
    """Return where the frames of a UMEM are, given all sockets that use it."""
    sockets = list(sockets)
    return Frames(
        free=umem.free, user=sum(one.held for one in sockets),
        fill=sum(one.fill.waiting for one in sockets),
        rx=sum(one.rx.waiting for one in sockets if one.rx is not None),
        tx=sum(one.tx.waiting for one in sockets),
        completion=sum(one.completion.waiting for one in sockets),
        kernel=sum(one.in_kernel() for one in sockets))
