"""
Which tests run in the virtual machine, too: the core of each path, by pytest's ids.

Emulation is slow (to compile and load a program takes some 10 s), so that each entry has its
price: `seconds` is about what the suite takes on two idle cores, and all of them together have
to end within five minutes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Tests of one path: files or ids as pytest takes them, and a filter as of -k."""

    seconds: int
    tests: tuple[str, ...]
    keywords: str = ''


_TCP = (
    'test/tcp/test_tcp_order.py',
    'test/tcp/test_tcp_identity.py::test_dual_stack_server',
    'test/tcp/test_tcp_identity.py::test_mapped_client',
    'test/tcp/test_tcp_identity.py::test_native_ipv6',
    'test/tcp/test_tcp_identity.py::test_same_ports_again',
    'test/tcp/test_tcp_counters.py::test_bytes_and_messages[loopback]',
    'test/tcp/test_tcp_crash.py::test_killed_without_pins[loopback]',
    'test/tcp/test_tcp_stop.py::test_cleanup_and_start_again[loopback]',
)

SUITES = {
    'tcp': Suite(120, _TCP, 'not plain'),
    'udp': Suite(90, ('test/udp/test_udp_capture_delivery.py',), 'not child_cgroup'),
    # The kernel's own headers take the emulated compiler minutes: to be run by hand.
    'trace': Suite(60, ('test/trace/test_trace_sends.py', 'test/trace/test_trace_life.py',
                        'test/trace/test_trace_node.py'),
                   'not by_headers'),
}
