"""Metrics of the node ipc_bypass: its ~/statistics, and its ~/flows by pairs of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ipc_bypass.metrics.families import counter, gauge, states
from ipc_bypass.metrics.ledger import Ledger, OTHER, Source

#: lifecycle_msgs State ids that a node is in for longer than a moment.
STATES = {1: 'unconfigured', 2: 'inactive', 3: 'active', 4: 'finalized'}
#: Members of the message that are plain gauges.
_GAUGES = (
    ('rules', 'rules', 'Enrolled rules.'),
    ('queued_bytes', 'queued_bytes', 'Redirected bytes that no receiver has read yet.'),
    ('held_connections', 'held_connections',
     'Connections that still hold kernel objects of an earlier activation.'),
    ('endpoints_left_out', 'endpoints_left_out', 'Endpoints that the node did not name.'))
_POOL_CLASSES = ('small', 'large')
_FLOW_LABELS = ('sender', 'receiver', 'port')
_ENDPOINT_LABELS = ('command', 'port')
# A flow whose age is at most this much above the time since the last message began since then.
_SLACK = 1.0


def statistics_families(message) -> Iterator:
    """Yield the families of a BypassStatistics message."""
    yield states('node_state', 'Lifecycle state of the node.', STATES.get(message.state, ''),
                 STATES.values())
    for name in ('available', 'selected'):
        yield gauge(f'path_{name}', f'1 where the path is {name}.', [
            (path.transport, path.name, float(getattr(path, name))) for path in message.paths],
            ('transport', 'path'))
    for name, member, text in _GAUGES:
        yield gauge(name, text, [(getattr(message, member),)])
    yield gauge('flows', 'Directions of open connections, by their path at the last send.', [
        ('redirected', message.flows_redirected), ('passed', message.flows_passed)], ('path',))
    for unit in ('bytes', 'messages'):
        yield counter(unit, f'{unit.capitalize()} sent on enrolled connections, by path.', [
            (path, getattr(message, f'{path}_{unit}')) for path in ('redirected', 'passed')],
            ('path',))
    yield counter('datagrams', 'Datagrams to enrolled UDP ports, by what became of them.', [
        (outcome, getattr(message, f'datagrams_{outcome}'))
        for outcome in ('mirrored', 'diverted', 'passed')], ('outcome',))
    yield counter('datagram_captured_bytes', 'Payload of mirrored and diverted datagrams.',
                  [(message.datagram_bytes_captured,)])
    for name, member in (('pool_slots', 'pool_slots'), ('pool_used_slots', 'pool_slots_used')):
        yield gauge(name, 'Slots of the pool, by size' + (
            ', that are being written, ready or held.' if 'used' in name else '.'),
            zip(_POOL_CLASSES, getattr(message, member), strict=False), ('size',))
    yield from _counters(message.counters)


def _counters(counters) -> Iterator:
    """Yield the families of the counters by name: reasons, events and bytes."""
    reasons, udp_reasons, events, sums = [], [], [], []
    for each in counters:
        name = each.name.removeprefix('udp_')
        transport = 'udp' if name != each.name else 'tcp'
        if name in ('redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages',
                    'captured_mirror', 'captured_divert'):
            continue  # metrics of their own
        if each.unit == 'bytes':
            sums.append((transport, name, each.value))
        elif name.startswith('passed_'):
            (udp_reasons if transport == 'udp' else reasons).append(
                (name.removeprefix('passed_'), each.value))
        else:
            events.append((transport, name, each.value))
    yield counter('passed_messages', 'Messages that went the usual way, by reason.', reasons,
                  ('reason',))
    yield counter('passed_datagrams', 'Datagrams that went the usual way only, by reason.',
                  udp_reasons, ('reason',))
    yield counter('events', 'Everything else that is counted, by name: docs/tcp_path.md and '
                  'docs/udp_path.md say what each is.', events, ('transport', 'event'))
    yield counter('counted_bytes', 'Further counters of bytes, by name.', sums,
                  ('transport', 'counter'))


class Flows:
    """
    Flows by (sending command, receiving command, port), and endpoints by (command, port).

    Both are counted since this object began; of a flow that ends, what it sent after the last
    message is in no series. Gauges are of the last message.

    :param limit: most series of each; all others are one, 'other'
    :param port_of: called with a Flow message, returns the port that a rule enrolled
    """

    def __init__(self, limit: int, port_of: Callable | None = None) -> None:
        self._flows, self._endpoints = Ledger(4, limit), Ledger(3, limit)
        self._port_of = port_of or lower_port
        self._open: dict = {}
        self._stamp = self._left_out = None
        self._all_named = False

    def take_flows(self, message) -> None:
        """Add a FlowArray message."""
        stamp = seconds(message.header.stamp)
        elapsed = -1.0 if self._stamp is None else stamp - self._stamp
        self._stamp, self._left_out, self._open = stamp, message.left_out, {}
        sources = {}
        for flow in message.flows:
            series = flow.local_comm, flow.remote_comm, str(self._port_of(flow))
            sources[flow.flow_id] = Source(
                series, (flow.redirected_bytes, flow.passed_bytes, flow.redirected_messages,
                         flow.passed_messages), 0 <= flow.age <= elapsed + _SLACK)
            count, queued = self._open.get(series, (0, 0))
            self._open[series] = count + 1, queued + flow.queued_bytes
        self._flows.update(sources)

    def take_endpoints(self, message) -> None:
        """Add the endpoints of a BypassStatistics message."""
        self._endpoints.update({
            (each.port, each.pid): Source((each.command, str(each.port)), (
                each.captured, each.passed, each.captured_bytes), self._all_named)
            for each in message.endpoints})
        # What is not in a message that names all has not begun.
        self._all_named = message.endpoints_left_out == 0

    def forget(self) -> None:
        """Forget what is open: the node has gone. The sums stay."""
        self._flows.forget()
        self._endpoints.forget()
        self._open, self._stamp, self._left_out, self._all_named = {}, None, None, False

    def families(self) -> Iterator:
        """Yield the families of flows and endpoints."""
        rows = {_named(series, 3): sums for series, sums in self._flows.rows().items()}
        for unit, places in (('bytes', (0, 1)), ('messages', (2, 3))):
            yield counter(f'flow_{unit}', f'{unit.capitalize()} of flows by the commands at '
                          'their ends and the enrolled port, since the exporter began.', [
                              (*series, path, sums[place]) for series, sums in rows.items()
                              for path, place in zip(('redirected', 'passed'), places,
                                                     strict=True)], (*_FLOW_LABELS, 'path'))
        gauges: dict = {}
        for series, values in self._open.items():
            shown = series if series in rows else (OTHER,) * 3
            gauges[shown] = tuple(map(sum, zip(gauges.get(shown, (0, 0)), values, strict=True)))
        for place, name, text in ((0, 'flow_connections', 'Open directions of connections.'),
                                  (1, 'flow_queued_bytes', 'Redirected and not yet read.')):
            yield gauge(name, text, [(*series, values[place])
                                     for series, values in gauges.items()], _FLOW_LABELS)
        yield gauge('flows_left_out', 'Flows that the node did not name.',
                    [] if self._left_out is None else [(self._left_out,)])
        endpoints = {_named(series, 2): sums for series, sums in self._endpoints.rows().items()}
        yield counter('endpoint_datagrams', 'Datagrams by sending command and destination port, '
                      'since the exporter began.', [
                          (*series, outcome, sums[place]) for series, sums in endpoints.items()
                          for place, outcome in enumerate(('captured', 'passed'))],
                      (*_ENDPOINT_LABELS, 'outcome'))
        yield counter('endpoint_captured_bytes', 'Payload of the captured ones.', [
            (*series, sums[2]) for series, sums in endpoints.items()], _ENDPOINT_LABELS)


def lower_port(flow) -> int:
    """Return the lower port of a Flow: the listening end's, where the other is ephemeral."""
    return min(flow.local_port, flow.remote_port)


def seconds(stamp) -> float:
    """Return a builtin_interfaces Time in seconds."""
    return stamp.sec + stamp.nanosec / 1e9


def _named(series, width: int) -> tuple:
    return (OTHER,) * width if series == OTHER else series
