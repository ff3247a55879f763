"""`ipc-bypass status`: what a running node says of its paths, rules and flows."""

import json
import os
import signal
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import BypassStatistics, FlowArray
from ipc_bypass_interfaces.srv import ListRules
from lifecycle_msgs.msg import State
import rclpy
from rclpy.signals import SignalHandlerOptions

STATES = {
    State.PRIMARY_STATE_UNCONFIGURED: 'unconfigured', State.PRIMARY_STATE_INACTIVE: 'inactive',
    State.PRIMARY_STATE_ACTIVE: 'active', State.PRIMARY_STATE_FINALIZED: 'finalized'}
#: States in which there is a path, and so flows.
CONFIGURED = (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE)
_SPIN_SECONDS = 0.2
_ANSWER_SECONDS = 1.0


class NodeError(BypassError):
    """The node does not answer."""


def add_arguments(parser):
    """Add the options of the command."""
    parser.add_argument('--watch', action='store_true', help='go on until Ctrl-C')
    parser.add_argument('--json', action='store_true',
                        help='print an object, with --watch one a line: the members of '
                        '~/statistics, and node, state_label, rule_list, flow_list, '
                        'flows_left_out')
    parser.add_argument('--node', default='/ipc_bypass', metavar='NAME',
                        help='full name of the node (default %(default)s)')
    parser.add_argument('--timeout', type=float, default=5.0, metavar='SECONDS',
                        help='how long to wait for an answer (default %(default)s)')


def run(args):
    """Print what the node says; return 0, or raise NodeError where there is none."""
    rclpy.init(args=['ipc-bypass'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        observer = Observer('/' + args.node.strip('/'), args.timeout)
        if args.watch:
            watch(observer, as_json=args.json)
        elif args.json:
            print(json.dumps(observer.look(), indent=2))
        else:
            from ipc_bypass.cli.status_table import console, render
            console().print(render(observer.look()))
        return 0
    finally:
        rclpy.try_shutdown()


def watch(observer, *, as_json):
    """Print one look after the other until Ctrl-C: lines of JSON, or a table that moves."""
    # An exception at just any place, within rclpy's callbacks too, would be printed.
    signal.signal(signal.SIGINT, lambda *_: observer.interrupt())
    try:
        if as_json:
            while True:
                print(json.dumps(observer.look()), flush=True)
        from ipc_bypass.cli.status_table import console, render
        from rich.live import Live
        screen = console()
        while not screen.is_terminal:
            screen.print(render(observer.look()))
        with Live(render(observer.look()), console=screen, auto_refresh=False) as live:
            while True:
                live.update(render(observer.look()), refresh=True)
    except KeyboardInterrupt:
        pass


class Observer:
    """
    A client of one node.

    :param name: full name of the node
    :param timeout: how long to wait for each answer, in seconds
    """

    def __init__(self, name, timeout):
        """Subscribe to the node's topics."""
        self._name, self._timeout = name, timeout
        self._statistics = self._flows = None
        self._interrupted = False
        self._node = rclpy.create_node(
            f'ipc_bypass_status_{os.getpid()}', enable_rosout=False,
            start_parameter_services=False)
        self._node.create_subscription(
            BypassStatistics, f'{name}/statistics', self._take_statistics, LATCHED)
        self._node.create_subscription(FlowArray, f'{name}/flows', self._take_flows, 1)
        self._rules = self._node.create_client(ListRules, f'{name}/list_rules')

    def interrupt(self):
        """Have `look` raise KeyboardInterrupt, at a place where it does no harm."""
        self._interrupted = True

    def look(self):
        """
        Wait for the next messages and return them with the rules as a dict.

        Statistics and flows are of the same moment. `flow_list` is None where the node publishes
        none in time. Raises NodeError where the node says nothing.
        """
        self._flows = None
        if self._statistics is None or self._statistics.state not in CONFIGURED:
            self._statistics = None
            self._wait(lambda: self._statistics)
        if self._statistics is None:
            raise NodeError(
                f'ask node {self._name}',
                f'no answer within {self._timeout:g} s in ROS domain '
                f"{os.environ.get('ROS_DOMAIN_ID') or 0}",
                next_step='start it with `ipc-bypass up`, or name another one with --node')
        if self._statistics.state in CONFIGURED:
            self._wait(lambda: self._flows)
            self._wait(lambda: self._flows is None or _at_or_after(self._statistics, self._flows))
        flows = plain(self._flows) if self._flows else {'flows': None, 'left_out': 0}
        return {'node': self._name, 'state_label': STATES.get(self._statistics.state, 'unknown'),
                **plain(self._statistics), 'rule_list': self._list_rules(),
                'flow_list': flows['flows'], 'flows_left_out': flows['left_out']}

    def _list_rules(self):
        """Return the rules as dicts, [] where the node is not configured."""
        deadline, asked = time.monotonic() + self._timeout, []
        while time.monotonic() < deadline:
            # DDS loses the answer of a node that has not discovered this client yet: ask again,
            # and take whichever answer comes, for a busy node may need longer than this waits.
            asked.append(self._rules.call_async(ListRules.Request()))
            self._wait(lambda: any(answer.done() for answer in asked), _ANSWER_SECONDS)
            for answer in asked:
                if answer.done():
                    return plain(answer.result().rules)
        raise NodeError(f'ask node {self._name} for its rules',
                        f'no answer within {self._timeout:g} s')

    def _take_statistics(self, message):
        self._statistics = message

    def _take_flows(self, message):
        self._flows = message

    def _wait(self, is_there, timeout=None):
        """Handle what arrives until `is_there()`, or until the time is up."""
        deadline = time.monotonic() + (timeout or self._timeout)
        while not is_there() and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=_SPIN_SECONDS)
            if self._interrupted:
                raise KeyboardInterrupt


def _at_or_after(message, other):
    stamp, limit = message.header.stamp, other.header.stamp
    return (stamp.sec, stamp.nanosec) >= (limit.sec, limit.nanosec)


def plain(message):
    """Return a message as a dict of what JSON knows; lists and messages in it as well."""
    if hasattr(message, 'get_fields_and_field_types'):
        return {name: plain(getattr(message, name))
                for name in message.get_fields_and_field_types()}
    if isinstance(message, (list, tuple)):
        return [plain(item) for item in message]
    if hasattr(message, 'tolist'):  # numbers: an array, or numpy's
        return message.tolist()
    return message
