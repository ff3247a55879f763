"""`ipc-bypass top`: flows and processes, live."""

from __future__ import annotations

import argparse

from ipc_bypass.cli.arguments import positive, seconds
from ipc_bypass.cli.top_columns import FLOW_COLUMNS, PROCESS_COLUMNS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    keys = dict.fromkeys((*FLOW_COLUMNS, *PROCESS_COLUMNS))
    parser.add_argument('--sort', default='rate', choices=tuple(keys), metavar='COLUMN',
                        help=f"one of {', '.join(keys)} (default %(default)s)")
    parser.add_argument('--reverse', action='store_true', help='the smallest first')
    parser.add_argument('--filter', default='', metavar='TEXT', help='only what has this text in '
                        'an address, a port, a process, a path or a reason')
    parser.add_argument('--processes', action='store_true', help='begin with processes')
    parser.add_argument('--json', action='store_true', help='print an object a line: node, '
                        'stamp, state, totals, flows, processes')
    parser.add_argument('--once', action='store_true', help='print one table or object, and end')
    parser.add_argument('--count', type=positive, metavar='N', help='end after N of them')
    parser.add_argument('--plain', action='store_true', help='print tables, as without a '
                        'terminal or with TERM=dumb')
    parser.add_argument('--node', default='/ipc_bypass', metavar='NAME',
                        help='full name of the node (default %(default)s)')
    for name, node in (('xdp-node', '/xdp_helper'), ('proxy-node', '/sockmap_helper')):
        parser.add_argument(f'--{name}', default=node, metavar='NAME',
                            help='shown where it is there (default %(default)s)')
    parser.add_argument('--timeout', type=seconds, default=5.0, metavar='SECONDS',
                        help='how long to wait for the node (default %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Show until q, Ctrl-C or a limit; return 0, or raise NodeError where there is no node."""
    # Imported here: help and completion work without ROS 2.
    from ipc_bypass.cli.top_source import Source
    if args.once:
        args.count = 1
    with Source(args) as source:
        if args.json or args.count or args.plain or not _terminal():
            from ipc_bypass.cli.top_plain import print_looks
            return print_looks(source, args)
        from ipc_bypass.cli.top_screen import show
        return show(source, args)


def _terminal() -> bool:
    """Return whether there is a terminal that a screen can be drawn on."""
    import curses
    import os
    import sys
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        curses.setupterm(os.environ.get('TERM') or 'dumb', sys.stdout.fileno())
    except curses.error:
        return False
    return bool(curses.tigetstr('cup'))  # it can put the cursor somewhere
