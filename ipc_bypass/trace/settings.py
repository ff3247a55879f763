"""What the trace path may be told."""

from dataclasses import dataclass

PATHS = ('auto', 'trace', 'loopback')


@dataclass(frozen=True)
class TraceSettings:
    """
    Settings of the trace path.

    path             'auto', 'trace' (fail where it cannot be had) or 'loopback' (never)
    transports       'udp', 'tcp' or both: those that no better path serves
    capture_bytes    first bytes of each send that are copied; a power of two, 16 to 1024
    buffer_bytes     between the kernel and the node, for each processor; a power of two, of pages
    """

    path: str = 'auto'
    transports: tuple[str, ...] = ('udp', 'tcp')
    capture_bytes: int = 256
    buffer_bytes: int = 1 << 20
