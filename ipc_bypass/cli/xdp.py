"""`ipc-bypass xdp`: root arrays, their slots, the filter's rules, and what they count."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import importlib
import json

from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.xdp.root import DEFAULT_PIN_DIRECTORY

#: Modules with sub-commands of their own: module -> function that adds them.
_MORE = {'ipc_bypass.cli.xdp_capture': 'add_parser',
         'ipc_bypass.cli.xdp_pipeline': 'add_parsers'}
_OF_SERVICE = "name, glob or 'bridge:NAME', of those in the node's service_interfaces"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for everything that can be asked."""
    commands = parser.add_subparsers(metavar='WHAT', required=True)
    status = _add(commands, 'status', 'show root arrays, slots and what they count; needs no node',
                  _status)
    _add_reading(status)
    filtering = commands.add_parser('filter', help='show the filter of each interface')
    parts = filtering.add_subparsers(metavar='WHAT', required=True)
    status = _add(parts, 'status', 'show settings, rules, and every error and drop counter; '
                  'without a node, all but the rules', _filter_status)
    _add_reading(status)
    status.add_argument('--pins', action='store_true',
                        help='ask no node for the rules: read the pins alone')
    _add_node(status, 3.0)
    trace = _add(commands, 'trace', "write every decision to the kernel's trace, or stop it; "
                 'needs no node', _trace)
    trace.add_argument('switch', choices=('on', 'off'))
    _add_reading(trace)
    _add_node_commands(commands)
    for module_name, function in _MORE.items():
        module = importlib.import_module(module_name)
        getattr(module, function)(commands)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command and return the exit status."""
    return args.run_xdp(args)


def _add(commands, name: str, summary: str, function: Callable) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run_xdp=function)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options of what reads pins."""
    parser.add_argument('-i', '--interface', action='append', default=[], metavar='NAMES',
                        help="names, globs or 'bridge:NAME', separated by commas; may be given "
                        'again. Without it: every interface that has a root array')
    parser.add_argument('--json', action='store_true', help='print an object in place of text')
    parser.add_argument('--pin-directory', default=DEFAULT_PIN_DIRECTORY, metavar='FOLDER',
                        help='folder in which the node pins (default %(default)s)')


def _add_node_commands(commands) -> None:
    """Add what a running node has to do: it holds the attachments."""
    attach = _add_asking(commands, 'attach', 'have the node attach an interface', 'attach')
    attach.add_argument('interface', help=_OF_SERVICE)
    attach.add_argument('--mode', default='', choices=('', 'auto', 'native', 'generic', 'offload'),
                        help="default: the node's parameter")
    detach = _add_asking(commands, 'detach', 'have the node detach an interface', 'detach')
    detach.add_argument('interface', help=_OF_SERVICE)
    load = _add_asking(commands, 'load', 'load or replace a slot', 'load')
    load.add_argument('slot', type=int, help='0 to 7')
    load.add_argument('program', help='kind (filter, sampler, ...), FILE.bpf.c:FUNCTION below the '
                      "node's slot_directory, or a pin below its slot_pin_directory")
    unload = _add_asking(commands, 'unload', 'empty a slot', 'unload')
    unload.add_argument('slot', type=int, help='0 to 7')
    for parser in (load, unload):
        parser.add_argument('-i', '--interface', default='', metavar='NAME',
                            help='one interface, or a pattern; default: all of the node')
    _add_asking(commands, 'fast-path', 'show the container fast path: ports, obstacles, counters',
                'fast_path')
    rules = commands.add_parser('rules', help="change and list the filter's rules")
    parts = rules.add_subparsers(metavar='WHAT', required=True)
    add = _add_asking(parts, 'add', 'add a rule to the filter of every interface', 'add_rule')
    add.add_argument('rule', nargs='+', help='for example: deny udp dport 7400-7649')
    remove = _add_asking(parts, 'remove', 'remove a rule', 'remove_rule')
    remove.add_argument('rule', nargs='+', help='its id, or its words')
    _add_asking(parts, 'list', 'list the rules with what they decided', 'list_rules')


def _add_asking(commands, name: str, summary: str, function: str) -> argparse.ArgumentParser:
    parser = _add(commands, name, summary, lambda args: _ask_node(function, args))
    _add_node(parser, 10.0)
    parser.add_argument('--json', action='store_true', help='print an object in place of text')
    return parser


def _add_node(parser: argparse.ArgumentParser, timeout: float) -> None:
    parser.add_argument('--node', default='/xdp_helper', metavar='NAME',
                        help='full name of the node (default %(default)s)')
    parser.add_argument('--timeout', type=float, default=timeout, metavar='SECONDS',
                        help='how long to wait for an answer (default %(default)s)')


def _ask_node(function: str, args: argparse.Namespace) -> int:
    # Imported here: what only reads pins works without ROS 2.
    try:
        from ipc_bypass.cli import xdp_node
    except ModuleNotFoundError as error:
        raise UnsupportedError('ask the node xdp_helper', f'it needs {error.name}',
                               next_step='source ROS 2, then . scripts/activate') from error
    return getattr(xdp_node, function)(args)


def _status(args: argparse.Namespace) -> int:
    """Print the status of root arrays; return 0."""
    from ipc_bypass.cli.xdp_table import status_text
    from ipc_bypass.xdp.pinned import pinned_report
    report = pinned_report(args.pin_directory, _patterns(args)).as_dict()
    print(json.dumps(report, indent=2) if args.json else status_text(report))
    return 0


def _filter_status(args: argparse.Namespace) -> int:
    """Print the status of filters; return 0."""
    from ipc_bypass.xdp.filter.status import status_json, status_text
    from ipc_bypass.xdp.pinned_filter import pinned_filters
    found = pinned_filters(args.pin_directory, _patterns(args))
    if not args.pins and any(not isinstance(status, str) for status in found.values()):
        found |= {name: status for name, status in _node_filters(args).items() if name in found}
    if args.json:
        print(json.dumps(status_json(found), indent=2))
    else:
        print(status_text(found) or 'No root array was found, and no interface was named.')
    return 0


def _node_filters(args: argparse.Namespace) -> dict:
    """Return what the node says of its filters: rules, too; {} where none answers."""
    try:
        from ipc_bypass.cli import xdp_node
        return xdp_node.filters(args)
    except (ModuleNotFoundError, BypassError):
        return {}


def _trace(args: argparse.Namespace) -> int:
    """Switch the trace of the pinned arrays; return 0, or raise where there is none."""
    from ipc_bypass.xdp.interfaces import interfaces, matching
    from ipc_bypass.xdp.pinned import arrays_here, set_trace
    arrays, patterns = arrays_here(args.pin_directory), _patterns(args)
    names = {each.index: each.name for each in
             (matching(patterns, interfaces()) if patterns else interfaces())}
    chosen = {index: folder for index, folder in arrays.items() if index in names}
    if not chosen:
        raise BypassError(f'switch the trace {args.switch}', 'there is no root array',
                          next_step='see: ipc-bypass xdp status')
    for folder in chosen.values():
        set_trace(folder, args.switch == 'on')
    told = [names[index] for index in chosen]
    if args.json:
        print(json.dumps({'trace': args.switch == 'on', 'interfaces': told}))
    else:
        print(f"trace {args.switch}: {', '.join(told)}"
              + ('; read it with: cat /sys/kernel/tracing/trace_pipe'
                 if args.switch == 'on' else ''))
    return 0


def _patterns(args: argparse.Namespace) -> list[str]:
    return [name for words in args.interface for name in words.split(',') if name]
