"""
What services may enroll: a rule has to lie within the limits that the configuration gives.

Services and parameters are open to the whole ROS graph. Whoever starts the node says what the
graph may do with it; the rules of its own configuration are not limited.
"""

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.rules.rtps import tcp_ports
from ipc_bypass.rules.table import ACTIONS, parse

#: The parameter that holds the limits.
PARAMETER = 'service_rules'
#: The DDS domain that the node itself is in.
OWN = 'own'
#: What a limit of a domain stands for where it names no action: divert has to be named.
_SAFE_ACTIONS = (('tcp', 'accelerate'), ('udp', 'mirror'))
_FORM = 'write domain:own, domain:N[:ACTION] or transport:port[-port][:action]'


class ServiceLimits:
    """
    The ports and actions that services may enroll; ranges that touch count as one.

    :param texts: limits: 'domain:own', 'domain:3:divert', 'tcp:5201-5210', 'udp:7411:divert'.
        A domain's ports are the 250 numbers from 7400 + 250 * domain, of TCP and UDP; without an
        action accelerate and mirror are meant. Empty strings count as none.
    :param own_domain: ROS domain id of the node
    :param configured: {(transport, port_first, port_last): (action, origin)} of the rules that
        the configuration names: what it enrolls itself, services may enroll again
    :raises RuleError: where a limit cannot be read
    """

    def __init__(self, texts, own_domain, configured=()):
        """Read the limits."""
        spans = {}
        for text in filter(None, texts):
            for key, span in _spans(text, own_domain):
                spans.setdefault(key, []).append(span)
        for (transport, first, last), (action, _origin) in dict(configured).items():
            spans.setdefault((transport, action), []).append((first, last))
        self._spans = {key: _merged(found) for key, found in spans.items()}

    def cover(self, transport, port_first, port_last, action):
        """Return whether ports, inclusive, are within the limits of an action."""
        return any(first <= port_first and port_last <= last
                   for first, last in self._spans.get((transport, action), ()))

    def check(self, transport, port_first, port_last, action):
        """Raise RuleError NOT_ALLOWED where a service may not enroll this; ports inclusive."""
        if not self.cover(transport, port_first, port_last, action):
            span = f'{port_first}' if port_first == port_last else f'{port_first}-{port_last}'
            raise RuleError(
                f'{transport}:{span}:{action} is not for services to enroll',
                f'the parameter {PARAMETER} allows {self._told(transport, action)}',
                code='NOT_ALLOWED',
                next_step='set it, or the rule itself, where the node is started')

    def _told(self, transport, action):
        spans = self._spans.get((transport, action))
        if not spans:
            return f'no {transport} ports for {action}'
        shown = ', '.join(f'{first}-{last}' for first, last in spans[:5])
        return f'{transport} ports {shown}{", ..." if len(spans) > 5 else ""} for {action}'


def _spans(text, own_domain):
    """Yield ((transport, action), (port_first, port_last)) of a limit."""
    kind, _, rest = text.strip().partition(':')
    if kind != 'domain':
        rule = parse(text)
        yield (rule.transport, rule.action), (rule.port_first, rule.port_last)
        return
    domain, colon, action = rest.partition(':')
    chosen = [(transport, each) for transport, each in _SAFE_ACTIONS if not colon] or [
        (transport, action) for transport, actions in ACTIONS.items() if action in actions]
    if not chosen:
        raise RuleError(f"cannot read '{text}' of {PARAMETER}: there is no action '{action}'",
                        code='UNKNOWN_ACTION', next_step=_FORM)
    if domain != OWN and not (domain.isascii() and domain.isdecimal()):
        raise RuleError(f"cannot read '{text}' of {PARAMETER}: '{domain}' is no domain",
                        code='INVALID_DOMAIN', next_step=_FORM)
    ports = tcp_ports(own_domain if domain == OWN else int(domain))
    for key in chosen:
        yield key, ports


def _merged(spans):
    """Return inclusive ranges in order, those that meet or overlap as one."""
    merged = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
