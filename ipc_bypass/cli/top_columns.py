"""The columns of `ipc-bypass top`: what they hold, how wide they are, how they sort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import unicodedata

from ipc_bypass.cli.top_delays import ASCII, duration, spark

_UNITS = 'BKMGTPE'


@dataclass(frozen=True)
class Column:
    """
    One column.

    `cell` returns a row's text, `order` what it is sorted by; `width` columns at least, to
    which those with `grows` add their share of the room that a wide terminal has; a `last` one
    takes the rest. `from_width`: shown in terminals that are so wide.
    """

    title: str
    width: int
    cell: Callable
    order: Callable
    number: bool = False
    grows: bool = False
    from_width: int = 0


def amount(value: float) -> str:
    """Return a number of bytes or messages in 5 columns or fewer: 999B, 1.5K, 12M."""
    value = max(0.0, value)
    power = 0
    while value >= 999.5 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    if not power:
        return f'{value:.0f}B'
    return f'{value:.1f}{_UNITS[power]}' if value < 99.95 else f'{value:.0f}{_UNITS[power]}'


def number(value: float) -> str:
    """Return a count in 5 columns or fewer, in powers of 1000: 999, 1.5k, 12M."""
    value, power = max(0.0, value), 0
    while value >= 999.5 and power < 4:
        value, power = value / 1000, power + 1
    if not power:
        return f'{value:.0f}'
    return f"{value:.1f}{' kMGT'[power]}" if value < 99.95 else f"{value:.0f}{' kMGT'[power]}"


def delay_text(delay: float | None) -> str:
    """Return a queue delay, '-' where there is none."""
    return '-' if delay is None else duration(delay)


def _owner(command: str, pid: int) -> str:
    return f'{command}({pid})' if pid else command


FLOW_COLUMNS = {
    'from': Column('FROM', 14, lambda row: _owner(row.sender, row.sender_pid),
                   lambda row: (row.sender, row.sender_pid), grows=True),
    'to': Column('TO', 14, lambda row: _owner(row.receiver, row.receiver_pid),
                 lambda row: (row.receiver, row.receiver_pid), grows=True),
    'port': Column('PORT', 5, lambda row: str(row.port), lambda row: row.port, number=True),
    'rate': Column('B/s', 5, lambda row: amount(row.rate), lambda row: row.rate, number=True),
    'messages': Column('MSG/s', 6, lambda row: number(row.messages), lambda row: row.messages,
                       number=True),
    'bytes': Column('SENT', 5, lambda row: amount(row.bytes), lambda row: row.bytes,
                    number=True),
    'queued': Column('QUEUE', 6, lambda row: amount(row.queued), lambda row: row.queued,
                     number=True),
    'delay': Column('DELAY', 6, lambda row: delay_text(row.delay),
                    lambda row: -1.0 if row.delay is None else row.delay, number=True),
    'delays': Column('DELAYS', 12, lambda row: spark(row.delays),
                     lambda row: row.delays.quantile(0.5) or 0.0, from_width=110),
    'age': Column('AGE', 6, lambda row: duration(row.age), lambda row: row.age, number=True,
                  from_width=100),
    'path': Column('WAY', 10, lambda row: row.way, lambda row: (row.path, row.reason),
                   grows=True),
}
PROCESS_COLUMNS = {
    'pid': Column('PID', 7, lambda row: str(row.pid) if row.pid else '?', lambda row: row.pid,
                  number=True),
    'from': Column('COMMAND', 15, lambda row: row.command, lambda row: row.command, grows=True),
    'flows': Column('FLOWS', 6, lambda row: str(row.flows), lambda row: row.flows, number=True),
    'rate': Column('OUT/s', 6, lambda row: amount(row.out_rate), lambda row: row.rate,
                   number=True),
    'in': Column('IN/s', 6, lambda row: amount(row.in_rate), lambda row: row.in_rate,
                 number=True),
    'bytes': Column('SENT', 5, lambda row: amount(row.sent), lambda row: row.sent, number=True),
    'received': Column('RECV', 5, lambda row: amount(row.received), lambda row: row.received,
                       number=True),
    'fast': Column('FAST', 5, lambda row: f'{row.fast:.0%}', lambda row: row.fast, number=True),
    'delay': Column('DELAY', 6, lambda row: delay_text(row.delay),
                    lambda row: -1.0 if row.delay is None else row.delay, number=True),
    'delays': Column('DELAYS', 12, lambda row: spark(row.delays),
                     lambda row: row.delays.quantile(0.5) or 0.0, from_width=110),
    'path': Column('WAYS', 8, lambda row: row.way, lambda row: row.way, grows=True),
}


def table(columns: dict[str, Column], rows, width: int, *, unicode: bool = True,
          marked: str = '', ascending: bool = False) -> list[str]:
    """
    Return the header and a line a row, each at most `width` columns.

    :param marked: name of the column that the rows are sorted by
    """
    shown = {name: each for name, each in columns.items() if width >= each.from_width}
    spare = max(0, width - sum(each.width for each in shown.values()) - len(shown) + 1)
    growing = [name for name, each in shown.items() if each.grows]
    widths = {name: each.width for name, each in shown.items()}
    for place, name in enumerate(growing):
        share = spare // (len(growing) - place)
        if name != growing[-1]:  # the last one takes the rest
            share = min(share, 30)
        widths[name] += share
        spare -= share
    sign = '▲' if ascending else '▼'
    header = {name: each.title + (sign if name == marked else '')
              for name, each in shown.items()}
    cells = [header] + [{name: each.cell(row) for name, each in shown.items()} for row in rows]
    return [' '.join(fitted(line[name], widths[name], right=each.number, unicode=unicode)
                     for name, each in shown.items())[:width].rstrip() for line in cells]


def fitted(text: str, width: int, *, right: bool = False, unicode: bool = True) -> str:
    """Return text in exactly so many columns of a terminal, without control characters."""
    text = clean(text, unicode=unicode)
    columns = columns_of(text)
    if columns > width:
        kept, columns = '', 0
        for character in text:
            step = columns_of(character)
            if columns + step > width - 1:
                break
            kept, columns = kept + character, columns + step
        text, columns = kept + ('…' if unicode else '~'), columns + 1
    space = ' ' * (width - columns)
    return space + text if right else text + space


def clean(text: str, *, unicode: bool = True) -> str:
    """Return text that no terminal obeys: a process may name itself as it likes."""
    if not unicode:
        text = text.translate(ASCII)
    return ''.join(character if character.isprintable() and (unicode or character.isascii())
                   else '?' for character in text)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(character) else
               2 if unicodedata.east_asian_width(character) in 'WF' else 1
               for character in text)
