"""What the UDP path may be told."""

from dataclasses import dataclass

from ipc_bypass.pool.channel import DEFAULT_SOCKET

UDP_PATHS = ('auto', 'cgroup_skb', 'trace', 'loopback')


@dataclass(frozen=True)
class UdpSettings:
    """
    Settings of the UDP path and the pool; the node's parameters of the same names.

    udp_path            'auto', or one path: 'cgroup_skb', 'trace' (copies first bytes, suppresses
                        nothing), 'loopback' (never captures)
    cgroup_path         cgroup v2 folder to attach to; '' is the mount point
    pin_directory       folder in a bpffs for the pool's maps; '' is none
    pool_size           bytes of all slots together, half in small ones, half in large ones
    pool_group          group that may use the pool: a name or a number; '' is root's
    control_socket      Unix socket at which consumers ask for leases
    max_consumers       owners at one time, a ring of descriptors each
    use_limit_percent   slots in use above which datagrams go the usual way
    heartbeat_ms        how long an owner may not have read before its datagrams go the usual way
    watchdog_ms         how often slots that nobody gave back are looked for
    slot_ttl_ms         how long a slot may be kept
    """

    udp_path: str = 'auto'
    cgroup_path: str = ''
    pin_directory: str = '/sys/fs/bpf/ipc_bypass'
    pool_size: int = 64 << 20
    pool_group: str = ''
    control_socket: str = DEFAULT_SOCKET
    max_consumers: int = 8
    use_limit_percent: int = 90
    heartbeat_ms: int = 500
    watchdog_ms: int = 250
    slot_ttl_ms: int = 5000
