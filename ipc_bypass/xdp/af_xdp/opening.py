"""Open the sockets of several queues."""

from __future__ import annotations

from collections.abc import Sequence

from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.umem import Umem
from ipc_bypass.xdp.af_xdp.xsk_socket import XskSocket


def open_sockets(queues: Sequence[tuple[str, int]], settings: AfXdpSettings) -> list[XskSocket]:
    """
    Return a socket for each (interface, queue), in this thread's network namespace.

    They share one UMEM, as packets that are forwarded between them need it, unless the settings
    say otherwise.

    :raises BypassError: one cannot be bound; then none is left open
    """
    opened: list[XskSocket] = []
    try:
        umem = first = None
        for interface, queue in queues:
            if umem is None or not settings.share_umem:
                umem, first = Umem(settings.frames, settings.frame_size), None
            opened.append(XskSocket(interface, queue, umem, settings, first=first))
            first = first or opened[-1]
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened
