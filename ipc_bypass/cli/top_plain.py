"""`ipc-bypass top` without a screen: tables, or an object a line."""

from __future__ import annotations

import json
import locale
import shutil
import sys

from ipc_bypass.cli.observing import Ending
from ipc_bypass.cli.status_table import WIDTH_OF_A_FILE
from ipc_bypass.cli.top_columns import clean, table
from ipc_bypass.cli.top_view import rows_of, State, summary

#: Seconds of one wait: a signal is noticed after that at the latest.
_LOOK_EVERY = 0.2


def print_looks(source, args) -> int:
    """Print one look for each message of ~/flows until a signal, or `args.count` of them."""
    state, ending = state_of(args), Ending(args.count)
    with ending.on_signals():
        source.wait(lambda: bool(ending.signal))
        if ending.signal:
            return 0
        # The second message is the first one with rates.
        _wait(source, ending, source.look().state_label in ('active', 'inactive'))
        while not ending.reached:
            with source.lock:
                look, model = source.look(), source.model
                text = (json.dumps(as_object(look, model, state)) if args.json
                        else as_table(look, model, state))
            print(text, flush=True)
            ending.count(1)
            if not ending.reached:
                _wait(source, ending, True)
    return 0


def state_of(args) -> State:
    """Return what the options ask for."""
    return State(sort=args.sort, ascending=args.reverse, filter=args.filter,
                 processes=args.processes)


def as_table(look, model, state: State) -> str:
    """Return the summary and every row, as wide as the terminal, or wider in a file."""
    unicode = unicode_works()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH_OF_A_FILE
    lines = [clean(line, unicode=unicode) for line in summary(look, state)]
    lines += table(state.columns, rows_of(model, state), width, unicode=unicode,
                   marked=state.sorted_by, ascending=state.ascending)
    return '\n'.join([*lines, ''])


def as_object(look, model, state: State) -> dict:
    """Return what is printed with --json; rates in bytes a second, delays in seconds."""
    flows, processes = State(**vars(state)), State(**vars(state))
    flows.processes, processes.processes = False, True
    return {
        'node': look.node, 'stamp': look.stamp, 'state': look.state_label,
        'silent': look.silent, 'totals': look.totals, 'paths': look.paths,
        'helpers': list(look.helpers), 'left_out': look.left_out,
        'flows': [_flow(row) for row in rows_of(model, flows)],
        'processes': [_process(row) for row in rows_of(model, processes)]}


def unicode_works() -> bool:
    """Return whether the locale's encoding has the characters of bars."""
    try:
        locale.setlocale(locale.LC_ALL, '')
    except locale.Error:
        return False
    return locale.nl_langinfo(locale.CODESET).upper().replace('-', '') == 'UTF8'


def _flow(row) -> dict:
    return {**{name: value for name, value in vars(row).items() if name != 'delays'},
            'queue_delays_us': row.delays.as_dict()}


def _process(row) -> dict:
    return {**{name: sorted(value) if isinstance(value, set) else value
               for name, value in vars(row).items() if name != 'delays'},
            'queue_delays_us': row.delays.as_dict()}


def _wait(source, ending, for_flows: bool) -> None:
    """Wait for the next flows, or for as long as two periods of a node that has none."""
    source.flows_came.clear()
    tries = 25 if for_flows else 5
    while tries and not ending.reached and not source.flows_came.wait(_LOOK_EVERY):
        tries -= 1
