"""Short ways to prometheus_client's metric families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

#: What every name begins with.
PREFIX = 'ipc_bypass'


def gauge(name: str, text: str, rows: Iterable = (), labels: Sequence[str] = ()) -> Metric:
    """Return a gauge; `rows` are (values of the labels..., value)."""
    return _filled(GaugeMetricFamily, name, text, rows, labels)


def counter(name: str, text: str, rows: Iterable = (), labels: Sequence[str] = ()) -> Metric:
    """Return a counter, whose samples get the suffix _total; `rows` as for `gauge`."""
    return _filled(CounterMetricFamily, name, text, rows, labels)


def states(name: str, text: str, value: str, values: Iterable[str]) -> Metric:
    """Return a gauge with a sample for each of `values`: 1 for the one that holds, else 0."""
    return gauge(name, text, [(each, float(each == value)) for each in values], ('state',))


def _filled(kind, name, text, rows, labels) -> Metric:
    family = kind(f'{PREFIX}_{name}', text, labels=labels)
    for *names, value in rows:
        family.add_metric([str(each) for each in names], value)
    return family
