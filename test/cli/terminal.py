"""A terminal of our own: a command in a pty, and what a person would see of it."""

import codecs
import fcntl
import os
from pathlib import Path
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from support.waiting import PATIENCE, wait_until

_SEQUENCE = re.compile(r'\x1b(?:\[([?0-9;]*)([@-~])|[()][A-Z0-9]|[=>78DM])')


class Terminal:
    """
    Runs a command in a pty with TERM=vt100, and keeps the screen.

    Knows the sequences that curses writes to a vt100.
    """

    def __init__(self, *command, columns=80, rows=24, environment=None, controlling=True):
        """Start it; a terminal that is not `controlling` sends it no signals."""
        self.columns, self.rows = columns, rows
        self.cells, self.at, self.raw = {}, [0, 0], ''
        self._decoder, self._rest = codecs.getincrementaldecoder('utf-8')('replace'), ''
        self.master, slave = pty.openpty()
        self._set_size()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if controlling else None,
            env={**os.environ, 'TERM': 'vt100', 'LC_ALL': 'C.UTF-8', **(environment or {})})

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End the command, if it has not ended."""
        self.process.kill()
        self.process.wait()
        self.hang_up()
        os.close(self._slave)

    def hang_up(self):
        """Take the terminal away, as when a connection by ssh breaks."""
        if self.master is not None:
            os.close(self.master)
            self.master = None

    def see_handled(self, number):
        """Wait until the command handles a signal."""
        def handled():
            status = Path(f'/proc/{self.process.pid}/status').read_text()
            mask, = (line.split()[1] for line in status.splitlines() if line[:6] == 'SigCgt')
            return int(mask, 16) >> number - 1 & 1
        wait_until(handled, f'the command handles signal {number}')

    def resize(self, columns, rows):
        """Change the size; the command is told by SIGWINCH."""
        self.columns, self.rows = columns, rows
        self._set_size()
        os.killpg(self.process.pid, signal.SIGWINCH)

    def press(self, keys):
        """Type."""
        os.write(self.master, keys.encode())

    def text(self):
        """Return the screen."""
        return '\n'.join(''.join(self.cells.get((row, column), ' ')
                                 for column in range(self.columns)).rstrip()
                         for row in range(self.rows))

    def see(self, *texts):
        """Wait until all of these are on the screen, and return it."""
        def all_there():
            self.read()
            return all(text in self.text() for text in texts)
        try:
            wait_until(all_there, f'{texts} on the screen')
        except AssertionError as error:
            raise AssertionError(f'{error}; the screen:\n{self.text()}') from None
        return self.text()

    def see_no(self, text):
        """Wait until this is not on the screen any more."""
        def gone():
            self.read()
            return text not in self.text()
        wait_until(gone, f'{text!r} is gone from the screen')

    def end(self):
        """Wait for the end and return (exit code, whether the terminal is as it was)."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        self.read()
        return self.process.wait(1), termios.tcgetattr(self._slave) == self.before

    def read(self):
        """Take what the command has written."""
        while select.select([self.master], [], [], 0.05)[0]:
            text = self._decoder.decode(os.read(self.master, 1 << 16))
            self.raw += text
            self._take(text)

    def _set_size(self):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack('HHHH', self.rows, self.columns, 0, 0))

    def _take(self, text):
        text, self._rest = self._rest + text, ''
        place = 0
        while place < len(text):
            if text[place] == '\x1b':
                match = _SEQUENCE.match(text, place)
                if match is None:
                    self._rest = text[place:]
                    return
                self._obey(match.group(1) or '', match.group(2))
                place = match.end()
                continue
            self._put(text[place])
            place += 1

    def _put(self, character):
        if character == '\r':
            self.at[1] = 0
        elif character == '\n':
            self.at[0] = min(self.rows - 1, self.at[0] + 1)
        elif character == '\b':
            self.at[1] = max(0, self.at[1] - 1)
        elif character == '\t':
            self.at[1] = min(self.columns - 1, self.at[1] // 8 * 8 + 8)
        elif character >= ' ':
            if self.at[1] >= self.columns:
                self.at = [min(self.rows - 1, self.at[0] + 1), 0]
            self.cells[tuple(self.at)] = character
            self.at[1] += 1

    def _obey(self, arguments, letter):
        numbers = [int(part) if part.isdigit() else 0 for part in arguments.split(';')]
        first = max(1, numbers[0])
        if letter == 'H':
            second = max(1, numbers[1]) if len(numbers) > 1 else 1
            self.at = [first - 1, second - 1]
        elif letter in ('A', 'B'):
            self.at[0] += first if letter == 'B' else -first
        elif letter in ('C', 'D'):
            self.at[1] += first if letter == 'C' else -first
        elif letter in ('J', 'K'):
            after = tuple(self.at)
            self.cells = {cell: character for cell, character in self.cells.items()
                          if not self._erased(cell, after, letter, numbers[0])}

    @staticmethod
    def _erased(cell, after, letter, kind):
        if letter == 'K' and cell[0] != after[0]:
            return False
        return kind == 2 or (cell <= after if kind == 1 else cell >= after)
