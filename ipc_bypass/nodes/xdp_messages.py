"""What the XDP helper says, as messages."""

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ipc_bypass.xdp.fast_path.path import NOTICE
from ipc_bypass.xdp.status import unit_of, VERDICT_FIELDS
from ipc_bypass_interfaces.msg import (
    Counter,
    XdpFastPath,
    XdpFastPathPort,
    XdpFilter,
    XdpInterface,
    XdpPipeline,
    XdpRule,
    XdpSlot,
    XdpStatus,
)
from rclpy.time import Time

_SLOT_MEMBERS = ('slot', 'program_id', 'name', 'kind', 'foreign', 'configured', 'reason',
                 'entered', *VERDICT_FIELDS.values())
_INTERFACE_MEMBERS = ('name', 'index', 'kind', 'driver', 'mtu', 'configured', 'attached', 'mode',
                      'reason', 'frags', 'trace', 'program_id', 'packets')
_RATE_MEMBERS = tuple(f'{way}_{what}' for way in ('rx', 'tx')
                      for what in ('packets', 'pps', 'mbits_per_s'))


def status_message(state, report):
    """Return the XdpStatus message of a Report, without its header."""
    return XdpStatus(state=state, problems=list(report.problems),
                     interfaces=[interface_message(each) for each in report.interfaces],
                     fast_path=_fast_path_message(report.fast_path))


def interface_message(interface):
    """Return the XdpInterface message of an InterfaceStatus."""
    message = XdpInterface(load_time=_stamp(interface.load_time))
    _copy(interface, message, _INTERFACE_MEMBERS)
    for slot in interface.slots:
        part = XdpSlot(load_time=_stamp(slot.load_time))
        _copy(slot, part, _SLOT_MEMBERS)
        message.slots.append(part)
    message.counters = _counters(interface.counters)
    return message


def _fast_path_message(status):
    message = XdpFastPath(enabled=status.enabled, way=status.way, problem=status.problem,
                          counters=_counters(status.counters))
    for port in status.ports:
        message.ports.append(XdpFastPathPort(
            name=port.name, bridge=port.bridge, in_use=port.in_use, obstacle=port.obstacle,
            mac=port.mac, addresses=list(port.addresses), counters=_counters(port.counters)))
    return message


def _counters(values):
    return [Counter(name=name, value=value, unit=unit_of(name))
            for name, value in values.items()]


def rule_message(rule):
    """Return the XdpRule message of a rule with its counts."""
    return XdpRule(id=rule.id, rule=rule.rule, origin=rule.origin, packets=rule.packets,
                   bytes=rule.bytes)


def pipeline_messages(entries):
    """Return an XdpPipeline for each process and interface of statistics_board.Entry."""
    sums = {}
    for entry in entries:
        sums.setdefault((entry.pid, entry.statistics.interface), []).append(entry.statistics)
    return [_pipeline_message(pid, name, sorted(found, key=lambda each: each.queue))
            for (pid, name), found in sorted(sums.items())]


def _pipeline_message(pid, name, found):
    message = XdpPipeline(
        interface=name, queues=[each.queue for each in found], pid=pid,
        zero_copy=all(each.zero_copy for each in found),
        period=max(each.period_s for each in found))
    drops = {}
    for each in found:
        for member in _RATE_MEMBERS:
            setattr(message, member, getattr(message, member) + getattr(each, member))
        for way in 'rx', 'tx':
            setattr(message, f'{way}_bytes',
                    getattr(message, f'{way}_bytes') + each.counters[f'{way}_bytes'])
        for counter, value in each.drops().items():
            drops[counter] = drops.get(counter, 0) + value
    message.drops = [Counter(name=counter, value=value, unit='packets')
                     for counter, value in drops.items()]
    return message


def setting_lines(settings):
    """Return settings by name as lines 'name: value', with true and false as in YAML."""
    return [f'{name}: {str(value).lower() if isinstance(value, bool) else value}'
            for name, value in settings.items()]


def filter_message(name, status):
    """Return the XdpFilter message of an interface's FilterStatus."""
    missed = f'; {status.missed} frames found no room' if status.missed else ''
    return XdpFilter(
        interface=name, engine=status.engine, reason=status.reason + missed,
        settings=setting_lines(status.settings),
        rules=[rule_message(rule) for rule in status.rules],
        outcomes=_counters(status.outcomes))


def diagnostic_statuses(node_name, hardware_id, report, active):
    """
    Return a DiagnosticStatus an interface, and one of the node where there is none.

    WARN where a configured interface is not there, where it has no root array though the node is
    active, where a slot that was configured is empty, and where the first mode was refused.
    """
    found = {each.name: _interface_health(each, active) for each in report.interfaces}
    if report.fast_path.enabled:
        found['container fast path'] = _fast_path_health(report.fast_path, active)
    found = found or {'interfaces': (
        DiagnosticStatus.WARN, report.problems[0] if report.problems
        else 'no interface: set the parameter interfaces', {})}
    return [
        DiagnosticStatus(
            name=f'{node_name}: {name}', level=level, message=text, hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        for name, (level, text, values) in found.items()]


def _interface_health(interface, active):
    """Return (level, text, values) of an interface."""
    values = {'mode': interface.mode or 'not attached', 'kind': interface.kind,
              'driver': interface.driver, 'mtu': interface.mtu}
    for slot in interface.slots:
        if slot.program_id or slot.configured:
            counts = ', '.join(f'{verdict} {getattr(slot, name)}'
                               for verdict, name in VERDICT_FIELDS.items())
            what = f'{slot.name} ({slot.program_id})' if slot.program_id else 'empty'
            values[f'slot {slot.slot}'] = f'{what}: {counts}'
    values.update(interface.counters)
    if not interface.index:
        # A pattern names what may come; a name, what should be there.
        level = DiagnosticStatus.OK if _is_pattern(interface.name) else DiagnosticStatus.WARN
        return level, interface.reason or 'there is no such interface', values
    if not interface.attached:
        if not active:
            return (DiagnosticStatus.WARN,
                    'not attached: the node is not active', values)
        return DiagnosticStatus.WARN, f'not attached{_because(interface.reason)}', values
    for slot in interface.slots:
        if slot.configured and slot.reason:
            return (DiagnosticStatus.WARN,
                    f'slot {slot.slot} is not {slot.configured}: {slot.reason}', values)
    if interface.reason:
        return (DiagnosticStatus.WARN,
                f'{interface.mode} mode{_because(interface.reason)}', values)
    return DiagnosticStatus.OK, f'{interface.mode} mode', values


def _fast_path_health(status, active):
    """Return (level, text, values) of the container fast path."""
    values = {'way': status.way or 'not attached', 'note': NOTICE, **status.counters}
    values.update({f'port {port.name}': port.obstacle or 'in use' for port in status.ports})
    if status.problem:
        return DiagnosticStatus.WARN, status.problem, values
    if not active:
        return DiagnosticStatus.WARN, 'not attached: the node is not active', values
    in_use = sum(port.in_use for port in status.ports)
    return DiagnosticStatus.OK, f'{in_use} of {len(status.ports)} ports in use', values


def _is_pattern(name):
    return any(letter in name for letter in '*?[:')


def _because(reason):
    return f': {reason}' if reason else ''


def _copy(source, message, names):
    for name in names:
        setattr(message, name, getattr(source, name))


def _stamp(seconds):
    return Time(nanoseconds=int(seconds * 1e9)).to_msg()
