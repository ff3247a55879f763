"""Walks over the parsers of `ipc-bypass`: every command with its words."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import textwrap

from ipc_bypass.cli.examples import epilog

_PROGRAM = 'ipc-bypass'
_WIDTH = 79


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return {name: parser} of the sub-commands of a parser, {} where it has none."""
    # argparse has no public way to them.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield (words, parser) of a command and all below it, for example 'xdp rules add'."""
    words = parser.prog.removeprefix(_PROGRAM).strip()
    yield words, parser
    for each in subcommands(parser).values():
        yield from commands(each)


def add_epilogs(parser: argparse.ArgumentParser) -> None:
    """Have the help of a command and all below it end with an example and the exit codes."""
    for words, each in commands(parser):
        if each.epilog is None:
            each.epilog = epilog(words, leaf=not subcommands(each)) or None
        if each.formatter_class is argparse.HelpFormatter:
            # Which would make one paragraph of the example.
            each.formatter_class = argparse.RawDescriptionHelpFormatter
            if each.description:
                each.description = textwrap.fill(each.description, _WIDTH)
