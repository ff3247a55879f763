"""`ipc-bypass run`: a command with a profile and a TCP port of its own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.profiles import folder, run_with_port
from ipc_bypass.profiles.kinds import KINDS
from ipc_bypass.profiles.settings import domain_of_environment, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = '%(prog)s [--profile FOLDER] [--json] KIND -- COMMAND...'
    _add_options(parser)
    parser.add_argument('kind', choices=KINDS, help='of the profile')
    parser.add_argument('words', nargs=argparse.REMAINDER, metavar='-- COMMAND',
                        help='the command and its arguments')


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--profile', type=Path, metavar='FOLDER', default=argparse.SUPPRESS,
                        help='what `ipc-bypass profile` wrote there (default: the usual folder, '
                        'which is made where it is missing)')
    parser.add_argument('--json', action='store_true', default=argparse.SUPPRESS,
                        help='print {"environment": {...}, "command": [...]} and run nothing; the '
                        'port is one that is free now')


def run(args: argparse.Namespace) -> int:
    """Run the command in this process; return 2 without one, 126 or 127 where it cannot start."""
    words = args.words
    if '--' in words:
        # argparse leaves to us what stands between the kind and the dashes.
        at = words.index('--')
        options = argparse.ArgumentParser(prog='ipc-bypass run', allow_abbrev=False)
        _add_options(options)
        options.parse_args(words[:at], namespace=args)
        words = words[at + 1:]
    where = getattr(args, 'profile', None) or _usual(args.kind)
    if getattr(args, 'json', False):
        return _print(where, words)
    # Whatever is wrong with the profile, the command runs, and one line says so.
    return run_with_port.main(['--profile', str(where), '--', *words])


def _usual(kind: str) -> Path:
    """Return the usual folder of a profile; written where it is missing."""
    domain = domain_of_environment()
    where = folder.default_folder(kind, domain)
    if not os.path.exists(where / run_with_port.DESCRIPTION):
        try:
            folder.write(kind, settings(domain), where)
        except BypassError:
            pass  # the runner says that there is none
    return where


def _print(where: Path, words: list[str]) -> int:
    import json
    try:
        environment = run_with_port.prepare(str(where))
    except run_with_port.Unusable as error:
        raise BypassError('use the profile', str(error)) from None
    print(json.dumps({'environment': environment, 'command': words}, indent=2))
    return 0
