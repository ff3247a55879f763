"""`ipc-bypass up`: the node, configured and activated, where there is no ros2 command line."""

import argparse
import json
from pathlib import Path

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from ipc_bypass.cli.notify import notify
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.nodes.bypass_node import serve

PARAMS_FILE = Path('config', 'ipc_bypass.yaml')


def add_arguments(parser):
    """Add the options of the command."""
    parser.add_argument('--params-file', type=Path, metavar='FILE',
                        help='YAML file with parameters, in place of config/ipc_bypass.yaml')
    parser.add_argument('-p', dest='parameters', action='append', default=[],
                        metavar='NAME:=VALUE', help='set a parameter; may be given again')
    parser.add_argument('--no-activate', action='store_true',
                        help='configure only: nothing is attached until somebody activates')
    parser.add_argument('--json', action='store_true', help='print {"node": ..., "state": ...} '
                        'once the node is up, or could not be brought up')
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, default=[], metavar='...',
                        help='the rest goes to ROS, for example -r __ns:=/robot --log-level debug')


def run(args):
    """Run the node until SIGINT or SIGTERM; return 0, or 1 where it cannot be configured."""
    words = ['ipc-bypass', '--ros-args', '--params-file', str(args.params_file or params_file())]
    for parameter in args.parameters:
        words += ['-p', parameter]
    return serve([*words, *args.ros_args],
                 bring_up=lambda node: _bring_up(node, args))


def _bring_up(node, args):
    """Bring the node up and return whether that succeeded."""
    succeeded = node.bring_up(activate=not args.no_activate)
    if succeeded:
        notify('READY=1')
    if args.json:
        goal = 'inactive' if args.no_activate else 'active'
        print(json.dumps({'node': node.get_fully_qualified_name(),
                          'state': goal if succeeded else 'failed'}), flush=True)
    return succeeded


def params_file():
    """Return the path of config/ipc_bypass.yaml: the installed one, else the source tree's."""
    folders = [Path(__file__).parents[2]]
    try:
        folders.insert(0, Path(get_package_share_directory('ipc_bypass')))
    except PackageNotFoundError:
        pass
    for folder in folders:
        if (folder / PARAMS_FILE).is_file():
            return folder / PARAMS_FILE
    raise UnsupportedError(f'find {PARAMS_FILE}', 'it is not installed',
                           next_step='build the package again, or give --params-file')
