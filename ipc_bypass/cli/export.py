"""`ipc-bypass export`: what the nodes count, for Prometheus."""

from __future__ import annotations

import argparse

from ipc_bypass.cli.arguments import seconds

#: Free in the list of Prometheus's default ports when it was chosen.
DEFAULT_PORT = 9432


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('--port', type=_port, default=DEFAULT_PORT, metavar='PORT',
                        help='TCP port to answer on; 0: the kernel chooses (default %(default)s)')
    parser.add_argument('--address', default='127.0.0.1', metavar='ADDRESS',
                        help='IPv4 or IPv6 address to answer on; 0.0.0.0 and :: let the network '
                        'in (default %(default)s)')
    for name, node in (('node', '/ipc_bypass'), ('xdp-node', '/xdp_helper'),
                       ('proxy-node', '/sockmap_helper')):
        parser.add_argument(f'--{name}', default=node, metavar='NAME',
                            help='full name of the node (default %(default)s)')
    parser.add_argument('--top', type=_series, default=50, metavar='N', help='most pairs of '
                        'processes, and most endpoints, with series of their own; the others '
                        'are summed (default %(default)s)')
    parser.add_argument('--stale-after', type=seconds, default=5.0, metavar='SECONDS',
                        help='a node that said nothing for so long, or for three of its periods, '
                        'counts as gone (default %(default)s)')
    parser.add_argument('--json', action='store_true',
                        help='print {"address": ..., "port": ...} when it answers')


def run(args: argparse.Namespace) -> int:
    """Answer until SIGINT or SIGTERM; return 0, or raise BypassError."""
    # Imported here: help and completion work without ROS 2.
    from ipc_bypass.cli.export_node import serve
    return serve(args)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f'{text} is no port from 0 to 65535')
    return number


def _series(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f'{text} is not 1 to 10000')
    return number
