"""What `ipc-bypass top` shows, as lines of text with a style; no terminal is needed for it."""

from __future__ import annotations

from dataclasses import dataclass
import textwrap

from ipc_bypass.cli.top_columns import (
    amount,
    clean,
    columns_of,
    fitted,
    FLOW_COLUMNS,
    number,
    PROCESS_COLUMNS,
    table,
)
from ipc_bypass.cli.top_delays import bars, delay_name, duration

#: Styles of a line.
PLAIN, HEADER, SELECTED, FAST, SLOW, NOTE = range(6)
#: Which flows the path toggle shows.
PATHS = ('all', 'redirected', 'passed')
HELP = (
    ('s, >', 'sort by the next column'), ('<', 'sort by the column before'),
    ('r', 'the other way round'), ('/', 'show only what has a text; Enter ends it, Esc drops it'),
    ('t', 'show all flows, the redirected ones, the passed ones'),
    ('p', 'processes, or flows'), ('Enter', 'all of the chosen line, and back'),
    ('e', 'enroll a TCP port: of the chosen flow, or another'),
    ('w', 'withdraw the rule of the chosen flow'),
    ('arrows, j, k', 'choose a line; also PgUp, PgDn, Home, End'), ('q', 'end'))
_KEYS = 's sort  r reverse  / filter  t way  p processes  Enter details  e enroll  ?  q'


@dataclass
class State:
    """What the keys change: order, filter, what is open, which row is chosen."""

    sort: str = 'rate'
    ascending: bool = False
    filter: str = ''  # noqa: A003
    paths: str = 'all'
    processes: bool = False
    details: bool = False
    help: bool = False  # noqa: A003
    chosen: object = None
    top: int = 0
    prompt: str = ''
    typed: str = ''
    note: str = ''

    @property
    def columns(self) -> dict:
        """Return the columns of the table that is shown."""
        return PROCESS_COLUMNS if self.processes else FLOW_COLUMNS

    @property
    def wanted(self) -> str:
        """Return the text that rows must have, also while it is typed."""
        return self.typed if self.prompt == 'filter' else self.filter

    @property
    def sorted_by(self) -> str:
        """Return the column that this table is sorted by: the chosen one, where it has it."""
        return self.sort if self.sort in self.columns else 'rate'


def rows_of(model, state: State) -> list:
    """Return the rows that a state lets through, in its order."""
    if state.processes:
        found = [row for row in model.processes
                 if state.paths == 'all' or (row.paths if state.paths == 'redirected'
                                             else row.reasons)]
    else:
        found = [row for row in model.flows
                 if state.paths == 'all' or bool(row.reason) == (state.paths == 'passed')]
    found = [row for row in found if state.wanted.lower() in row.text.lower()]
    order = state.columns[state.sorted_by].order
    found.sort(key=lambda row: row.key)
    return sorted(found, key=order, reverse=not state.ascending)


def screen(look, model, state: State, width: int, height: int, *, unicode: bool = True) -> list:
    """
    Return at most `height` lines as (text, style), each at most `width` columns.

    :param look: top_source.Look
    """
    lines = [(text, HEADER if index == 0 else PLAIN)
             for index, text in enumerate(summary(look, state))]
    room = height - len(lines) - 1
    rows = rows_of(model, state)
    row = chosen_row(rows, state)
    if state.help:
        lines += _fitting([f'{keys:>13}  {text}' for keys, text in HELP], room)
    elif state.details and row is not None:
        make = process_details if state.processes else flow_details
        lines += _fitting([line for text in make(row) for line in _wrapped(text, width)], room)
    else:
        lines += _table(rows, row, state, width, room, unicode)
    lines += [('', PLAIN)] * (height - 1 - len(lines))
    lines.append(_last_line(state))
    return [(_cut(text, width, unicode), style) for text, style in lines[:height]]


def _fitting(texts: list[str], room: int) -> list:
    """Return as many lines as there is room for, the last of which says how many are not there."""
    lines = [(text, PLAIN) for text in texts[:max(0, room)]]
    if lines and len(texts) > room:
        lines[-1] = (f'{len(texts) - room + 1} more lines, in a higher terminal', NOTE)
    return lines


def _cut(text: str, width: int, unicode: bool) -> str:
    if columns_of(text) > width:
        return fitted(text, width, unicode=unicode)
    return clean(text, unicode=unicode)


def summary(look, state: State) -> list[str]:
    """Return the lines above the table."""
    totals = look.totals
    first = f'{look.node}: {look.state_label}'
    if look.silent:
        first += f', silent for {duration(look.silent)}'
    lines = [first + f"  {totals['rules']} rules  {totals['flows']} flows: "
             f"{totals['flows_redirected']} redirected, {totals['flows_passed']} passed"]
    text = (f"redirected {amount(totals['redirected_bytes_per_second'])}/s  passed "
            f"{amount(totals['passed_bytes_per_second'])}/s  not read "
            f"{amount(totals['queued_bytes'])}")
    if totals['datagrams']:
        text += f"  datagrams captured {number(totals['datagrams_captured_per_second'])}/s"
    if look.left_out:
        text += f'  {look.left_out} flows not named'
    lines.append(text)
    lines.append('  '.join([*(f'{transport} by {path}' for transport, path in look.paths.items()),
                            *look.helpers]))
    words = [f"{'processes' if state.processes else 'flows'} by {state.sorted_by}"]
    if state.paths != 'all':
        words.append(f'{state.paths} only')
    if state.filter:
        words.append(f"with '{state.filter}'")
    lines.append(', '.join(words))
    return lines


def chosen_row(rows: list, state: State):
    """Return the chosen row, the first one where it is not there any more, None for no rows."""
    return next((row for row in rows if row.key == state.chosen), rows[0] if rows else None)


def _table(rows, row, state, width, room, unicode) -> list:
    if room < 2:
        return []
    place = rows.index(row) if row is not None else 0
    page = room - 1
    # The chosen row is on the page, which moves as little as can be.
    state.top = max(0, min(state.top, place, len(rows) - page), place - page + 1)
    shown = rows[state.top:state.top + page]
    header, *texts = table(state.columns, shown, width, unicode=unicode,
                           marked=state.sorted_by, ascending=state.ascending)
    lines = [(header, HEADER)]
    for each, text in zip(shown, texts, strict=True):
        style = SLOW if each.reason_now else FAST
        lines.append((text.ljust(width), SELECTED) if each is row else (text, style))
    if not rows:
        lines.append(('no flow' + (' like that' if state.wanted or state.paths != 'all' else
                                   ': no connection is open on an enrolled port (e enrolls one)'),
                      NOTE))
    return lines


def flow_details(row) -> list[str]:
    """Return all that is known of a flow: ends, counters by reason, queue, budget, delays."""
    lines = [
        f'from     {row.local}  {row.sender} ({row.sender_pid or "process not known"})',
        f'to       {row.remote}  {row.receiver} ({row.receiver_pid or "process not known"})',
        f'port     {row.port}, ' + (f'rule {row.rule_id}' if row.rule_id else 'withdrawn')
        + f', open for {duration(row.age)}',
        f'way      {row.path}' + (f': {row.reason}' if row.reason else ''),
        f'sent     {row.bytes:,} bytes: {row.redirected:,} redirected, {row.passed:,} passed',
        f'now      {amount(row.rate)}/s, {number(row.messages)} messages/s',
        f'queue    {row.queued:,} bytes not read; {row.budget:,} bytes of budget left',
        'passed   ' + (', '.join(f'{name} {count:,}' for name, count in row.reasons.items())
                       or 'no message') + ' (messages by reason)']
    return lines + _delays(row.delays)


def process_details(row) -> list[str]:
    """Return all that is known of a process."""
    return [
        f'process  {row.command} ({row.pid or "not known"}), ports '
        + ' '.join(map(str, sorted(row.ports))),
        f'sends    {amount(row.out_rate)}/s, {row.sent:,} bytes so far',
        f'receives {amount(row.in_rate)}/s, {row.received:,} bytes so far, '
        f'{row.queued:,} not read',
        f'fast     {row.fast:.1%} of its bytes, by {" ".join(sorted(row.paths)) or "no way"}',
        'passed   ' + (', '.join(f'{name} in {count} flows' for name, count
                                 in row.reasons.items()) or 'no flow') + ' (now, by reason)',
        *_delays(row.delays)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width), subsequent_indent=9 * ' ',
                         drop_whitespace=False) if len(text) > width else [text]


def _delays(delays) -> list[str]:
    if not delays.samples:
        return ['', f'{delay_name()}: no sample yet']
    return ['', f'{delay_name()}, {delays.samples} samples:', *bars(delays, 40)]


def _last_line(state: State) -> tuple[str, int]:
    if state.prompt == 'filter':
        return f'filter: {state.typed}_', NOTE
    if state.prompt == 'enroll':
        return f'enroll TCP port: {state.typed}_', NOTE
    return (state.note, NOTE) if state.note else (_KEYS, PLAIN)
