"""The parameters of the node tun_bridge, and the checks on them."""

import ipaddress

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.parameters import CONSTRAINTS, runtime_spec, Spec, START, UNCONFIGURED
from ipc_bypass.pool.channel import DEFAULT_SOCKET
from ipc_bypass.rules.table import parse
from ipc_bypass.udp.fragments import SMALLEST_MTU
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.tun import LARGEST_MTU, QUEUE_PACKETS

#: Datagrams a second; docs/tun_bridge.md says how it was measured.
STATED_RATE = 10_000


def _fixed(name, description, default, **rest):
    """Return the Spec of a parameter that configure reads."""
    return Spec(name, description, default, change=UNCONFIGURED, **rest)


SPECS = (
    _fixed('prefixes',
           'Destinations that are claimed, as 10.9.0.0/16 or fd00:9::/64: datagrams to them are '
           'carried to the device. configure needs one at least.', []),
    _fixed('rules',
           'Rules of the node ipc_bypass whose lease is asked for, as udp:7400-7649 or '
           'udp:7411:divert. Empty: all of UDP.', []),
    _fixed('namespace',
           'Network namespace of the device: a name as in `ip netns`, or /proc/PID/ns/net. Empty: '
           'that of this node.', ''),
    _fixed('device', 'Name of the TUN device, at most 15 bytes.', 'ipcb_far'),
    _fixed('addresses', 'Addresses of the device, as 10.9.0.2/16 or fd00:9::2/64.', []),
    _fixed('routes', 'Prefixes that are routed into the device, in its namespace: where answers '
           'go, as 10.0.0.0/8 or 0.0.0.0/0.', []),
    _fixed('mtu', 'MTU of both devices, in bytes; larger packets are fragmented.', LARGEST_MTU,
           limits=(SMALLEST_MTU, LARGEST_MTU)),
    _fixed('queue_packets',
           'Packets that may wait in each device for this node, in packets; more are dropped. '
           'The kernel keeps them: 640 MB where there are 10,000 of the largest.', QUEUE_PACKETS,
           limits=(64, 1_000_000)),
    _fixed('local_device',
           'Name of a second TUN device in the namespace of this node: the claimed prefixes are '
           'routed into it, so that datagrams which are not captured arrive too, and answers '
           'come out of it. Empty: none; then captured datagrams alone are carried, and answers '
           'are sent by a raw socket. Not made where the device itself is in this namespace.',
           'ipcb_near'),
    _fixed('local_addresses', 'Addresses of the local device, as 10.9.0.1/32.', []),
    _fixed('control_socket', 'Unix socket of the node ipc_bypass.', DEFAULT_SOCKET),
    Spec('max_rate',
         'Rate that this bridge states it can carry, in datagrams per second; above it the '
         'status is WARN. Nothing is dropped for it.', STATED_RATE, limits=(1, 100_000_000)),
    Spec('status_period_s', 'Period of the topics ~/status and /diagnostics, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    runtime_spec('max_rate', 'status_period_s'),
    Spec('autostart', 'Configure and activate when the node starts.', False, change=START),
)
BY_NAME = {spec.name: spec for spec in SPECS}


def check(values, complete):
    """
    Raise BypassError where values make no sense, devices and namespaces apart.

    :param complete: whether what configure needs has to be there
    """
    prefixes = Prefixes(values['prefixes'])
    if complete and not len(prefixes):
        raise BypassError('claim prefixes', 'the parameter prefixes is empty',
                          next_step="set it, for example to ['10.9.0.0/16']")
    if values['device'] == values['local_device']:
        raise BypassError(f"name the devices '{values['device']}'", 'both have the same name')
    for text in values['rules']:
        rule = parse(text)
        if rule.transport != 'udp':
            raise BypassError(f"lease '{text}'", 'only datagrams are leased',
                              next_step='write it as udp:7400-7649')
    for name in ('addresses', 'routes', 'local_addresses'):
        make = ipaddress.ip_network if name == 'routes' else ipaddress.ip_interface
        for text in values[name]:
            try:
                make(text)
            except ValueError as error:
                raise BypassError(f'read {name}', str(error),
                                  next_step='write it as 10.9.0.0/16 or fd00:9::/64') from None


def refusal(values, changed, configured):
    """Return in one line why parameters cannot be so, '' when they can."""
    for name in changed:
        if configured and BY_NAME[name].change == UNCONFIGURED:
            return (f'{name} {CONSTRAINTS[UNCONFIGURED]}: '
                    'deactivate and cleanup the node first, then set it and configure')
    try:
        check(values, complete=False)
    except BypassError as error:
        return str(error)
    return ''
