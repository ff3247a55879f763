"""
Which tests run in the virtual machines, too: each promise of a path, by pytest's ids.

Emulation is slow, so that `quick` names the few that CI has time for.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """
    Tests of one promise.

    `tests` are beginnings of pytest's ids, `without` words that leave a test out; `quick` are
    beginnings, too, of those of these tests that CI runs.
    """

    title: str
    tests: tuple[str, ...]
    quick: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def has(self, test, *, quick=False):
        """Return whether a test, by its id, is one of this suite."""
        names = self.quick if quick else self.tests
        return test.startswith(names) and not any(word in test for word in self.without)


def files(names, *, quick=False):
    """Return the files that pytest has to look at for the suites of these names."""
    found = (test for name in names
             for test in (SUITES[name].quick if quick else SUITES[name].tests))
    return list(dict.fromkeys(test.partition('::')[0] for test in found))


_ORDER, _DELIVERY = 'test/tcp/test_tcp_order.py', 'test/udp/test_udp_capture_delivery.py'
_SENDS, _WAYS = 'test/trace/test_trace_sends.py', 'test/proxy/test_proxy_ways.py'
_RINGS = 'test/xdp/af_xdp/test_af_xdp_rings.py'
_SAFE = 'test/vm/inside/test_nothing_is_lost.py'

SUITES = {
    'safe': Suite('Nothing is lost, whatever way is chosen', (_SAFE,), (_SAFE,)),
    'verifier': Suite('Cost of each program in the verifier',
                      ('test/kernel/test_verifier_cost.py',),
                      ('test/kernel/test_verifier_cost.py',)),
    'compiler': Suite('Programs compiled on the kernel itself',
                      ('test/kernel/test_kernel_loader.py::test_the_compiler_stays_out',),
                      ('test/kernel/test_kernel_loader.py::test_the_compiler_stays_out',)),
    'tcp': Suite('TCP redirected by sk_msg', (
        _ORDER,
        'test/tcp/test_tcp_identity.py::test_dual_stack_server',
        'test/tcp/test_tcp_identity.py::test_mapped_client',
        'test/tcp/test_tcp_identity.py::test_native_ipv6',
        'test/tcp/test_tcp_identity.py::test_same_ports_again',
        'test/tcp/test_tcp_counters.py::test_bytes_and_messages[loopback]',
        'test/tcp/test_tcp_crash.py::test_killed_without_pins[loopback]',
        'test/tcp/test_tcp_stop.py::test_cleanup_and_start_again[loopback]',
    ), (
        f'{_ORDER}::test_eight_connections_both_ways[loopback-steered]',
        f'{_ORDER}::test_deferred_accept[loopback-steered]',
        f'{_ORDER}::test_fast_open[steered]',
        'test/tcp/test_tcp_identity.py::test_dual_stack_server[loopback]',
    ), ('plain',)),
    'udp': Suite('UDP captured by cgroup_skb', (_DELIVERY,), (
        f'{_DELIVERY}::test_one[loopback', f'{_DELIVERY}::test_sendmmsg[loopback',
        f'{_DELIVERY}::test_bad_address',
    ), ('child_cgroup',)),
    # The kernel's own headers take the emulated compiler minutes: to be run by hand.
    'trace': Suite('Sends traced by kprobes', (
        _SENDS, 'test/trace/test_trace_life.py', 'test/trace/test_trace_node.py',
    ), (f'{_SENDS}::test_datagrams[4-connected]', f'{_SENDS}::test_connections[4]'),
        ('by_headers', 'without_probes')),
    'xdp': Suite('XDP attached to veth', ('test/xdp/test_xdp_attach.py',), (
        'test/xdp/test_xdp_attach.py::test_attach_replace_detach',), ('another_s_program',)),
    'filter': Suite('XDP filter', ('test/xdp/test_xdp_filter_frames.py',), (
        'test/xdp/test_xdp_filter_frames.py::test_ports',)),
    'limiter': Suite('XDP rate limiter', ('test/xdp/test_xdp_limiter.py',), (
        'test/xdp/test_xdp_limiter.py::test_the_clock_may_wrap',), ('without_locks',)),
    'sampler': Suite('XDP sampler', ('test/xdp/test_xdp_sampler.py',), (
        'test/xdp/test_xdp_sampler.py::test_every_nth',),
        ('first_bytes_are_copied', 'reader_that_hangs')),
    # How frames are told apart; whether they may be handed on depends on the far end's features,
    # which kernels before 6.3 do not tell: there the node hands on none.
    'devmap': Suite('XDP forwarding between the ports of a bridge', (
        'test/xdp/test_xdp_devmap.py::test_every_reason',
        'test/xdp/test_xdp_devmap.py::test_switches'), (
        'test/xdp/test_xdp_devmap.py::test_switches',)),
    'bypass': Suite('XDP routing past the stack', ('test/xdp/test_xdp_bypass.py',), (
        'test/xdp/test_xdp_bypass.py::test_a_routed_packet',), ('random_frames',)),
    'af_xdp': Suite('AF_XDP', (f'{_RINGS}::test_packets', f'{_RINGS}::test_sent',
                               f'{_RINGS}::test_a_full_ring',
                               'test/xdp/af_xdp/test_af_xdp_steering.py'),
                    (f'{_RINGS}::test_packets', f'{_RINGS}::test_sent'),
                    # The other socket of that test has no ring, which 7.2 refuses first.
                    ('frames_that_are_cut', 'another_socket')),
    'fast_path': Suite('Container fast path by tc', ('test/xdp/test_xdp_fast_path.py',), (
        'test/xdp/test_xdp_fast_path.py::test_datagrams_are_handed_over',)),
    'proxy': Suite('Proxy: short cut, sk_skb, splice', (_WAYS,), (
        f'{_WAYS}::test_by_rule', f'{_WAYS}::test_nothing_of_the_kernel'),
        ('backend_is_elsewhere',)),
}
