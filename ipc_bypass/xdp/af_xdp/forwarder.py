"""A ready-made pipeline: everything that comes by one interface goes out of another one."""

from __future__ import annotations

from collections.abc import Sequence

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.batch import Batch, TRANSMIT
from ipc_bypass.xdp.af_xdp.xsk_socket import XskSocket


def forward(_batch: Batch) -> int:
    """Return the verdict to send every packet of a batch on, as it is."""
    return TRANSMIT


def outputs_between(sockets: Sequence[XskSocket]) -> dict[XskSocket, XskSocket]:
    """
    Return the `outputs` of a Pipeline that joins the sockets of two interfaces.

    Each socket of the one is joined to one of the other, by the order of their queues; where one
    interface has fewer queues, several lead to one of them. The frames lie in one UMEM and are
    not copied on the way.

    :raises BypassError: these are not the sockets of two interfaces
    """
    names = list(dict.fromkeys(one.interface for one in sockets))
    if len(names) != 2:
        raise BypassError('forward', f"between {', '.join(names) or 'nothing'}",
                          next_step='name two interfaces')
    near, far = ([one for one in sockets if one.interface == name] for name in names)
    return {one: other[place % len(other)] for side, other in ((near, far), (far, near))
            for place, one in enumerate(side)}
