"""The parameters of the slots of the node xdp_helper."""

from dataclasses import fields

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.parameters import Spec, UNCONFIGURED
from ipc_bypass.xdp.bypass import BypassSettings
from ipc_bypass.xdp.fast_path.attach import WAYS
from ipc_bypass.xdp.fast_path.path import FastPathSettings
from ipc_bypass.xdp.filter.rules import ACTIONS
from ipc_bypass.xdp.filter.settings import (
    FilterSettings,
    LARGEST_MTU,
    LARGEST_RATE,
    SMALLEST_MTU,
)
from ipc_bypass.xdp.limits import parse_limit
from ipc_bypass.xdp.sampler_settings import MOST_EVERY, parse_rule, SamplerSettings
from ipc_bypass.xdp.settings import XdpSettings
from ipc_bypass.xdp.steering import SteeringSettings


def _filter(name, description, **rest):
    """Return the Spec of a FilterSettings field, with the default that stands there."""
    return Spec(f'filter_{name}', description, getattr(FilterSettings, name), **rest)


def _fixed(name, description, default, **rest):
    """Return the Spec of a parameter that configure reads."""
    return Spec(name, description, default, change=UNCONFIGURED, **rest)


SLOT_SPECS = (
    Spec('sampler_every',
         'The sampler takes 1 in so many of the packets that no rule of sampler_rules matches, in '
         'packets; 0: none.', SamplerSettings.every, limits=(0, MOST_EVERY)),
    Spec('sampler_rules',
         "What the sampler takes, as 'udp:7400-7500 from 10.0.0.0/8 to 239.255.0.1/32 every 10'; "
         'the first rule that matches decides; 15 at most.', []),
    Spec('sampler_snap', 'Most bytes of a packet in a sample, in bytes.', SamplerSettings.snap,
         limits=(0, 256)),
    Spec('sampler_random',
         'Whether gaps between samples are random, 1 to 2N - 1; else every Nth packet is taken.',
         SamplerSettings.random),
    _filter('default_action',
            'What becomes of IP packets that no rule of the filter matches: allow or deny.',
            choices=ACTIONS),
    Spec('filter_rules',
         "Rules of the filter, as 'deny udp 7400-7500', 'allow tcp dport 22 from 10.1.0.0/16', "
         "'allow domain 3' or 'deny udp 7400 not-rtps'; the most specific one that matches "
         'decides. A new value replaces the rules of the old one and leaves those of the services '
         'alone.', []),
    _filter('frags_drop', 'Drop every fragment, before the rules are asked.'),
    _filter('malformed_drop',
            'Drop frames whose headers are cut or contradict themselves.'),
    _filter('other_drop', 'Drop frames that are not IP; ARP is one of them.'),
    _filter('ptb_send',
            "Answer packets above ptb_mtu that may not be fragmented with ICMP 'packet too big', "
            'and drop them.'),
    _filter('ptb_mtu', 'Longest IP packet that is not too big, in bytes.',
            limits=(SMALLEST_MTU, LARGEST_MTU)),
    _filter('ptb_max_pps', "Most answers 'packet too big', in packets per second; 0: none.",
            limits=(0, LARGEST_RATE)),
    Spec('filter_user_space',
         'Where XDP cannot be attached, judge and count by the same rules in user space; what is '
         "denied comes to the kernel's sockets all the same.", XdpSettings.filter_user_space,
         change=UNCONFIGURED),
    Spec('limiter_limits',
         "Limits of the rate limiter, as '10.0.0.0/8 each /24 packets 1000 burst 200 ports "
         "7400-7500' or '0.0.0.0/0 each /32 packets 100 discovery': packets and bytes a second of "
         "each source's prefix. A new value replaces the old one.", []),
    Spec('limiter_dry_run', 'Drop nothing, and count what the limits would drop.',
         XdpSettings.limiter_dry_run),
    _fixed('devmap_bridges',
           'Bridges between whose veths the slot devmap forwards enrolled ports straight from '
           'veth to veth, past the bridge and netfilter: names or globs. Empty: none.', []),
    Spec('devmap_ports', "Ports that it forwards, as 'udp:7400-7649' or 'tcp:7400'.", []),
    Spec('bypass_flows',
         "Flows that leave for their next hop past the kernel, as 'udp from 10.1.0.0/16 to "
         "10.2.0.5 port 7400-7500 via 10.3.0.1 dev eth1'; of several that match, the first one "
         'counts; 16 at most. They pass no netfilter and no routing.', []),
    Spec('bypass_heartbeat_ms',
         'How long next hops are good without a word from this node, in milliseconds.',
         BypassSettings.heartbeat_ms, limits=(100, 60_000)),
    _fixed('fast_path_bridges',
           'Bridges between whose veths a tc program hands frames of enrolled ports straight to '
           'the other container: names or globs. They pass no netfilter rules, queueing or '
           'tcpdump of the bridge. Empty: none.', []),
    Spec('fast_path_ports', "Ports that are handed over, as 'udp:7400-7649' or 'tcp:7400'.", []),
    _fixed('fast_path_heartbeat_ms',
           'How long frames are handed over without a word from this node, in milliseconds.',
           FastPathSettings.heartbeat_ms, limits=(20, 60_000)),
    _fixed('fast_path_max_ports', 'Ports of bridges at one time, in ports.',
           FastPathSettings.max_ports, limits=(1, 65_536)),
    _fixed('fast_path_attach_by',
           'How the tc program is attached: tcx (kernel 6.6), clsact, or auto.',
           FastPathSettings.attach_by, choices=WAYS),
    Spec('steering_ports',
         "Ports whose packets go to AF_XDP sockets, as 'udp:4242' or 'tcp:5000-5010': "
         'destination ports. Where a queue has no socket, its packets pass.', []),
    Spec('steering_neighbours',
         'Steer ARP requests and IPv6 neighbour solicitations to AF_XDP, too.',
         SteeringSettings.neighbours),
    Spec('steering_echo', 'Steer ICMP and ICMPv6 echo requests to AF_XDP, too.',
         SteeringSettings.echo),
    Spec('steering_everything', 'Steer every frame to AF_XDP.', SteeringSettings.everything),
)
_FILTER_NAMES = tuple(field.name for field in fields(FilterSettings))


def slot_settings(values):
    """Return the members of XdpSettings that these parameters give; raises BypassError."""
    ports = port_ranges('steering_ports', values['steering_ports'])
    return {
        'sampler': SamplerSettings(
            every=values['sampler_every'],
            rules=tuple(parse_rule(text) for text in values['sampler_rules']),
            snap=values['sampler_snap'], random=values['sampler_random']),
        'filter': FilterSettings(**{
            name: tuple(values[f'filter_{name}']) if name == 'rules' else values[f'filter_{name}']
            for name in _FILTER_NAMES}),
        'filter_user_space': values['filter_user_space'],
        'limits': tuple(parse_limit(text) for text in values['limiter_limits']),
        'limiter_dry_run': values['limiter_dry_run'],
        'bypass': BypassSettings(flows=tuple(values['bypass_flows']),
                                 heartbeat_ms=values['bypass_heartbeat_ms']),
        'devmap_bridges': tuple(values['devmap_bridges']),
        'devmap_ports': port_ranges('devmap_ports', values['devmap_ports']),
        'fast_path': FastPathSettings(
            bridges=tuple(values['fast_path_bridges']),
            **{f'{transport}_ports': tuple(f'{first}-{last}' for first, last in ranges)
               for transport, ranges in port_ranges(
                   'fast_path_ports', values['fast_path_ports']).items()},
            heartbeat_ms=values['fast_path_heartbeat_ms'],
            max_ports=values['fast_path_max_ports'], attach_by=values['fast_path_attach_by']),
        'steering': SteeringSettings(
            udp_ports=_each_port(ports['udp']), tcp_ports=_each_port(ports['tcp']),
            neighbours=values['steering_neighbours'], echo=values['steering_echo'],
            everything=values['steering_everything']),
    }


def port_ranges(name, texts):
    """Return {'udp': ((first, last), ...), 'tcp': ...} of 'udp:7400-7500'; BypassError."""
    found = {'udp': [], 'tcp': []}
    for text in texts:
        transport, _, ports = text.partition(':')
        first, _, last = ports.partition('-')
        last = last or first
        if transport not in found or not (first.isdigit() and last.isdigit()) or \
                not 0 < int(first) <= int(last) < 65536:
            raise BypassError(f"read '{text}' of {name}", 'it is no transport with ports',
                              next_step='write it as udp:4242 or tcp:5000-5010')
        found[transport].append((int(first), int(last)))
    return {transport: tuple(sorted(ranges)) for transport, ranges in found.items()}


def _each_port(ranges):
    """Return every port of ranges, once."""
    return tuple(sorted({port for first, last in ranges for port in range(first, last + 1)}))
