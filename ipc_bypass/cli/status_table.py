"""The tables of `ipc-bypass status`."""

import sys

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

#: Columns where there is no terminal, and so no edge to wrap at.
WIDTH_OF_A_FILE = 200
STATE_STYLES = {'active': 'green', 'inactive': 'yellow', 'unconfigured': 'yellow'}
UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')
#: Most rules and flows that are shown as lines.
SHOWN = 40


def console():
    """Return the console to print on."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE)


def render(status):
    """Return what is printed for an `Observer.look()`."""
    parts = [_headline(status)]
    if status['paths']:
        parts += [part(status) for part in (_paths, _rules, _flows, _endpoints, _reasons)]
    return Group(*parts)


def size(count):
    """Return a number of bytes as text with a unit."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f'{count:.1f} {UNITS[power]}' if power else f'{count:.0f} {UNITS[0]}'


def _headline(status):
    state = status['state_label']
    text = Text.assemble(
        f"{status['node']}: ", (state, STATE_STYLES.get(state, 'red')))
    if state == 'unconfigured':
        text.append('; nothing is attached. Configure and activate it: ros2 lifecycle set '
                    f"{status['node']} configure, then activate")
        return text
    text.append(
        f"\n{status['flows']} flows, {status['flows_redirected']} redirected, "
        f"{status['flows_passed']} passed; redirected {size(status['redirected_bytes'])} in "
        f"{status['redirected_messages']:,} messages, passed {size(status['passed_bytes'])} in "
        f"{status['passed_messages']:,}"
        f"\nnow {size(status['redirected_bytes_per_second'])}/s redirected "
        f"({status['redirected_messages_per_second']:,.0f} messages/s), "
        f"{size(status['passed_bytes_per_second'])}/s passed, "
        f"{size(status['queued_bytes'])} not read yet")
    if status['pool_slots']:
        text.append(
            f"\n{status['datagrams']:,} datagrams: {status['datagrams_mirrored']:,} mirrored, "
            f"{status['datagrams_diverted']:,} diverted, {status['datagrams_passed']:,} passed; "
            f"now {status['datagrams_captured_per_second']:,.0f}/s captured "
            f"({size(status['datagram_bytes_captured_per_second'])}/s); "
            f"{sum(status['pool_slots_used'])} of {sum(status['pool_slots'])} slots in use")
    if status['held_connections']:
        text.append(f"\n{status['held_connections']} connections hold kernel objects until they "
                    'end', 'yellow')
    return text


def _table(title, *columns):
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        number = name.startswith('#')
        table.add_column(name.lstrip('#'), justify='right' if number else 'left',
                         no_wrap=number)
    return table


def _paths(status):
    table = _table('Paths', 'transport', 'path', 'selected', 'remark')
    for path in status['paths']:
        table.add_row(path['transport'], path['name'],
                      Text('yes', 'green') if path['selected'] else 'no',
                      Text('; '.join([path['reason'], *path['notes']]).strip('; ')))
    return table


def _rules(status):
    table = _table('Rules', '#id', 'transport', '#ports', 'action', 'origin', 'effect')
    for rule in status['rule_list'][:SHOWN]:
        ports = str(rule['port_first'])
        if rule['port_last'] != rule['port_first']:
            ports += f"-{rule['port_last']}"
        effect = Text('yes', 'green') if rule['effective'] else Text(
            f"none: {rule['reason']}", 'red')
        table.add_row(str(rule['id']), rule['transport'], ports, rule['action'], rule['origin'],
                      effect)
    table.caption = _left_out(len(status['rule_list']) - SHOWN)
    return table


def _flows(status):
    flows = status['flow_list']
    if flows is None:
        return Text('Flows: the node published none in time', 'yellow')
    table = _table('Flows, each from its sending end', 'from', 'to', '#rule', 'path', '#sent',
                   '#redirected', '#not read', '#age')
    for flow in flows[:SHOWN]:
        fast = not flow['reason']
        share = flow['redirected_bytes'] / flow['bytes'] if flow['bytes'] else 0
        table.add_row(
            _end(flow, 'local'), _end(flow, 'remote'), str(flow['rule_id']),
            Text(flow['path'] if fast else f"{flow['path']}: {flow['reason']}",
                 'green' if fast else 'yellow'),
            size(flow['bytes']), f'{share:.1%}', size(flow['queued_bytes']),
            f"{flow['age']:.0f} s")
    table.caption = _left_out(len(flows) - SHOWN + status['flows_left_out'])
    return table


def _endpoints(status):
    endpoints = status['endpoints']
    if not endpoints:
        return Text('')
    table = _table('Datagrams by port and sender', '#port', 'sender', '#captured', '#bytes',
                   '#passed')
    for endpoint in endpoints[:SHOWN]:
        table.add_row(str(endpoint['port']), f"{endpoint['command']}({endpoint['pid']})",
                      f"{endpoint['captured']:,}", size(endpoint['captured_bytes']),
                      f"{endpoint['passed']:,}")
    table.caption = _left_out(len(endpoints) - SHOWN + status['endpoints_left_out'])
    return table


def _end(flow, side):
    address = flow[f'{side}_address']
    if ':' in address:
        address = f'[{address}]'
    pid = flow[f'{side}_pid']
    owner = f" {flow[f'{side}_comm']}({pid})" if pid else ''
    return Text(f"{address}:{flow[f'{side}_port']}{owner}")


def _reasons(status):
    table = _table('Counters that are not zero', 'name', '#value', 'unit')
    for counter in status['counters']:
        if counter['value']:
            table.add_row(counter['name'], f"{counter['value']:,}", counter['unit'])
    return table


def _left_out(count):
    return f'and {count} more' if count > 0 else None
