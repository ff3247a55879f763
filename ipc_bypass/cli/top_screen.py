"""The screen of `ipc-bypass top`, by curses; it leaves the terminal as it was, at any end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import curses
import os
import signal
import sys
import tempfile
import time

from ipc_bypass.cli.observing import Ending
from ipc_bypass.cli.top_keys import press
from ipc_bypass.cli.top_plain import state_of, unicode_works
from ipc_bypass.cli.top_view import FAST, HEADER, NOTE, screen, SELECTED, SLOW

# Milliseconds of one wait for a key: a signal or a message is noticed after that at the latest.
_WAIT = 100
# Seconds after which a screen is drawn again when nothing changed.
_DRAW_EVERY = 1.0
#: Lines of a screen that are no rows: the summary, the header and the last line.
_AROUND = 6
_NAMES = {
    curses.KEY_UP: 'up', curses.KEY_DOWN: 'down', curses.KEY_PPAGE: 'page up',
    curses.KEY_NPAGE: 'page down', curses.KEY_HOME: 'home', curses.KEY_END: 'end',
    curses.KEY_ENTER: 'enter', curses.KEY_BACKSPACE: 'backspace', '\n': 'enter', '\r': 'enter',
    '\x1b': 'escape', '\x7f': 'backspace', '\b': 'backspace', '\x03': 'q'}


class _Actions:
    """What keys ask of the node; its answers go to the last line."""

    def __init__(self, source, state) -> None:
        self._source, self._state = source, state

    def enroll(self, port: int) -> None:
        self._tell(f'enrolling port {port} ...')
        self._source.enroll(port, self._tell)

    def withdraw(self, rule_id: int) -> None:
        self._tell(f'withdrawing rule {rule_id} ...')
        self._source.withdraw(rule_id, self._tell)

    def _tell(self, text: str) -> None:
        self._state.note = text
        self._source.changed.set()


def show(source, args) -> int:
    """Show until q, or SIGINT, SIGTERM, SIGHUP or SIGQUIT; return 0, or raise NodeError."""
    ending = Ending()
    # Ctrl-\ too shall not leave a terminal that shows nothing of what is typed.
    with ending.on_signals(signal.SIGQUIT):
        source.wait(lambda: bool(ending.signal))
        if ending.signal:
            return 0
        unicode = unicode_works()
        # A second's wait after Escape is for terminals of the seventies.
        os.environ.setdefault('ESCDELAY', '25')
        with _quiet():
            try:
                curses.wrapper(_run, source, state_of(args), ending, unicode)
            except curses.error:
                if not _gone():
                    raise
    return 0


def _gone() -> bool:
    """Return whether the terminal is not there any more."""
    return not os.isatty(sys.stdin.fileno())


def _run(window, source, state, ending, unicode) -> None:
    styles, actions = _styles(), _Actions(source, state)
    try:
        curses.curs_set(0)
    except curses.error:
        pass  # this terminal always shows it
    window.timeout(_WAIT)
    drawn = float('-inf')
    while not ending.reached:
        # A node that hangs changes nothing, and that is to be seen.
        if source.changed.is_set() or time.monotonic() - drawn > _DRAW_EVERY:
            source.changed.clear()
            drawn = time.monotonic()
            _draw(window, source, state, styles, unicode)
        try:
            key = window.get_wch()
        except curses.error:
            if _gone():
                return  # and nobody told us by SIGHUP
            continue  # nothing was pressed
        except KeyboardInterrupt:
            return
        source.changed.set()
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
            window.clear()
            continue
        name = _NAMES.get(key, key if isinstance(key, str) else '')
        with source.lock:
            if name and not press(name, state, source.model,
                                  max(1, window.getmaxyx()[0] - _AROUND), actions):
                return


def _draw(window, source, state, styles, unicode) -> None:
    height, width = window.getmaxyx()
    with source.lock:
        lines = screen(source.look(), source.model, state, width, height, unicode=unicode)
    window.erase()
    for place, (text, style) in enumerate(lines):
        try:
            window.addstr(place, 0, text, styles.get(style, 0))
        except curses.error:
            pass  # the last cell of a screen cannot be written without moving on
    window.refresh()


def _styles() -> dict[int, int]:
    styles = {HEADER: curses.A_BOLD, SELECTED: curses.A_REVERSE, NOTE: curses.A_BOLD}
    if curses.has_colors():
        try:
            curses.use_default_colors()
            for number, (style, colour) in enumerate(((FAST, curses.COLOR_GREEN),
                                                      (SLOW, curses.COLOR_YELLOW)), 1):
                curses.init_pair(number, colour, -1)
                styles[style] = curses.color_pair(number)
        except curses.error:
            pass  # without colours, then
    return styles


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries write to standard error off the screen, and show it afterwards."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            said = stream.read(1 << 16)
            if said:
                with suppress(OSError):  # the terminal is gone
                    os.write(2, said)
