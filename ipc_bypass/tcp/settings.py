"""What the TCP path may be told."""

from dataclasses import dataclass

TCP_PATHS = ('auto', 'sk_msg', 'loopback')
RENEWALS = ('auto', 'program', 'userspace')


@dataclass(frozen=True)
class TcpSettings:
    """
    Settings of the TCP path; the node's parameters of the same names.

    tcp_path             'auto', 'sk_msg' (fail where it cannot be had) or 'loopback' (never)
    cgroup_path          cgroup v2 folder to attach to; '' is the mount point
    pin_directory        folder in a bpffs that keeps maps over a restart; '' is none
    max_connections      connections with both ends on this host, two flow records each
    budget_bytes         a receiver may have this much redirected and unread
    total_budget_bytes   all receivers together; many of them share it evenly
    pause_initial_ms     how long a flow passes at least after its budget was spent
    pause_max_ms         that pause doubles up to this
    guard_rate           messages a second from which small writes are watched; 0 is never
    guard_size_bytes     mean size below which a write is small
    guard_duration_ms    how long it must last before the flow is turned to pass
    tcp_capture          copy redirected messages to the pool of the UDP path, for observers
    exclude              names of processes (as /proc/PID/comm) and users ('user:NAME' or
                         'user:1000') whose connections are left out
    find_unfit           look for programs that rely on what a redirected socket does not have
                         (splice, MSG_WAITALL), and leave them out
    renewal              who looks at the receivers: 'program' (sk_msg itself), 'userspace', or
                         'auto', the program where this kernel lets it
    """

    tcp_path: str = 'auto'
    cgroup_path: str = ''
    pin_directory: str = '/sys/fs/bpf/ipc_bypass'
    max_connections: int = 1024
    budget_bytes: int = 16 << 20
    total_budget_bytes: int = 512 << 20
    pause_initial_ms: int = 2
    pause_max_ms: int = 100
    guard_rate: int = 100_000
    guard_size_bytes: int = 1024
    guard_duration_ms: int = 500
    tcp_capture: bool = False
    exclude: tuple = ('haproxy',)
    find_unfit: bool = True
    renewal: str = 'auto'
