"""The health of a configured node, as diagnostic_msgs."""

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ipc_bypass.nodes.paths import FAST
from ipc_bypass.rules.table import ACTIONS

#: Most rule ids that one value names.
SHOWN_IDS = 20


def diagnostic_statuses(node_name, hardware_id, enrollment, paths, active):
    """
    Return the DiagnosticStatus messages of a configured node: paths, rules, budget, pool.

    WARN where auto fell back to loopback, where the node is not active and where connections
    hold kernel objects of an earlier activation, or where a consumer does not do its part; ERROR
    where an active node has a rule without effect.
    """
    status = {
        'tcp path': _path_status('tcp', paths.tcp),
        'udp path': _path_status('udp', paths.udp),
        'rules': _rules_status(enrollment, active),
        'budget': _budget_status(paths.tcp),
    }
    if paths.udp.selected != 'loopback':
        status['pool'] = _pool_status(paths.udp)
    return [
        DiagnosticStatus(
            name=f'{node_name}: {name}', level=level, message=text, hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        for name, (level, text, values) in status.items()]


def _path_status(transport, path):
    values = {'selected': path.selected}
    values.update({f'not {name}': reason for name, reason in path.reasons.items()})
    values.update({f'note {number}': note for number, note in enumerate(path.notes, 1)})
    refused = next((path.reasons[name] for name in FAST[transport] if path.reasons.get(name)),
                   '')
    chosen = getattr(path.settings, f'{transport}_path') == 'loopback'
    if path.selected == 'loopback' and not (chosen and transport == 'udp'):
        return DiagnosticStatus.WARN, f'loopback: {refused}', values
    return DiagnosticStatus.OK, path.selected, values


def _rules_status(enrollment, active):
    rules = enrollment.rules()
    values = {'rules': len(rules)}
    values.update({f'{transport} rules': sum(1 for rule in rules if rule.transport == transport)
                   for transport in ACTIONS})
    obstacles = {}
    for rule in rules:
        obstacle = enrollment.obstacle(rule, active=True)
        if obstacle:
            obstacles.setdefault(obstacle, []).append(str(rule.id))
    for obstacle, ids in obstacles.items():
        shown = ' '.join(ids[:SHOWN_IDS]) + (' ...' if len(ids) > SHOWN_IDS else '')
        values[f'without effect: {obstacle}'] = shown
    if not active:
        return DiagnosticStatus.WARN, 'no rule has effect: the node is not active', values
    if obstacles:
        count = sum(map(len, obstacles.values()))
        text = f'{count} of {len(rules)} rules without effect: {next(iter(obstacles))}'
        return DiagnosticStatus.ERROR, text, values
    return DiagnosticStatus.OK, f'{len(rules)} rules have effect', values


def _budget_status(path):
    counters, held = path.counters(), path.held()
    values = {name: counters[name] for name in counters
              if 'budget' in name or name == 'passed_pause'}
    values.update({'held connections': held['connections'], 'held bytes': held['bytes']})
    if held['connections']:
        text = (f"{held['connections']} connections hold kernel objects of an earlier "
                f"activation until they end, {held['bytes']} bytes unread")
        return DiagnosticStatus.WARN, text, values
    return DiagnosticStatus.OK, 'nothing held', values


def _pool_status(path):
    """Say who owns what, how full the pool is, and what had to be put right."""
    pool, counters = path.pool, path.counters()
    values = {f'{kind} slots in use': f'{used} of {slots}' for kind, used, slots in zip(
        ('small', 'large'), pool['used'], pool['slots'], strict=True)}
    for lease in pool['leases']:
        values[f"owner {lease['name']} ({lease['pid']})"] = (
            f"{' '.join(lease['rules'][:SHOWN_IDS]) or 'no rule'}, {lease['pending']} not taken")
    values['observers'] = sum(client['observe'] for client in pool['clients'])
    for name, count in pool['freed_by_owner'].items():
        values[f'slots that {name} did not give back'] = count
    for name, count in pool['revoked_by_owner'].items():
        values[f'leases taken from {name}'] = count
    values.update({name: counters[name] for name in ('sent_on', 'stranded')})
    if pool['problems']:
        return DiagnosticStatus.WARN, pool['problems'][0], values
    if counters['stranded']:
        return (DiagnosticStatus.WARN, f"{counters['stranded']} diverted datagrams were neither "
                'taken nor could be sent on', values)
    if pool['freed_by_owner'] or pool['revoked_by_owner']:
        return DiagnosticStatus.WARN, 'a consumer did not do its part', values
    return DiagnosticStatus.OK, f"{len(pool['leases'])} owners", values
