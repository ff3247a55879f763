"""`ipc-bypass xdp echo|forward|pipeline`: packets of an interface in user space, by AF_XDP."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import fields
import os
import signal
import sys
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.root import DEFAULT_PIN_DIRECTORY

# What numpy's linear algebra starts threads for, which this does not use: other threads would
# keep the privileges that this one drops.
_THREADS = 'OPENBLAS_NUM_THREADS'
_FLAGS = ('spin', 'prefer_busy_poll', 'drop_oversize')


def add_parsers(subparsers) -> None:
    """Add the sub-commands."""
    echo = _add(subparsers, 'echo', 'send UDP packets back, answer ARP, neighbour and ping '
                'requests, by AF_XDP', _echo)
    echo.add_argument('interface')
    echo.add_argument('--port', type=_port, action='append', help='UDP port (default 4242)')
    echo.add_argument('--address', action='append', metavar='ADDRESS',
                      help='answer for this address (default: those of the interface)')
    echo.add_argument('--compute-checksums', action='store_true',
                      help='compute UDP checksums anew, for a sender that sends none')
    forward = _add(subparsers, 'forward', 'send what comes by one interface out of another one, '
                   'both ways, by AF_XDP', _forward)
    forward.add_argument('near', metavar='INTERFACE')
    forward.add_argument('far', metavar='INTERFACE')
    pipeline = _add(subparsers, 'pipeline', 'hand packets to a Python function, or to a pool, by '
                    'AF_XDP', _pipeline)
    pipeline.add_argument('interface')
    pipeline.add_argument('--handler', metavar='MODULE:FUNCTION',
                          help='called with each ipc_bypass.xdp.af_xdp.batch.Batch; returns '
                          'verdicts (default: count and forget)')
    pipeline.add_argument('--pool', metavar='RULE', action='append',
                          help="write UDP payloads into a pool; a rule as 'udp:4242:divert'")
    pipeline.add_argument('--control-socket', metavar='PATH', help='where its consumers come to')
    pipeline.add_argument('--udp-port', type=_port, action='append', default=[])
    pipeline.add_argument('--tcp-port', type=_port, action='append', default=[])
    for name, what in (('neighbours', 'ARP requests and neighbour solicitations'),
                       ('echo', 'ping requests'), ('everything', 'every frame')):
        pipeline.add_argument(f'--{name}', action='store_true', help=f'steer {what}, too')
    pipeline.add_argument('--reinject', metavar='tun:NAME|INTERFACE', help='where the verdict '
                          'REINJECT leads: to the kernel by a TUN device, or out of an interface')


def _add(subparsers, name, summary, function):
    from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings, MODES
    parser = subparsers.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run_xdp=lambda args: _run(function, args))
    parser.add_argument('--queue', type=int, action='append', metavar='N',
                        help='receive queue, may be given again (default: all)')
    parser.add_argument('--xdp-mode', choices=('auto', 'native', 'generic'), default='auto',
                        help='how the program is attached (default %(default)s)')
    for field in fields(AfXdpSettings):
        option = '--' + field.name.replace('_', '-')
        if field.name == 'mode':
            parser.add_argument(option, choices=MODES, default=field.default,
                                help='of the sockets (default %(default)s)')
        elif field.name in _FLAGS:
            parser.add_argument(option, action='store_true', help='see docs/af_xdp.md')
        elif not isinstance(field.default, bool):
            parser.add_argument(option, type=int, default=field.default, metavar='N',
                                help='(default %(default)s)')
    parser.add_argument('--no-need-wakeup', dest='need_wakeup', action='store_false',
                        help='wake the kernel always')
    parser.add_argument('--no-share-umem', dest='share_umem', action='store_false',
                        help='one UMEM a queue')
    parser.add_argument('--keep-privileges', action='store_true',
                        help='do not drop every capability after set-up')
    parser.add_argument('--no-adjust', action='store_true', help='leave offloads as they are')
    parser.add_argument('--pin-directory', default=DEFAULT_PIN_DIRECTORY, metavar='FOLDER',
                        help="folder of pins, '' for none (default %(default)s)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument('--json', action='store_true', help='print a line of JSON a queue')
    shown.add_argument('--table', action='store_true', help='print a table')
    parser.add_argument('--period', type=float, default=1.0, metavar='SECONDS',
                        help='between two reports (default %(default)s)')
    parser.add_argument('--seconds', type=float, metavar='N', help='end after so long')
    return parser


def _run(function, args: argparse.Namespace) -> int:
    """Run a sub-command in a process that has no further threads."""
    if not args.keep_privileges and len(os.listdir('/proc/self/task')) > 1 \
            and os.environ.get(_THREADS) != '1':
        os.environ[_THREADS] = '1'
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: stopped.append(number))
    with function(args) as pipeline, _board(args, pipeline):
        if not args.keep_privileges:
            from ipc_bypass.xdp.af_xdp.dropping import drop_privileges
            drop_privileges()
        for start in getattr(args, 'behind', ()):
            start(pipeline)
        queues = ', '.join(f'{one.interface} queue {one.queue}' for one in pipeline.sockets)
        print(f'ready: {queues}', file=sys.stderr, flush=True)
        end = time.monotonic() + args.seconds if args.seconds else float('inf')
        try:
            pipeline.run(lambda: bool(stopped) or time.monotonic() > end)
        finally:
            _report(args, pipeline.statistics())
            for problem, count in pipeline.problems.items():
                print(f'{count} times: {problem}', file=sys.stderr)
    return 0


@contextlib.contextmanager
def _board(args, pipeline) -> Iterator[None]:
    """Have statistics shown on the board, too, from which the node publishes them."""
    from ipc_bypass.xdp.af_xdp.statistics_board import Board
    try:
        board = Board(len(pipeline.sockets))
    except OSError as error:
        print(f'the node will not tell of this: {error}', file=sys.stderr)
        yield
        return
    with board:
        args.board = board
        board.show(pipeline.statistics())
        yield


@contextlib.contextmanager
def _echo(args) -> Iterator:
    """Set up the echo and yield its Pipeline."""
    from ipc_bypass.xdp.af_xdp.answers import Answers
    from ipc_bypass.xdp.af_xdp.echo import Echo
    from ipc_bypass.xdp.interfaces import find
    from ipc_bypass.xdp.steering import SteeringSettings
    ports = args.port or [4242]
    interface = find(args.interface)
    answers = Answers(interface.mac, args.address or addresses_of(interface.index))
    steering = SteeringSettings(udp_ports=tuple(ports), neighbours=True, echo=True)
    handler = Echo(ports, answers, compute_checksums=args.compute_checksums)
    with _steered(args, [args.interface], steering) as sockets, \
            _pipeline_of(args, sockets, handler) as pipeline:
        yield pipeline


@contextlib.contextmanager
def _forward(args) -> Iterator:
    """Set up the forwarder and yield its Pipeline."""
    from ipc_bypass.xdp.af_xdp.forwarder import forward, outputs_between
    from ipc_bypass.xdp.steering import SteeringSettings
    if args.near == args.far:
        raise BypassError('forward', f'from {args.near} to itself',
                          next_step='name two interfaces')
    if not args.share_umem:
        raise BypassError('forward', 'it takes one UMEM for both interfaces',
                          next_step='leave --no-share-umem out')
    with _steered(args, [args.near, args.far], SteeringSettings(everything=True)) as sockets, \
            _pipeline_of(args, sockets, forward, outputs=outputs_between(sockets)) as pipeline:
        yield pipeline


@contextlib.contextmanager
def _pipeline(args) -> Iterator:
    """Set up a user's pipeline and yield it."""
    from ipc_bypass.xdp.af_xdp.batch import load_handler
    from ipc_bypass.xdp.steering import SteeringSettings
    if args.handler and args.pool:
        raise BypassError('set up the pipeline', 'a handler and a pool are asked for',
                          next_step='use --handler or --pool')
    handler = load_handler(args.handler) if args.handler else lambda batch: None
    ports = [*args.udp_port, *_ports_of(args.pool or ())]
    steering = SteeringSettings(tuple(ports), tuple(args.tcp_port), args.neighbours, args.echo,
                                args.everything)
    if steering == SteeringSettings():
        raise BypassError('set up the pipeline', 'nothing is steered to it',
                          next_step='name --udp-port, --tcp-port, --everything or --pool')
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(_steered(args, [args.interface], steering))
        pipeline = stack.enter_context(_pipeline_of(args, sockets, handler,
                                                    reinjector=_reinjector(args.reinject)))
        if args.pool:
            # Its threads start when the privileges are gone.
            args.behind = [lambda pipeline: _use_pool(args, stack, pipeline)]
        yield pipeline


def _use_pool(args, stack, pipeline):
    from ipc_bypass.udp.settings import UdpSettings
    from ipc_bypass.xdp.af_xdp.pooling import DEFAULT_CONTROL_SOCKET, PoolDelivery
    pipeline.handler = stack.enter_context(PoolDelivery(args.pool, UdpSettings(
        control_socket=args.control_socket or DEFAULT_CONTROL_SOCKET)))


@contextlib.contextmanager
def _steered(args, names: Sequence[str], steering) -> Iterator[list]:
    """Yield the sockets of interfaces, which share one UMEM unless it is not wished."""
    from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
    from ipc_bypass.xdp.af_xdp.steered import SteeredInterface
    from ipc_bypass.xdp.templates import Templates
    settings = AfXdpSettings(**{field.name: getattr(args, field.name)
                                for field in fields(AfXdpSettings)})
    args.checks = []
    with contextlib.ExitStack() as stack:
        sockets, templates, first = [], Templates(), None
        for name in names:
            steered = stack.enter_context(SteeredInterface(
                name, settings, steering, queues=args.queue, mode=args.xdp_mode,
                pin_directory=args.pin_directory, umem=first and first.umem, first=first,
                sharing=_sharing(args, names), templates=templates,
                adjust=not args.no_adjust))
            first = first or steered.first
            sockets += steered.sockets
            args.checks.append(steered.check)
            for note in steered.notes:
                print(f'{name}: {note}', file=sys.stderr)
            for key, queue in steered.steering.sockets().items():
                print(f'{name}: XSKMAP entry {key} holds the socket of queue {queue}',
                      file=sys.stderr)
        yield sockets


def _sharing(args, names):
    from ipc_bypass.xdp.interfaces import find
    return sum(len(args.queue or range(find(name).rx_queues)) for name in names)


def _pipeline_of(args, sockets, handler, **options):
    from ipc_bypass.xdp.af_xdp.pipeline import Pipeline
    return Pipeline(sockets, handler, period_s=args.period,
                    on_statistics=lambda found: _report(args, found),
                    check=lambda: [check() for check in args.checks], **options)


def _report(args, found) -> None:
    """Print statistics: two lines a queue, RX and TX, or JSON, or a table."""
    from ipc_bypass.xdp.af_xdp.socket_statistics import json_line, lines, table
    if getattr(args, 'board', None) is not None:
        args.board.show(found)
    if args.table:
        from ipc_bypass.bench.session import console
        console().print(table(found))
        return
    several = len(found) > 1
    for one in found:
        if args.json:
            print(json_line(one))
            continue
        if several:
            print(f'{one.interface} queue {one.queue}')
        print('\n'.join(lines(one)))
    sys.stdout.flush()


def _reinjector(text):
    from ipc_bypass.xdp.af_xdp.reinject import InterfaceReinjector, TunReinjector
    if not text:
        return None
    kind, _, name = text.partition(':')
    return TunReinjector(name) if kind == 'tun' and name else InterfaceReinjector(text)


def addresses_of(index: int) -> list[str]:
    """Return the addresses of an interface of this thread's network namespace, as text."""
    from pyroute2 import IPRoute
    with IPRoute() as route:
        return [found.get_attr('IFA_LOCAL') or found.get_attr('IFA_ADDRESS')
                for found in route.get_addr(index=index)]


def _ports_of(rules):
    from ipc_bypass.rules.table import parse
    return [port for rule in map(parse, rules)
            for port in range(rule.port_first, rule.port_last + 1)]


def _port(text: str) -> int:
    """Return a port; raises ArgumentTypeError."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f'{text!r} is no port from 1 to 65535')
    return int(text)
