"""The parameters of the node xdp_helper, and the checks on them."""

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.parameters import CONSTRAINTS, runtime_spec, Spec, START, UNCONFIGURED
from ipc_bypass.nodes.xdp_slot_parameters import slot_settings, SLOT_SPECS
from ipc_bypass.xdp.kinds import DEFAULT_ORDER
from ipc_bypass.xdp.root import FRAGS
from ipc_bypass.xdp.settings import MODES, XdpSettings


def _fixed(name, description, default=None, change=UNCONFIGURED, **rest):
    """Return the Spec of a parameter that configure reads, with the default of XdpSettings."""
    if default is None:
        default = getattr(XdpSettings, name)
    return Spec(name, description, [*default] if isinstance(default, tuple) else default,
                change=change, **rest)


def _trusted(name, description, default=None):
    """
    Return the Spec of a parameter that says what this process loads, or where it writes.

    Everybody on the ROS graph may set parameters and ask for transitions; what root loads is for
    who starts the node to say.
    """
    return _fixed(name, description, default, change=START)


SPECS = (
    _fixed('interfaces',
           "Interfaces that get a root array: names, globs as 'veth*', or 'bridge:br0' for the "
           'veths that are ports of a bridge. Those that come later get theirs when they come.'),
    _fixed('mode',
           'Where XDP is attached: native (the driver), generic (the kernel, slower), offload '
           '(the card), or auto (native, and generic where it cannot be had, with the reason).',
           choices=MODES),
    _fixed('frags',
           'Whether programs take packets of several buffers, as a large MTU needs: on, off, or '
           'auto (by the MTU).', choices=FRAGS),
    _fixed('slots',
           'Eight kinds in the order in which packets meet them: sampler, filter, rate_limiter, '
           "af_xdp, devmap, bypass, each once at most; '' is a free slot.", DEFAULT_ORDER),
    _trusted('own_slots',
             "Programs of one's own in free slots, as 0:/folder/program.bpf.c:function for a "
             'source that includes xdp_slot.bpf.h, or 6:/sys/fs/bpf/folder/pin for a program that '
             'another tool pinned, which ends the chain.'),
    _trusted('pin_directory',
             'Folder in a BPF file system in which arrays are pinned, so that ipc-bypass xdp and '
             'bpftool see them. Empty: nothing is pinned.'),
    _trusted('slot_directory',
             'Folder of the sources that the service load_slot may load, only root and this '
             "node's user may write to it. Empty: none. Services are open to the whole ROS "
             'graph.'),
    _trusted('slot_pin_directory',
             'Folder of the pinned programs that the service load_slot may load. Empty: none.'),
    _trusted('service_interfaces',
             'Interfaces that services may attach, detach and load slots of: names, globs or '
             "'bridge:br0'; '*' for all. Empty: those that the parameter interfaces names at the "
             'start.', []),
    _trusted('service_filter_ports',
             'Destination ports of the filter rules that services may add: domain:own (those of '
             'the DDS domain that the node is in), domain:3, udp:7400-7649 or tcp:5201. The rules '
             'of the parameter filter_rules are not theirs to remove, nor to rule against.',
             ['domain:own']),
    Spec('trace',
         "Write every decision of every slot to the kernel's trace pipe; costs each packet "
         'microseconds.', XdpSettings.trace),
    *SLOT_SPECS,
    Spec('samples_per_second',
         'Most messages of ~/samples, in messages per second and interface; 0: none. Samples '
         'beyond it are lost, and counted.', 100.0, limits=(0.0, 10_000.0)),
    Spec('status_period_s', 'Period of the topic ~/status, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    Spec('diagnostics_period_s', 'Period of the topic /diagnostics, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    runtime_spec('samples_per_second', 'status_period_s', 'diagnostics_period_s'),
    Spec('autostart', 'Configure and activate when the node starts.', False, change=START),
)
BY_NAME = {spec.name: spec for spec in SPECS}
_PLAIN = ('interfaces', 'mode', 'frags', 'slots', 'own_slots', 'trace', 'pin_directory',
          'slot_directory', 'slot_pin_directory')


def settings(values):
    """Return the XdpSettings in a dict of parameter values; raises BypassError."""
    plain = {name: tuple(values[name]) if isinstance(values[name], list) else values[name]
             for name in _PLAIN}
    return XdpSettings(**plain, **slot_settings(values))


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
    except BypassError as error:
        return str(error)
    return ''
