"""
Writes docs/commands.md: every command with its arguments, options, example and exit codes.

`python3 -m ipc_bypass.cli.reference > docs/commands.md`, after a change of any of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
import sys

from ipc_bypass.cli.examples import EXAMPLES, EXIT_CODES, MORE_CODES
from ipc_bypass.cli.main import command_parser, COMMANDS
from ipc_bypass.cli.parsers import commands, subcommands

_HEAD = """\
# The commands

Written by `python3 -m ipc_bypass.cli.reference > docs/commands.md` from the parsers; a test holds
the two together. `ipc-bypass COMMAND --help` shows the same.

## What holds for all

- An error is one line on standard error: what failed, the reason, the next step. `ipc-bypass
  --verbose COMMAND` adds the compiler's or verifier's log, where there is one.
- `--json` prints an object, or an object a line where a command goes on, on standard output; notes
  and errors stay on standard error. Of a bench it names the file for the figures.
- Commands that ask a node wait `--timeout` seconds for it, in the domain of ROS_DOMAIN_ID.

| exit code | meaning |
|---|---|
"""
_COMPLETION = """
## Completion

With argcomplete (`apt-get install python3-argcomplete`), bash completes commands, options and
choices after

```bash
eval "$(register-python-argcomplete ipc-bypass)"     # Debian's name ends in 3
```

`source scripts/activate` does that where argcomplete is there. zsh takes the same line after
`autoload -U bashcompinit && bashcompinit`. Without argcomplete `ipc-bypass` works as ever.
"""


def main() -> int:
    """Print the page."""
    sys.stdout.write('\n'.join(page()) + '\n')
    return 0


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield _HEAD.rstrip('\n')
    yield from (f'| {code} | {meaning} |' for code, meaning in EXIT_CODES.items())
    yield _COMPLETION.rstrip('\n')
    for name, summary in COMMANDS.items():
        if find_spec(f'ipc_bypass.cli.{name}') is None:
            continue  # a build without it
        for words, parser in commands(command_parser(name)):
            yield from _section(words, parser, summary)


def _section(words: str, parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    level = min(4, 1 + len(words.split()))
    yield f"\n{'#' * level} ipc-bypass {words}\n"
    text = (parser.description or summary).strip()
    # A paragraph that is indented or has a table is as its author laid it out.
    yield text if '\n' in text else text[0].upper() + text[1:] + '.' * (text[-1] not in '.:')
    if subcommands(parser):
        yield '\nSub-commands: ' + ', '.join(f'`{name}`' for name in subcommands(parser)) + '.'
    rows = [row for row in map(_row, parser._actions) if row]
    if rows:
        yield from ('\n| argument | meaning |', '|---|---|', *rows)
    if words in EXAMPLES:
        yield f'\n```bash\n{EXAMPLES[words]}\n```'
    if words in MORE_CODES:
        yield '\nExit codes: ' + '; '.join(f'{code}: {text}' for code, text
                                           in MORE_CODES[words].items()) + '.'


def _row(action: argparse.Action) -> str:
    """Return the row of an argument, '' for what is no argument of its own."""
    if isinstance(action, (argparse._SubParsersAction, argparse._HelpAction)) \
            or action.help is argparse.SUPPRESS:
        return ''
    value = action.metavar or ('' if action.nargs == 0 else action.dest.upper()
                               if action.option_strings else action.dest)
    if action.choices is not None and action.metavar is None:
        value = '{' + ','.join(str(choice) for choice in action.choices if choice != '') + '}'
    if isinstance(value, tuple):
        value = ' '.join(value)
    names = ', '.join(action.option_strings)
    text = f'{names} {value}'.strip()
    try:
        meaning = (action.help or '') % {**vars(action), 'prog': 'ipc-bypass'}
    except (KeyError, TypeError, ValueError):
        meaning = action.help
    return f'| `{_cell(text)}` | {_cell(meaning)} |'


def _cell(text: str) -> str:
    """Return text for a cell of a table: a bar would end it."""
    return text.replace('|', '\\|')


if __name__ == '__main__':
    sys.exit(main())
