"""The command `ipc-bypass`: find the sub-command, run it, turn errors into one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
import sys

from ipc_bypass.cli.parsers import add_epilogs, subcommands
from ipc_bypass.kernel.errors import BypassError, UnsupportedError

#: Sub-commands: the module of that name is imported when it is asked for, since some need ROS 2
#: and some numpy.
COMMANDS = {
    'doctor': 'say what this machine can do, and which way its DDS graph takes',
    'profile': 'write the DDS profiles that take the fast way: Cyclone DDS, Fast DDS, zenoh, '
               'containers',
    'run': 'run a command with a profile and a port of its own',
    'compare': 'measure each way with your messages, and say which to use',
    'up': 'run the node, configured and activated, without the ros2 command line',
    'status': 'show paths, rules, flows and the reasons',
    'top': 'show flows and processes live: rates, ways, reasons, queue delays',
    'export': 'answer Prometheus with what the nodes count',
    'record': 'write captured datagrams to a pcapng file, for Wireshark',
    'tap': 'print captured datagrams as they come',
    'proxy': 'TCP forwards, spliced in the kernel where it can be',
    'xdp': 'root arrays of XDP programs: status, slots, filter rules, AF_XDP',
    'bench': 'measure what the paths give, here and now',
    'demo': 'show real DDS traffic between two namespaces before and after',
}
_NEXT_STEPS = {
    'rclpy': 'source ROS 2: . /opt/ros/<distribution>/setup.sh or . scripts/activate',
    'ipc_bypass_interfaces': 'build the interfaces: scripts/setup, then . scripts/activate',
    'rich': 'apt-get install python3-rich',
    'prometheus_client': 'apt-get install python3-prometheus-client',
    'numpy': 'apt-get install python3-numpy',
    'pyroute2': 'apt-get install python3-pyroute2',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run `ipc-bypass` and return its exit code.

    :param arguments: the words after the command's name, those of this process when left out
    :returns: 0 for success, 1 for an error that was said in one line, 2 for wrong arguments, 130
        after an interrupt; `run` returns the exit code of its command
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and '_ARGCOMPLETE' in os.environ:
        return _complete()
    verbose = False
    try:
        parser, command = _parser(words)
        options = parser.parse_args(words)
        if command is None:
            parser.print_help()
            return 2
        verbose = options.verbose
        code = command.run(options)
        sys.stdout.flush()
        return code
    except BypassError as error:
        if verbose and error.log:
            print(error.log.rstrip(), file=sys.stderr)
        print(f'ipc-bypass: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); keep Python from complaining at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(words: list[str]) -> tuple[argparse.ArgumentParser, object | None]:
    """Return the parser and the module of the sub-command in `words`, None without one."""
    parser = argparse.ArgumentParser(
        prog='ipc-bypass', description='Shorter ways through the kernel for the local traffic '
        'of an unmodified DDS graph.', epilog='Each command has its own --help, with an example.')
    parser.add_argument('-v', '--verbose', action='store_true',
                        help='print the full compiler or verifier log with an error')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    chosen = next((word for word in words if not word.startswith('-')), None)
    module = None
    for name, summary in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=summary)
            continue
        module = _module(name)
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        add_epilogs(command)
    return parser, module


def command_parser(name: str) -> argparse.ArgumentParser:
    """
    Return the parser of one sub-command, for what tells of it.

    :raises UnsupportedError: when it lacks a package
    """
    parser, _ = _parser([name])
    return subcommands(parser)[name]


def _complete() -> int:
    """
    Answer a shell that completes a line, by argcomplete; return 1 where that is not there.

    The shell gives the line in COMP_LINE, up to the cursor at COMP_POINT. Of the sub-commands
    only that of the line is imported, so that a completion takes no longer than its help.
    """
    try:
        import argcomplete
    except ModuleNotFoundError:
        return 1
    line = os.fsencode(os.environ.get('COMP_LINE', ''))
    point = os.environ.get('COMP_POINT', '')
    words = os.fsdecode(line[:int(point)] if point.isdigit() else line).split(' ')
    try:
        # The last word is still being typed: it is no sub-command yet.
        parser, _ = _parser([word for word in words[1:-1] if word])
    except BypassError:
        return 1
    argcomplete.autocomplete(parser)  # which ends the process
    return 1


def _module(name: str):
    """Return the module of a sub-command; raises UnsupportedError when it lacks a package."""
    try:
        return importlib.import_module(f'ipc_bypass.cli.{name}')
    except ModuleNotFoundError as error:
        lacking = (error.name or '').partition('.')[0]
        raise UnsupportedError(f'run ipc-bypass {name}', f'it needs {error.name}',
                               next_step=_NEXT_STEPS.get(lacking, 'install the package again')
                               ) from error


if __name__ == '__main__':
    sys.exit(main())
