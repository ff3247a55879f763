"""
The tables of `ipc-bypass xdp`: root arrays and the rules of filters, as text.

The first is that of the reference systems, column by column, so that scripts which read one can
read the other; it needs no package beyond Python's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import time

#: Key of a slot in the JSON, and the column that shows it.
COUNTS = {name: name.upper() for name in (
    'xdp_aborted', 'xdp_drop', 'xdp_pass', 'xdp_tx', 'xdp_redirect', 'xdp_invalid_action')}
_WIDTHS = {'SLOT': 4, 'ID': 6, 'NAME': 24, 'LOAD TIME': 31}
_COUNT_WIDTH = 16


def status_text(report: Mapping) -> str:
    """Return the text of `ipc-bypass xdp status`, from the object that --json prints."""
    parts = [interface_text(interface) for interface in report['interfaces']]
    if not parts:
        parts = ['No root array was found, and no interface was named.']
    names = tuple(f"{interface['name']}: " for interface in report['interfaces'])
    parts += [f'note: {problem}' for problem in report.get('problems', ())
              if not problem.startswith(names)]
    return '\n\n'.join(parts)


def interface_text(interface: Mapping) -> str:
    """Return the table of one interface, or why there is none."""
    lines = [f"Interface {interface['name']} status:"]
    facts = _facts(interface)
    if facts:
        lines.append(facts)
    if not interface['attached']:
        lines.append(f"Root array not attached to interface {interface['name']}"
                     f"{_because(interface['reason'])}.")
    if interface['slots']:
        lines.append(_row(_WIDTHS, COUNTS.values()))
        lines += [_slot_row(slot) for slot in interface['slots']]
        lines += _remarks(interface)
    return '\n'.join(lines)


def rules_text(rules: Iterable[Mapping]) -> str:
    """Return the rules of a node as a table."""
    rules = list(rules)
    if not rules:
        return 'No rules.'
    lines = [f"{'ID':>4} | {'PACKETS':>14} | {'BYTES':>16} | {'ORIGIN':9} | RULE"]
    lines += [f"{rule['id']:>4} | {rule['packets']:>14} | {rule['bytes']:>16} | "
              f"{rule['origin']:9} | {rule['rule']}" for rule in rules]
    return '\n'.join(lines)


def fast_path_text(path: Mapping) -> str:
    """Return the container fast path as text: its ports, then what is not zero."""
    if not path['enabled']:
        return 'Not enabled: the parameter fast_path_bridges is empty.'
    lines = [f"attached by {path['way']}" if path['way'] else 'attached nowhere']
    if path['problem']:
        lines.append(f"note: {path['problem']}")
    lines.append(f"{'PORT':15} | {'BRIDGE':15} | {'MAC':17} | {'PACKETS':>14} | STATE")
    for port in path['ports']:
        packets = next((counter['value'] for counter in port['counters']
                        if counter['name'] == 'packets'), 0)
        lines.append(f"{port['name']:15} | {port['bridge']:15} | {port['mac'] or '-':17} | "
                     f"{packets:>14} | {port['obstacle'] or 'in use'}")
    return '\n'.join([*lines, *(f"{counter['name']}: {counter['value']}"
                                for counter in path['counters'] if counter['value'])])


def load_time_text(seconds: float) -> str:
    """Return a time since the epoch as RFC 5322 writes it, in UTC; '-' for 0."""
    if not seconds:
        return '-'
    return time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime(seconds))


def _facts(interface: Mapping) -> str:
    """Return how it is attached, in words."""
    words = []
    if interface['attached']:
        words.append(f"{interface['mode'] or 'unknown'} mode")
        words.append(f"root program {interface['program_id']}")
        words += [word for word in ('frags', 'trace') if interface.get(word)]
    kinds = dict.fromkeys(filter(None, (interface.get('kind'), interface.get('driver'))))
    if kinds:
        words.append(' '.join(kinds))
    if interface.get('mtu'):
        words.append(f"MTU {interface['mtu']}")
    return ', '.join(words)


def _because(reason: str) -> str:
    return f': {reason}' if reason else ''


def _slot_row(slot: Mapping) -> str:
    empty = not slot['program_id']
    return _row(
        {'SLOT': slot['slot'], 'ID': '-' if empty else slot['program_id'],
         'NAME': '-' if empty else slot['name'] + ('*' if slot['foreign'] else ''),
         'LOAD TIME': load_time_text(slot['load_time'])},
        [slot[key] for key in COUNTS])


def _row(cells: Mapping, counts: Iterable) -> str:
    """Return a line: numbers to the right, text to the left, as in the reference."""
    texts = []
    for name, width in _WIDTHS.items():
        text = name if cells is _WIDTHS else str(cells[name])
        texts.append(text.ljust(width) if cells is _WIDTHS or name in ('NAME', 'LOAD TIME')
                     else text.rjust(width))
    texts += [text.ljust(_COUNT_WIDTH) if isinstance(text, str)
              else str(text).rjust(_COUNT_WIDTH) for text in counts]
    return ' | '.join(texts).rstrip()


def _remarks(interface: Mapping) -> list[str]:
    """Return the lines below a table: what it cannot show in a cell."""
    lines = []
    if interface['attached'] and interface['reason']:
        lines.append(f"note: {interface['reason']}")
    foreign = [slot for slot in interface['slots'] if slot['foreign']]
    if foreign:
        came = ', '.join(f"{slot['entered']} packets came to slot {slot['slot']}"
                         for slot in foreign)
        lines.append(f'* pinned by another tool: it ends the chain, and does not count; {came}')
    lines += [f"slot {slot['slot']}: {slot['configured']} is configured"
              f"{_because(slot['reason'])}" for slot in interface['slots'] if slot['reason']]
    return lines
