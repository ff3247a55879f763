"""What the keys of `ipc-bypass top` do; a key is a name as 'p', 'enter' or 'down'."""

from __future__ import annotations

from ipc_bypass.cli.top_view import chosen_row, PATHS, rows_of, State

#: Most characters of a filter.
_LONGEST = 60


def press(key: str, state: State, model, page: int, actions) -> bool:
    """
    Change the state as a key asks for; return False where the key ends the command.

    :param page: rows of a page
    :param actions: has enroll(port) and withdraw(rule_id)
    """
    state.note = ''
    if state.prompt:
        _typed(key, state, actions)
        return True
    if key == 'q':
        return False
    if state.help or (state.details and key == 'escape'):
        state.help = state.details = False
    elif key in _MOVES:
        _move(key, state, rows_of(model, state), page)
    elif key in _SIMPLE:
        _SIMPLE[key](state)
    elif key == 'e':
        row = chosen_row(rows_of(model, state), state)
        state.prompt = 'enroll'
        state.typed = str(row.port) if row is not None and not state.processes else ''
    elif key == 'w':
        _withdraw(state, chosen_row(rows_of(model, state), state), actions)
    return True


def _next_column(state: State, step: int) -> None:
    names = list(state.columns)
    state.sort = names[(names.index(state.sorted_by) + step) % len(names)]


def _toggle_processes(state: State) -> None:
    state.processes = not state.processes
    state.chosen, state.top, state.details = None, 0, False


def _begin_filter(state: State) -> None:
    state.prompt, state.typed = 'filter', state.filter


def _next_paths(state: State) -> None:
    state.paths = PATHS[(PATHS.index(state.paths) + 1) % len(PATHS)]


def _flip(name: str):
    return lambda state: setattr(state, name, not getattr(state, name))


_SIMPLE = {
    's': lambda state: _next_column(state, 1), '>': lambda state: _next_column(state, 1),
    '<': lambda state: _next_column(state, -1), 'r': _flip('ascending'),
    '?': _flip('help'), 'h': _flip('help'), 'enter': _flip('details'),
    't': _next_paths, 'p': _toggle_processes, '/': _begin_filter}
_MOVES = {'up': -1, 'k': -1, 'down': 1, 'j': 1, 'page up': 0, 'page down': 0, 'home': 0, 'end': 0}


def _move(key: str, state: State, rows: list, page: int) -> None:
    row = chosen_row(rows, state)
    if row is None:
        return
    place = rows.index(row)
    place = {'page up': place - page, 'page down': place + page, 'home': 0,
             'end': len(rows) - 1}.get(key, place + _MOVES[key])
    state.chosen = rows[max(0, min(len(rows) - 1, place))].key


def _typed(key: str, state: State, actions) -> None:
    """Take a key as part of what is typed."""
    if key == 'escape':
        if state.prompt == 'filter':
            state.filter = ''
        state.prompt = state.typed = ''
    elif key == 'backspace':
        state.typed = state.typed[:-1]
    elif key == 'enter':
        prompt, text = state.prompt, state.typed.strip()
        state.prompt = state.typed = ''
        if prompt == 'filter':
            state.filter = text
        elif text.isascii() and text.isdigit() and 0 < int(text) < 65536:
            actions.enroll(int(text))
        else:
            state.note = f"'{text}' is no port from 1 to 65535"
    elif len(key) == 1 and key.isprintable() and len(state.typed) < _LONGEST:
        state.typed += key


def _withdraw(state: State, row, actions) -> None:
    if row is None or state.processes:
        state.note = 'choose a flow first (p shows flows)'
    elif not row.rule_id:
        state.note = 'no rule covers this flow any more'
    else:
        actions.withdraw(row.rule_id)
