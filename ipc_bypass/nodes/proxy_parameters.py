"""The parameters of the node sockmap_helper, and the checks on them."""

import ipaddress

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.parameters import CONSTRAINTS, runtime_spec, Spec, START, UNCONFIGURED
from ipc_bypass.proxy.forward import PATHS
from ipc_bypass.proxy.helper import KERNEL_PATHS, ProxySettings
from ipc_bypass.rules.table import parse


def _fixed(name, description, **rest):
    """Return the Spec of a parameter that configure reads, with the default of ProxySettings."""
    default = getattr(ProxySettings, name)
    return Spec(name, description, [*default] if isinstance(default, tuple) else default,
                change=UNCONFIGURED, **rest)


SPECS = (
    _fixed('forwards',
           "Forwards as 'listen:port -> backend:port option=value ...', for example "
           "'0.0.0.0:9090 -> 192.0.2.7:9090 path=splice'; options are path, idle_timeout_s, "
           'connect_timeout_s, max_connections and proxy_protocol.'),
    _fixed('kernel_path',
           'What of the kernel is used: auto (what can be had), never (all bytes are moved by the '
           "node's process), required (configure fails where the short cut cannot be had).",
           choices=KERNEL_PATHS),
    _fixed('path',
           'Way of forwards that name none: auto, shortcut (far ends of this host are brought '
           'together, others are moved by the process), sk_skb (the kernel hands on from socket '
           'to socket) or splice (the process moves all).', choices=PATHS),
    _fixed('idle_timeout_s',
           'Seconds without a byte after which a connection is closed, of forwards that name '
           'none; 0: never.', limits=(0.0, 604_800.0)),
    _fixed('connect_timeout_s',
           'Seconds that a backend has to accept, of forwards that name none.',
           limits=(0.05, 600.0)),
    _fixed('max_connections',
           'Connections at once, of forwards that name none; those above wait in the queue of '
           'the listener.', limits=(1, 100_000)),
    _fixed('proxy_protocol',
           'Tell backends who the client is by a PROXY protocol v2 header, for forwards that '
           'name nothing else.'),
    _fixed('health_interval_s',
           'Seconds without a connection after which a backend is asked whether it accepts; 0: '
           'never.', limits=(0.0, 3600.0)),
    _fixed('kernel_max_connections',
           "Connections that the kernel's maps have room for, in connections.",
           limits=(16, 65_536)),
    _fixed('budget_bytes',
           'What a far end may have by the short cut and unread, in bytes; beyond it bytes go '
           'by the node.', limits=(1 << 16, 1 << 28)),
    _fixed('total_budget_bytes', 'What all far ends together may have so, in bytes.',
           limits=(1 << 20, 1 << 36)),
    _fixed('cgroup_path',
           'Folder of a cgroup v2 hierarchy; processes in it and below may have the short cut. '
           'Empty: the whole host.'),
    Spec('service_backends',
         'Prefixes of addresses that forwards added by service may connect to. Services are '
         'open to the whole ROS graph, and what listens on loopback alone is not meant for it. '
         'Empty: services change nothing.',
         ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7', 'fe80::/10'],
         change=START),
    Spec('service_listen_ports',
         'Ports at which forwards added by service may listen, as 8080 or 1024-65535. Empty: '
         'services add nothing.', ['1024-65535'], change=START),
    Spec('prometheus_port', 'TCP port that answers with metrics for Prometheus; 0: none.', 0,
         limits=(0, 65_535), change=START),
    Spec('prometheus_address', 'Address that it listens on.', '127.0.0.1', change=START),
    Spec('status_period_s', 'Period of the topic ~/status, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    Spec('diagnostics_period_s', 'Period of the topic /diagnostics, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    runtime_spec('status_period_s', 'diagnostics_period_s'),
    Spec('autostart', 'Configure and activate when the node starts.', False, change=START),
)
BY_NAME = {spec.name: spec for spec in SPECS}
_SETTINGS = ('forwards', 'kernel_path', 'path', 'idle_timeout_s', 'connect_timeout_s',
             'max_connections', 'proxy_protocol', 'health_interval_s', 'kernel_max_connections',
             'budget_bytes', 'total_budget_bytes', 'cgroup_path')


def settings(values):
    """Return the ProxySettings in a dict of parameter values; raises BypassError."""
    return ProxySettings(**{name: tuple(values[name]) if isinstance(values[name], list)
                            else values[name] for name in _SETTINGS})


def service_networks(values):
    """Return the networks that forwards of services may connect to; raises BypassError."""
    try:
        return [ipaddress.ip_network(text) for text in values['service_backends'] if text]
    except ValueError as error:
        raise BypassError('read service_backends', str(error),
                          next_step='write prefixes as 192.0.2.0/24') from error


def service_ports(values):
    """Return the inclusive port ranges at which services may listen; raises BypassError."""
    try:
        return [(rule.port_first, rule.port_last) for rule in (
            parse(f'tcp:{text}') for text in values['service_listen_ports'] if text)]
    except BypassError as error:
        raise BypassError('read service_listen_ports', str(error),
                          next_step='write ports as 8080 or 1024-65535') from error


def refusal(values, changed, configured):
    """
    Return in one line why parameters cannot be so, '' when they can.

    `values` are all values as they would be, `changed` the names of those that are new.
    """
    for name in changed:
        if configured and BY_NAME[name].change == UNCONFIGURED:
            return (f'{name} {CONSTRAINTS[UNCONFIGURED]}: '
                    'deactivate and cleanup the node first, then set it and configure')
    try:
        settings(values)
        service_networks(values)
        service_ports(values)
        ipaddress.ip_address(values['prometheus_address'])
    except (BypassError, ValueError) as error:
        return str(error)
    return ''
