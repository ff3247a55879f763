"""The command `ipc-bypass`: find the sub-command, run it, turn errors into one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
import sys

from ipc_bypass.kernel.errors import BypassError, UnsupportedError

# Modules are imported when they are asked for: some need ROS 2, some numpy.
_COMMANDS = {
    'doctor': 'say what this machine can do, and what to install or allow',
    'up': 'run the node, configured and activated, without the ros2 command line',
    'status': 'show paths, rules, flows and the reasons',
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
        after an interrupt
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
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
        'of an unmodified DDS graph.')
    parser.add_argument('-v', '--verbose', action='store_true',
                        help='print the full compiler or verifier log with an error')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    chosen = next((word for word in words if not word.startswith('-')), None)
    module = None
    for name, summary in _COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=summary)
            continue
        module = _module(name)
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser, module


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
