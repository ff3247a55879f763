"""What the TCP path and the rule table say, as messages."""

from ipc_bypass.nodes.paths import FAST
from ipc_bypass.tcp.flows import unit_of
from ipc_bypass_interfaces.msg import BypassStatistics, Counter, Flow, PathStatus, Rule

#: Members of a Flow that have the same name and meaning in the message.
FLOW_MEMBERS = (
    'flow_id', 'family', 'local_address', 'local_port', 'remote_address', 'remote_port', 'rule_id',
    'path', 'reason', 'local_pid', 'local_comm', 'remote_pid', 'remote_comm', 'bytes', 'messages',
    'redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages', 'queued_bytes',
    'budget_left')

#: Counters that the statistics show as members of their own; bytes and messages are sums.
TOTALS = ('redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages')


def rule_message(rule, obstacle):
    """Return the Rule message of a rule; `obstacle` says why it has no effect, '' if it has."""
    return Rule(id=rule.id, transport=rule.transport, port_first=rule.port_first,
                port_last=rule.port_last, action=rule.action, origin=rule.origin,
                effective=not obstacle, reason=obstacle)


def flow_message(flow):
    """Return the Flow message of a path's flow."""
    message = Flow(age=float(flow.age_seconds))
    for name in FLOW_MEMBERS:
        setattr(message, name, getattr(flow, name))
    message.passed_by_reason = [
        Counter(name=name, value=value, unit='messages')
        for name, value in flow.passed_by_reason.items()]
    return message


def path_messages(paths):
    """Return the PathStatus messages of the ways that configured Paths know."""
    return [
        PathStatus(transport=transport, name=name,
                   available=name == 'loopback' or path.selected == name,
                   selected=path.selected == name, reason=path.reasons.get(name, ''),
                   notes=path.notes if path.selected == name else [])
        for transport, path in paths.by_transport().items()
        for name in (*FAST[transport], 'loopback')]


def statistics_message(state, paths, rules, flows, rates, held):
    """
    Return the BypassStatistics message, without its header.

    :param state: id of the lifecycle state
    :param paths: the Paths, or None where there are none
    :param rules: number of enrolled rules
    :param flows: the path's flows
    :param rates: Rates, which are brought up to date
    :param held: connections that hold kernel objects of an earlier activation
    """
    message = BypassStatistics(state=state, rules=rules, held_connections=held)
    if paths is None:
        return message
    counters = paths.tcp.counters()
    message.paths = path_messages(paths)
    message.flows = len(flows)
    message.flows_redirected = sum(1 for flow in flows if flow.path != 'loopback')
    message.flows_passed = message.flows - message.flows_redirected
    for name in TOTALS:
        setattr(message, name, counters[name])
    message.bytes = message.redirected_bytes + message.passed_bytes
    message.messages = message.redirected_messages + message.passed_messages
    message.queued_bytes = sum(flow.queued_bytes for flow in flows)
    message.counters = [Counter(name=name, value=value, unit=unit_of(name))
                        for name, value in counters.items()]
    for name, rate in rates.update(counters).items():
        setattr(message, f'{name}_per_second', rate)
    return message


class Rates:
    """Growth of counters per second between two looks at them."""

    NAMES = ('redirected_bytes', 'redirected_messages', 'passed_bytes')

    def __init__(self, clock, names=NAMES):
        """Take `clock`, called without arguments, which returns seconds that never go back."""
        self._clock, self._names = clock, names
        self._before = None

    def update(self, counters):
        """Return the rates by name since the last call; the first call returns zeros."""
        now, values = self._clock(), {name: counters[name] for name in self._names}
        then, before = self._before or (now, values)
        self._before = now, values
        elapsed = now - then
        return {name: (values[name] - before[name]) / elapsed if elapsed > 0 else 0.0
                for name in self._names}
