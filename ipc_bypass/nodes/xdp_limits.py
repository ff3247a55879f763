"""What the services of the node xdp_helper may change, by its parameters."""

from ipc_bypass.rules.service_limits import ServiceLimits
from ipc_bypass.rules.table import ACTIONS
from ipc_bypass.xdp.filter.rules import parse, TCP, UDP
from ipc_bypass.xdp.interfaces import interfaces, matching
from ipc_bypass.xdp.request_error import RequestError

_TRANSPORTS = {TCP: 'tcp', UDP: 'udp'}
#: A pattern that names interfaces which are not there yet.
_OPEN = '*?[:'


class XdpServiceLimits:
    """
    Checks requests of services, which are open to the whole ROS graph.

    :param values: the node's parameters by name, as they are at its start
    :param own_domain: ROS domain id of the node
    :raises RuleError: where service_filter_ports or filter_rules cannot be read
    """

    def __init__(self, values, own_domain):
        """Take the limits."""
        self._patterns = [pattern for pattern in (
            values['service_interfaces'] or values['interfaces']) if pattern]
        self._ports = ServiceLimits(values['service_filter_ports'], own_domain)
        self._configured = [parse(text) for text in values['filter_rules'] if text]

    def check_interface(self, pattern, managed):
        """
        Raise RequestError NOT_ALLOWED where a service may not change these interfaces.

        :param pattern: of the request; '': all of the node
        :param managed: names of the node's interfaces
        """
        if '*' in self._patterns or pattern in self._patterns:
            return
        present = interfaces()
        asked = matching([pattern], present) if pattern else [
            each for each in present if each.name in managed]
        within = {each.index for each in matching(self._patterns, present)}
        beyond = [each.name for each in asked if each.index not in within]
        # A pattern goes on to take in what comes later.
        if beyond or any(letter in pattern for letter in _OPEN):
            raise RequestError(
                f"change {', '.join(beyond) or pattern}",
                'the parameter service_interfaces allows '
                f"services {', '.join(self._patterns) or 'no interface'}", code='NOT_ALLOWED',
                next_step='set it where the node is started')

    def check_rule(self, text):
        """Raise RequestError NOT_ALLOWED where a service may not add this rule; RuleError."""
        rule = parse(text)
        transport, ports = _TRANSPORTS.get(rule.protocol), rule.destination_ports
        if transport is None or ports is None or not self._ports.cover(
                transport, *ports, ACTIONS[transport][0]):
            raise RequestError(
                f"add the rule '{rule}'", 'services may add rules for the destination ports of '
                'the parameter service_filter_ports only', code='NOT_ALLOWED',
                next_step='set it, or filter_rules, where the node is started')
        for other in self._configured:
            # The most specific rule decides, so that this one could undo the other.
            if other.action != rule.action and _meet(rule, other):
                raise RequestError(
                    f"add the rule '{rule}'", f"it is against the configured rule '{other}'",
                    code='NOT_ALLOWED',
                    next_step='change filter_rules where the node is started')


def _meet(one, other):
    """Return whether two FilterRules, the first with ports, may match the same packet."""
    ports = other.destination_ports
    if other.protocol not in (None, one.protocol):
        return False
    if ports and (ports[1] < one.destination_ports[0] or one.destination_ports[1] < ports[0]):
        return False
    return all(a is None or b is None or (a.version == b.version and a.overlaps(b))
               for a, b in ((one.source, other.source), (one.destination, other.destination)))
