"""Every command has a summary, an example, --json and exit codes, and stands in its page."""

from importlib.util import find_spec
from pathlib import Path
import re
import shlex
import subprocess
import sys

from ipc_bypass.cli.examples import codes, EXAMPLES, MORE_CODES
from ipc_bypass.cli.main import command_parser, COMMANDS, main
from ipc_bypass.cli.parsers import commands, subcommands
from ipc_bypass.cli.reference import page
import pytest

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'commands.md'
#: Commands whose module is there.
THERE = [name for name in COMMANDS if find_spec(f'ipc_bypass.cli.{name}')]
PARSERS = dict(found for name in THERE for found in commands(command_parser(name)))
LEAVES = [words for words, parser in PARSERS.items() if not subcommands(parser)]


def options(parser):
    """Return the options and arguments of a parser as the page names them."""
    for action in parser._actions:
        if action.help is not None and action.dest not in ('help', 'command') \
                and not hasattr(action, 'add_parser'):
            names = [action.metavar or action.dest]
            if action.choices is not None and action.metavar is None:
                names = list(action.choices)
            yield from action.option_strings or names


def section(words):
    """Return the text of a command in the page, up to the next heading."""
    match = re.search(rf'^#+ ipc-bypass {words}\n(.*?)(?=^#+ |\Z)', PAGE.read_text(),
                      re.MULTILINE | re.DOTALL)
    assert match, f'no section for {words}: python3 -m ipc_bypass.cli.reference'
    return match.group(1)


def test_all_commands_are_there():
    assert THERE == list(COMMANDS)


@pytest.mark.parametrize('words', PARSERS)
def test_page_lists(words):
    text = section(words)
    for option in options(PARSERS[words]):
        assert f'{option}' in text, f'{option}: python3 -m ipc_bypass.cli.reference'
    for name in subcommands(PARSERS[words]):
        assert f'`{name}`' in text


def test_page_lists_nothing_else():
    found = re.findall(r'^#+ ipc-bypass (.*)$', PAGE.read_text(), re.MULTILINE)
    assert set(found) <= set(PARSERS) | (set(COMMANDS) - set(THERE))
    assert set(EXAMPLES) | set(MORE_CODES) <= set(PARSERS) | {
        words for words in EXAMPLES if words.split()[0] not in THERE} | (
            set(COMMANDS) - set(THERE))


@pytest.mark.parametrize('words', LEAVES)
def test_command_is_complete(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), '--help'])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert '--json' in text
    assert re.search(r'^examples?:\s*\S', text, re.MULTILINE | re.IGNORECASE), 'no example'
    assert re.search('^exit codes:', text, re.MULTILINE | re.IGNORECASE), 'no exit codes'
    if 'it was done' in text:  # else the command's author wrote them
        for code, meaning in codes(words).items():
            assert str(code) in text and meaning.split()[0] in text


@pytest.mark.parametrize('words', [words for words in EXAMPLES if words.split()[0] in THERE])
def test_example_parses(words):
    """The arguments of an example are what its command takes."""
    line = shlex.split(EXAMPLES[words].partition(' & ')[0])
    assert line[0] == 'ipc-bypass' and ' '.join(line[1:]).startswith(words.split()[0])
    chosen = command_parser(line[1])
    try:
        chosen.parse_args(line[2:])
    except SystemExit as ended:
        assert ended.code == 0  # --help


def test_page_is_of_these_parsers():
    written = [*page()]
    assert '\n'.join(written) + '\n' == PAGE.read_text(), \
        'python3 -m ipc_bypass.cli.reference > docs/commands.md'


@pytest.mark.parametrize(('line', 'code'), [
    ([], 2), (['--no-such-option'], 2), (['no_such_command'], 2), (['export', '--port', 'x'], 2),
    (['top', '--sort', 'x'], 2), (['--help'], 0)])
def test_exit_codes(line, code):
    done = subprocess.run([sys.executable, '-m', 'ipc_bypass.cli.main', *line],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert 'Traceback' not in done.stderr
