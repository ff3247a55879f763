"""`ipc-bypass proxy`: TCP forwards, of the node sockmap_helper or without any node."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import signal
import sys
import time

from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.proxy.forward import PATHS
from ipc_bypass.proxy.helper import KERNEL_PATHS, ProxyHelper, ProxySettings

_NODE = '/sockmap_helper'
_MOST = (1 << 32) - 1  # of a uint32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for everything that can be asked."""
    commands = parser.add_subparsers(metavar='WHAT', required=True)
    running = commands.add_parser('run', help='forward until Ctrl-C, without any node')
    running.set_defaults(run_proxy=_run)
    running.add_argument('forwards', nargs='+', metavar='FORWARD',
                         help="'listen:port -> backend:port option=value ...'")
    running.add_argument('--kernel-path', default='auto', choices=KERNEL_PATHS,
                         help='what of the kernel is used (default %(default)s)')
    running.add_argument('--metrics-port', type=_up_to(65_535), default=0, metavar='PORT',
                         help='answer on 127.0.0.1 with metrics for Prometheus')
    running.add_argument('--json', action='store_true', help='print an object when it is ready: '
                         'forwards, ways, reasons')
    status = _asking(commands, 'status', 'show forwards, backends and open connections')
    status.add_argument('forward', nargs='?', type=_up_to(_MOST), default=0,
                        help='id; default: all')
    status.add_argument('--connections', type=_up_to(_MOST), default=20, metavar='N',
                        help='show so many open connections (default %(default)s)')
    add = _asking(commands, 'add', 'add a forward')
    add.add_argument('listen', help='address:port; no address: all')
    add.add_argument('backend', help='address or name, and port')
    add.add_argument('--path', default='', choices=('', *PATHS))
    add.add_argument('--idle-timeout', type=float, default=0.0, metavar='SECONDS')
    add.add_argument('--max-connections', type=_up_to(_MOST), default=0, metavar='N')
    add.add_argument('--proxy-protocol', action='store_true')
    remove = _asking(commands, 'remove', 'remove a forward')
    remove.add_argument('forward', type=_up_to(_MOST), help='id')
    remove.add_argument('--close-connections', action='store_true')


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command and return the exit status."""
    return args.run_proxy(args)


def _asking(commands, name: str, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run_proxy=lambda args: _ask_node(name, args))
    parser.add_argument('--node', default=_NODE, metavar='NAME',
                        help='full name of the node (default %(default)s)')
    parser.add_argument('--timeout', type=float, default=10.0, metavar='SECONDS',
                        help='how long to wait for an answer (default %(default)s)')
    parser.add_argument('--json', action='store_true', help='print an object in place of text')
    return parser


def _up_to(most: int) -> Callable[[str], int]:
    """Return a type of argument: a whole number from 0 to `most`."""
    def number(text: str) -> int:
        value = int(text)
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f'{text} is not 0 to {most}')
        return value
    return number


def _ask_node(name: str, args: argparse.Namespace) -> int:
    # Imported here: what runs without a node works without ROS 2.
    try:
        from ipc_bypass.cli import proxy_node
    except ModuleNotFoundError as error:
        raise UnsupportedError('ask the node sockmap_helper', f'it needs {error.name}',
                               next_step='source ROS 2, then . scripts/activate') from error
    return getattr(proxy_node, name)(args)


def _run(args: argparse.Namespace) -> int:
    """Forward until SIGINT or SIGTERM; return 0, or raise BypassError."""
    helper = ProxyHelper(ProxySettings(forwards=tuple(args.forwards),
                                       kernel_path=args.kernel_path), _tell)
    ended = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_arguments: ended.append(True))
    metrics = None
    try:
        helper.configure()
        if args.metrics_port:
            from ipc_bypass.proxy.metrics import MetricsServer
            metrics = MetricsServer('127.0.0.1', args.metrics_port, helper.report)
        helper.activate()
        report = helper.report()
        for each in report.forwards:
            _tell(f'forward {each.id}: {each.forward}')
        for name, reason in report.reasons.items():
            _tell(f"{name}: {'' if report.ways[name] else 'no: '}{reason}")
        _tell('ready')
        if args.json:
            print(json.dumps({
                'forwards': [{'id': each.id, 'listen': str(each.forward.listen),
                              'backend': str(each.forward.backend)} for each in report.forwards],
                'ways': dict(report.ways), 'reasons': dict(report.reasons)}), flush=True)
        while not ended:
            time.sleep(0.2)
        return 0
    finally:
        if metrics is not None:
            metrics.close()
        helper.close()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
