"""What the proxy says, as messages."""

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ipc_bypass.tcp.flows import unit_of as tcp_unit_of
from ipc_bypass_interfaces.msg import Counter, ProxyConnection, ProxyForward, ProxyStatus
from rclpy.time import Time

_CONNECTION_MEMBERS = ('forward_id', 'client', 'backend', 'path', 'reason', 'age_s', 'idle_s',
                       'bytes_onward', 'bytes_back')
_FORWARD_MEMBERS = ('path', 'proxy_protocol', 'idle_timeout_s', 'connect_timeout_s',
                    'max_connections')
_STATUS_MEMBERS = ('id', 'origin', 'listening', 'health', 'health_reason', 'last_error')
#: Counters of a forward that have members of their own.
_NAMED = ('accepted', 'bytes_onward', 'bytes_back')
_PATHS = ('connecting', 'shortcut', 'sk_skb', 'splice')


def status_message(state, report):
    """Return the ProxyStatus message of a ProxyReport, without its header."""
    return ProxyStatus(
        state=state,
        shortcut_available=report.ways.get('shortcut', False),
        shortcut_reason=report.reasons.get('shortcut', ''),
        sk_skb_available=report.ways.get('sk_skb', False),
        sk_skb_reason=report.reasons.get('sk_skb', ''),
        remote_path=report.remote,
        forwards=[forward_message(each) for each in report.forwards],
        counters=[Counter(name=name, value=value, unit=unit_of(name))
                  for name, value in sorted(report.counters.items())],
        problems=list(report.problems))


def forward_message(status):
    """Return the ProxyForward message of a ForwardStatus."""
    message = ProxyForward(
        listen=str(status.forward.listen), backend=str(status.forward.backend),
        backend_addresses=list(status.backends), open=sum(status.open.values()),
        health_since=Time(nanoseconds=int(status.health_since * 1e9)).to_msg(),
        counters=[Counter(name=name, value=value, unit=unit_of(name))
                  for name, value in sorted(status.counters.items()) if name not in _NAMED])
    for source, names in ((status.forward, _FORWARD_MEMBERS), (status, _STATUS_MEMBERS)):
        for name in names:
            setattr(message, name, getattr(source, name))
    for name in _PATHS:
        setattr(message, name, status.open.get(name, 0))
    for name in _NAMED:
        setattr(message, name, status.counters.get(name, 0))
    return message


def connection_message(status):
    """Return the ProxyConnection message of a ConnectionStatus."""
    return ProxyConnection(**{name: getattr(status, name) for name in _CONNECTION_MEMBERS})


def unit_of(counter):
    """Return the unit of a counter's value."""
    if counter.startswith('shortcut_'):
        return tcp_unit_of(counter.removeprefix('shortcut_'))
    if counter.startswith('sk_skb_'):
        return 'segments'
    return 'bytes' if counter.startswith('bytes_') else 'connections'


def diagnostic_statuses(node_name, hardware_id, report, active):
    """
    Return a DiagnosticStatus for the ways and one for each forward.

    WARN where the short cut cannot be had, where a backend is not known to accept, and where the
    node is not active; ERROR where an active forward's backend does not accept.
    """
    found = {'ways': _ways_health(report)}
    found.update({f'forward {each.id}': _forward_health(each, active)
                  for each in report.forwards})
    return [
        DiagnosticStatus(
            name=f'{node_name}: {name}', level=level, message=text, hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        for name, (level, text, values) in found.items()]


def _ways_health(report):
    values = {**{f'{name} note': reason for name, reason in report.reasons.items()},
              'ends elsewhere': report.remote,
              **{name: count for name, count in report.counters.items()
                 if name.startswith(('fallback_', 'ended_'))}}
    if not report.ways.get('shortcut'):
        reason = report.reasons.get('shortcut', 'not configured')
        level = DiagnosticStatus.OK if 'forbidden' in reason else DiagnosticStatus.WARN
        return level, f'connections are moved in user space: {reason}', values
    return DiagnosticStatus.OK, f'short cut; with ends elsewhere {report.remote}', values


def _forward_health(status, active):
    values = {'forward': status.forward, 'origin': status.origin, **status.counters,
              **{f'open by {path}': count for path, count in status.open.items()}}
    words = f'{status.forward.listen} -> {status.forward.backend}'
    if not active:
        return DiagnosticStatus.WARN, f'{words}: the node is not active', values
    if status.health == 'down':
        return DiagnosticStatus.ERROR, f'{words} is down: {status.health_reason}', values
    if status.health == 'unknown':
        return DiagnosticStatus.WARN, f'{words}: nobody has connected yet', values
    return DiagnosticStatus.OK, f'{words}: {sum(status.open.values())} open', values
