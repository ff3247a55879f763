"""The node's parameters: declaration with descriptors, reading, and the checks on a change."""

from dataclasses import dataclass, fields
import errno
from fnmatch import fnmatchcase
import os

from ipc_bypass.kernel.errors import BypassError, PoolError
from ipc_bypass.kernel.trusted_paths import distrust
from ipc_bypass.tcp.exclusions import parse as parse_exclude
from ipc_bypass.tcp.settings import RENEWALS, TCP_PATHS, TcpSettings
from ipc_bypass.udp.settings import UDP_PATHS, UdpSettings
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter

#: When a parameter may change: at any time; in state unconfigured, since a change needs a new
#: configure; or at the start of the process alone.
ANY_TIME, UNCONFIGURED, START = range(3)

#: Names the parameters that may change after the start.
RUNTIME = 'runtime_parameters'

CONSTRAINTS = {
    ANY_TIME: '',
    UNCONFIGURED: 'can be set in state unconfigured only',
    START: 'can be set when the node starts only',
}


@dataclass(frozen=True)
class Spec:
    """
    One parameter.

    `limits` is (smallest, largest) of a number; `choices` are all values of a string.
    """

    name: str
    description: str
    default: object = None
    limits: tuple = ()
    choices: tuple = ()
    change: int = ANY_TIME

    @property
    def value_type(self):
        """Return the rclpy type; a list is always of strings, also where it is empty."""
        if isinstance(self.default, list):
            return Parameter.Type.STRING_ARRAY
        return Parameter.Type.from_parameter_value(self.default)

    def descriptor(self):
        """Return the ParameterDescriptor with description, range, constraints and read_only."""
        constraints = [CONSTRAINTS[self.change]] if self.change else []
        if self.choices:
            constraints.insert(0, f"one of {', '.join(self.choices)}")
        descriptor = ParameterDescriptor(
            name=self.name, type=self.value_type.value, description=self.description,
            additional_constraints='; '.join(constraints), read_only=self.change == START)
        if self.limits and isinstance(self.default, float):
            low, high = self.limits
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        elif self.limits:
            low, high = self.limits
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        return descriptor


def runtime_spec(*default):
    """Return the Spec of the parameter that says which others may change after the start."""
    return Spec(
        RUNTIME, "Parameters that may change after the start, by name or pattern as 'filter_*': "
        'everybody on the ROS graph may set them. Those that are read-only change never.',
        [*default], change=START)


def _tcp(name, description, **rest):
    """Return the Spec of a TcpSettings field, with the default that stands there."""
    return Spec(name, description, getattr(TcpSettings, name), **rest)


def _udp(name, description, **rest):
    """Return the Spec of a UdpSettings field, with the default that stands there."""
    return Spec(name, description, getattr(UdpSettings, name), **rest)


#: What everybody on the graph may set: not which cgroup is served, nor the size of the pool.
RUN_TIME = ('rules', 'domains', 'udp_domains', 'exclude', '*budget_bytes', 'pause_*', 'guard_*',
            'use_limit_percent', 'events_per_second', 'max_published_flows', '*_period_s')
SPECS = (
    _tcp('tcp_path',
         'Way that enrolled TCP connections take: sk_msg (configure fails where this host cannot '
         'have it), loopback (never attach; rules are kept without effect), or auto (sk_msg, and '
         'loopback where it cannot be had).',
         choices=TCP_PATHS, change=UNCONFIGURED),
    _tcp('tcp_capture',
         'Copy redirected TCP messages to the pool, for ipc-bypass tap and record; needs udp_path '
         'cgroup_skb and collect_mirrored, and costs each of them a copy.', change=UNCONFIGURED),
    Spec('rules',
         'Rules as transport:port[-port][:action], for example tcp:7400-7500:accelerate or '
         'tcp:5201 or udp:7410-7649:mirror; ports 1 to 65535. TCP: either end of a connection '
         'matches; UDP: the destination. A new value replaces the rules of the old one and '
         'leaves those of the services alone.', []),
    Spec('service_rules',
         'What services may enroll, and changes of rules, domains and udp_domains while the node '
         "runs, beside what these name at the start: 'domain:own' (the ports of the domain that "
         "the node is in, for accelerate and mirror), 'domain:3', 'domain:3:divert', or rules as "
         'tcp:5201-5210 or udp:7411:divert. Services are open to the whole ROS graph.',
         ['domain:own'], change=START),
    Spec('domains',
         'DDS domains whose TCP ports are enrolled, as domain[:participant-participant], for '
         'example 0 or 0:0-9; ROS_DOMAIN_ID is 0 to 232. A new value replaces the old one.', []),
    Spec('udp_domains',
         'DDS domains whose unicast UDP ports are enrolled, as '
         'domain[:participant-participant][:mirror|divert], for example 0 or 0:0-9:divert; '
         'mirror where no action is given. A new value replaces the old one.', []),
    _udp('udp_path',
         'Way that datagrams to enrolled UDP ports are captured: cgroup_skb (configure fails '
         'where this host cannot have it), trace (first bytes only, suppresses nothing), '
         'loopback (never), or auto (the first of these that works).',
         choices=UDP_PATHS, change=UNCONFIGURED),
    _udp('pool_size',
         'Shared memory of the pool, in bytes: half of it in slots of 4 KiB, half in slots of '
         '64 KiB, at least 512 and 64 of them.', limits=(1 << 20, 1 << 34), change=UNCONFIGURED),
    _udp('pool_group',
         'Group whose processes may use the pool, by name or number. Empty: root only, or the '
         'group of the user that the node runs as.',
         change=START),
    _udp('control_socket', 'Unix socket at which consumers of the pool ask for leases.',
         change=START),
    _udp('max_consumers', 'Consumers that own rules at one time; each has a ring of about '
         '1.5 MB.', limits=(1, 56), change=UNCONFIGURED),
    _udp('use_limit_percent', 'Slots in use above which datagrams go the usual way, in percent.',
         limits=(1, 100)),
    _udp('heartbeat_ms',
         'How long a consumer may not have read before its datagrams go the usual way, in '
         'milliseconds.', limits=(20, 60_000), change=UNCONFIGURED),
    _udp('watchdog_ms',
         'How often slots that nobody gave back are looked for, in milliseconds.',
         limits=(10, 60_000), change=UNCONFIGURED),
    _udp('slot_ttl_ms', 'How long a consumer may keep a slot, in milliseconds.',
         limits=(100, 3_600_000), change=UNCONFIGURED),
    Spec('collect_mirrored',
         'Have the node itself take what is mirrored and no other consumer owns, so that '
         'observers see it.', True, change=UNCONFIGURED),
    Spec('events_per_second',
         'Most messages of ~/events, in messages per second; 0: none.', 10.0,
         limits=(0.0, 1000.0)),
    _tcp('cgroup_path',
         'Folder of a cgroup v2 hierarchy; processes in it and below are served. Empty: the '
         'whole host, by the mount point that is found.', change=UNCONFIGURED),
    _tcp('pin_directory',
         'Folder in a BPF file system that keeps the maps over a restart of the node. Empty: '
         'nothing is pinned.', change=START),
    _tcp('max_connections',
         'Connections with both ends on this host that are served at once, in connections; two '
         'flow records each.', limits=(16, 65536), change=UNCONFIGURED),
    _tcp('budget_bytes',
         'What a receiver may have redirected and unread, in bytes; beyond it the connection '
         'goes the usual way.', limits=(1 << 16, 1 << 28)),
    _tcp('total_budget_bytes',
         'What all receivers together may have redirected and unread, in bytes; where there are '
         'many, each has an even share of it for its budget.', limits=(1 << 20, 1 << 36)),
    _tcp('pause_initial_ms',
         'How long a flow goes the usual way after its budget was spent, in milliseconds; it '
         'doubles each time.', limits=(1, 60_000)),
    _tcp('pause_max_ms', 'Longest such pause, in milliseconds.', limits=(1, 600_000)),
    _tcp('guard_rate',
         'A one-way stream of small writes at this rate or above goes the usual way, in messages '
         'per second. 0: never.', limits=(0, 100_000_000)),
    _tcp('guard_size_bytes', 'Mean size below which writes count as small, in bytes.',
         limits=(1, 1 << 20)),
    _tcp('guard_duration_ms',
         'How long such a stream must last before it is turned, in milliseconds.',
         limits=(1, 60_000)),
    Spec('exclude',
         "Programs and users whose connections are left out, as 'haproxy' (a name as in "
         "/proc/PID/comm), 'user:NAME' or 'user:1000': those that rely on what a redirected "
         'socket does not have (docs/semantics.md).', [*TcpSettings.exclude]),
    _tcp('find_unfit',
         'Look for programs that use splice() or MSG_WAITALL on a redirected connection, or set '
         'SO_RCVLOWAT or SO_ZEROCOPY, and leave them out from then on.', change=UNCONFIGURED),
    _tcp('renewal',
         'Who looks at the receivers to renew budgets: program (in the kernel), userspace (this '
         'node), or auto (the program where the kernel lets it).',
         choices=RENEWALS, change=UNCONFIGURED),
    Spec('statistics_period_s', 'Period of the topics ~/statistics and ~/flows, in seconds.',
         1.0, limits=(0.1, 3600.0)),
    Spec('max_published_flows',
         'Most flows in one message of ~/flows, in flows; those with most bytes come first.',
         256, limits=(0, 131_072)),
    Spec('diagnostics_period_s', 'Period of the topic /diagnostics, in seconds.', 1.0,
         limits=(0.1, 3600.0)),
    runtime_spec(*RUN_TIME),
    Spec('autostart', 'Configure and activate when the node starts.', False, change=START),
)
BY_NAME = {spec.name: spec for spec in SPECS}
TCP_NAMES = frozenset(field.name for field in fields(TcpSettings))
UDP_NAMES = frozenset(field.name for field in fields(UdpSettings))
#: Parameters that name rules, in the order in which `wanted_rules` takes them.
RULE_PARAMETERS = ('rules', 'domains', 'udp_domains')
RULE_LISTS = frozenset(RULE_PARAMETERS)


def declare(node, specs=SPECS):
    """
    Declare every parameter of `specs` on an rclpy node.

    Raises rclpy's InvalidParameterTypeException and InvalidParameterValueException where the
    command line or a parameter file gives a value of the wrong type or out of its range.
    """
    # A list may get its value by being set, which one that is read-only already would refuse.
    late = [spec for spec in specs if spec.change == START and isinstance(spec.default, list)]
    for spec in specs:
        # An empty list is declared by its type: rclpy takes [] for a list of bytes, and the
        # command line and YAML give [] as a parameter without a value, whatever its default.
        is_list = isinstance(spec.default, list)
        default = spec.value_type if spec.default == [] else spec.default
        descriptor = spec.descriptor()
        descriptor.read_only = descriptor.read_only and spec not in late
        node.declare_parameter(spec.name, default, descriptor)
        if node.get_parameter_or(spec.name).type_ == Parameter.Type.NOT_SET:
            node.set_parameters([Parameter(spec.name, spec.value_type,
                                           [] if is_list else spec.default)])
    for spec in late:
        node.set_descriptor(spec.name, spec.descriptor())


def read(node, specs=SPECS):
    """Return the values of the parameters of `specs` by name, lists as lists."""
    values = {spec.name: node.get_parameter(spec.name).value for spec in specs}
    return {spec.name: [*values[spec.name]] if isinstance(spec.default, list)
            else values[spec.name] for spec in specs}


def held_back(values, changed):
    """Return in one line which change the parameter RUNTIME does not allow, '' for none."""
    for name in changed:
        if not any(fnmatchcase(name, pattern) for pattern in values[RUNTIME]):
            return (f'{name} may not change after the start: name it in the parameter {RUNTIME} '
                    'where the node is started')
    return ''


def tcp_settings(values):
    """Return the TcpSettings in a dict of parameter values."""
    return TcpSettings(**{name: values[name] for name in TCP_NAMES})


def udp_settings(values):
    """Return the UdpSettings in a dict of parameter values."""
    settings = {name: values[name] for name in UDP_NAMES}
    if not settings['pool_group'] and os.geteuid():
        # Root's group is not an ordinary user's to give to.
        settings['pool_group'] = f'{os.getegid()}'
    return UdpSettings(**settings)


def check_socket_folder(values):
    """Raise PoolError where somebody else could put another file at the control socket's place."""
    if values['udp_path'] == 'loopback':
        return
    folder = os.path.dirname(values['control_socket'])
    reason = distrust(folder)
    if reason:
        raise PoolError(f"listen at {values['control_socket']}", reason, errno=errno.EPERM,
                        next_step='set control_socket to a path in a folder that only root and '
                        "the node's user write to")


def rule_lists(values):
    """Return the values of RULE_PARAMETERS."""
    return tuple(values[name] for name in RULE_PARAMETERS)


def refusal(values, changed, configured):
    """
    Return in one line why parameters cannot be so, '' when they can.

    `values` are all values as they would be, `changed` the names of those that are new. Types
    and ranges are rclpy's to check, rules and domains the rule table's.
    """
    for name in changed:
        spec = BY_NAME.get(name)
        if spec is None:
            continue
        if spec.choices and values[name] not in spec.choices:
            return (f"unknown {name} '{values[name]}': "
                    f"use one of {', '.join(spec.choices)}")
        if configured and spec.change == UNCONFIGURED:
            return (f'{name} {CONSTRAINTS[UNCONFIGURED]}: '
                    'deactivate and cleanup the node first, then set it and configure')
    if values['tcp_capture'] and not values['collect_mirrored']:
        return 'tcp_capture needs collect_mirrored: the node itself collects those messages'
    if 'exclude' in changed:
        try:
            parse_exclude(values['exclude'])
        except BypassError as error:
            return str(error)
    if values['pause_initial_ms'] > values['pause_max_ms']:
        return (f"pause_initial_ms {values['pause_initial_ms']} is above "
                f"pause_max_ms {values['pause_max_ms']}: set both at once, the first the smaller")
    return ''
