"""What the proxy counts, as text for Prometheus, on an HTTP port of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ipc_bypass.metrics import server
from ipc_bypass.proxy.status import PATHS, ProxyReport

_PREFIX = 'ipc_bypass_proxy'


class MetricsServer(server.MetricsServer):
    """
    Answers GET /metrics with what the proxy counts until close().

    :param report: called without arguments, from any thread, returns a ProxyReport
    :raises UnsupportedError: without the package prometheus_client
    :raises BypassError: when the port cannot be had
    """

    def __init__(self, address: str, port: int, report: Callable[[], ProxyReport]) -> None:
        super().__init__(address, port, lambda: families(report()),
                         next_step='set prometheus_port to another one, or to 0')


def families(report: ProxyReport) -> Iterator:
    """Yield prometheus_client's families of a report."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    labels = ('forward', 'listen', 'backend')
    accepted = CounterMetricFamily(f'{_PREFIX}_accepted_connections',
                                   'Connections that were accepted.', labels=labels)
    moved = CounterMetricFamily(f'{_PREFIX}_bytes', 'Bytes that were moved, by whichever way.',
                                labels=(*labels, 'direction'))
    ends = CounterMetricFamily(f'{_PREFIX}_ended_connections', 'Connections by how they ended.',
                               labels=(*labels, 'end'))
    errors = CounterMetricFamily(f'{_PREFIX}_connect_errors', 'Backends that did not accept.',
                                 labels=(*labels, 'reason'))
    active = GaugeMetricFamily(f'{_PREFIX}_active_pairs', 'Open connections by their path.',
                               labels=(*labels, 'path'))
    up = GaugeMetricFamily(f'{_PREFIX}_backend_up', '1: it accepts, 0: not, or not known.',
                           labels=labels)
    for each in report.forwards:
        names = [str(each.id), str(each.forward.listen), str(each.forward.backend)]
        accepted.add_metric(names, each.counters.get('accepted', 0))
        up.add_metric(names, float(each.health == 'up'))
        for path in PATHS:
            active.add_metric([*names, path], each.open.get(path, 0))
        for direction in ('onward', 'back'):
            moved.add_metric([*names, direction], each.counters.get(f'bytes_{direction}', 0))
        for name, value in each.counters.items():
            if name.startswith('connect_error_'):
                errors.add_metric([*names, name.removeprefix('connect_error_')], value)
            elif name in ('finished', 'reset', 'idle', 'connect_error', 'closed_by_node'):
                ends.add_metric([*names, name], value)
    fallbacks = CounterMetricFamily(f'{_PREFIX}_fallbacks',
                                    'Connections by what kept them from a faster way.',
                                    labels=('reason',))
    redirects = CounterMetricFamily(f'{_PREFIX}_redirects',
                                    'Messages and segments by what the programs did with them.',
                                    labels=('program', 'status'))
    for name, value in report.counters.items():
        kind, _, rest = name.partition('_')
        if kind == 'fallback':
            fallbacks.add_metric([rest], value)
        elif name.startswith('sk_skb_'):
            redirects.add_metric(['sk_skb', name.removeprefix('sk_skb_')], value)
        elif kind == 'shortcut' and not rest.endswith('_bytes'):
            redirects.add_metric(['sk_msg', rest], value)
    yield from (accepted, moved, ends, errors, active, up, fallbacks, redirects)
