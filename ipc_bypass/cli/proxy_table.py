"""Forwards and connections as tables."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

_PATHS = ('shortcut', 'sk_skb', 'splice', 'connecting')


def render(shown: dict) -> Group:
    """Return what is printed for {'forwards': [...], 'connections': [...]} of dicts."""
    parts = [_forwards(shown['forwards'])]
    if shown['connections']:
        parts.append(_connections(shown['connections']))
    return Group(*parts)


def _forwards(forwards: list[dict]) -> Table:
    table = Table('id', 'listen', 'backend', 'health', 'open', 'by path', 'accepted',
                  'MB onward', 'MB back', title='forwards')
    for each in forwards:
        by_path = ', '.join(f'{path} {each[path]}' for path in _PATHS if each[path])
        health = each['health'] + (f": {each['health_reason']}" if each['health_reason'] else '')
        listen = each['listen'] + ('' if each['listening'] else ' (not now)')
        table.add_row(str(each['id']), listen, each['backend'], health, str(each['open']),
                      by_path or '-', str(each['accepted']), f"{each['bytes_onward'] / 1e6:,.1f}",
                      f"{each['bytes_back'] / 1e6:,.1f}")
    return table


def _connections(connections: list[dict]) -> Table:
    table = Table('forward', 'client', 'backend', 'path', 'why no faster one', 'age s', 'idle s',
                  'MB onward', 'MB back', title='connections')
    for each in connections:
        table.add_row(str(each['forward_id']), each['client'], each['backend'], each['path'],
                      each['reason'] or '-', f"{each['age_s']:.1f}", f"{each['idle_s']:.1f}",
                      f"{each['bytes_onward'] / 1e6:,.1f}", f"{each['bytes_back'] / 1e6:,.1f}")
    return table
