"""
Join a ROS domain for a few seconds and print what it says of itself, as one line of JSON.

A program of its own (`python3 -m ipc_bypass.graph.joining`), started by `joins`: it enters a
network namespace before DDS is loaded. It sends nothing but discovery, by UDP only, so that
nobody tries to reach it by shared memory that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time

_STEP_SECONDS = 0.1
#: How long nothing new may come before the graph counts as known, in seconds.
_SETTLED_SECONDS = 1.0
#: How long it may take to leave the domain, in seconds.
_LEAVING_SECONDS = 1.5
#: What an rmw calls the node of an endpoint that is DDS's only.
_NO_NODES = ('_NODE_NAME_UNKNOWN_', '_CREATED_BY_BARE_DDS_APP_')
_FULL_NAME = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')
_MOST_NODES = 16
_STATISTICS = 'ipc_bypass_interfaces/msg/BypassStatistics'


def main() -> int:
    """Join, look, print {"endpoints": [...], "nodes": [...]}; return 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--namespace', nargs=2, metavar=('PATH', 'INODE'))
    parser.add_argument('--seconds', type=float, default=5.0)
    parser.add_argument('--least', type=float, default=3.1)
    args = parser.parse_args()
    if args.namespace:
        from ipc_bypass.graph.entering import enter
        enter(args.namespace[0], int(args.namespace[1]))
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    rclpy.init(args=['graph'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        # A name of its own: other joins find each other, and each has to know itself.
        node = rclpy.create_node(f'ipc_bypass_graph_{os.getpid()}', enable_rosout=False,
                                 start_parameter_services=False)
        watcher = _NodeWatcher(node)
        endpoints = _settle(node, watcher, args.least, args.seconds)
        print(json.dumps({'endpoints': endpoints, 'nodes': watcher.answers(),
                          'own': _own_prefix(node)}), flush=True)
        return 0
    finally:
        # Fast DDS 3.2 does not always come back from closing its TCP (seen here); the signal's
        # default action ends the process also then.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _LEAVING_SECONDS)
        rclpy.try_shutdown()


def _settle(node, watcher, least, most):
    """Wait until the graph stays as it is, and every node of ours has answered."""
    import rclpy
    begun = changed = time.monotonic()
    known = None
    while True:
        now = time.monotonic()
        names = node.get_topic_names_and_types(no_demangle=True)
        watcher.follow(node.get_topic_names_and_types())
        shape = sorted((name, node.count_publishers(name), node.count_subscribers(name))
                       for name, _ in names)
        if shape != known:
            known, changed = shape, now
        calm = now - changed > _SETTLED_SECONDS and now - begun > least
        if now - begun > most or (calm and watcher.complete()):
            return [endpoint for name, _ in names for endpoint in _endpoints(node, name)]
        rclpy.spin_once(node, timeout_sec=_STEP_SECONDS)


def _endpoints(node, topic):
    for role, infos in (
            ('publisher', node.get_publishers_info_by_topic(topic, no_mangle=True)),
            ('subscriber', node.get_subscriptions_info_by_topic(topic, no_mangle=True))):
        for info in infos:
            yield {
                'guid': bytes(info.endpoint_gid)[:16].hex(), 'topic': topic,
                'type': info.topic_type, 'role': role, 'node': _node_name(info),
                'reliability': info.qos_profile.reliability.name.lower(),
                'durability': info.qos_profile.durability.name.lower()}


def _node_name(info):
    """Return the full name, '' where DDS without ROS has none."""
    if info.node_name in _NO_NODES:
        return ''
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _own_prefix(node):
    """Return the guid prefix of this process, whose endpoints are no part of the graph."""
    for info in node.get_publishers_info_by_topic('/parameter_events'):
        if info.node_name == node.get_name():
            return bytes(info.endpoint_gid)[:12].hex()
    return ''


class _NodeWatcher:
    """Follows the nodes of this package that are found: statistics, flows and rules."""

    def __init__(self, node):
        self._node, self._clients, self._calls, self._heard = node, {}, {}, {}

    def follow(self, topics):
        """Subscribe to every node that publishes statistics, and ask it for its rules."""
        for topic, types in topics:
            name, _, last = topic.rpartition('/')
            # The name will stand in commands: DDS lets anybody announce any text.
            if _STATISTICS in types and last == 'statistics' and name not in self._heard \
                    and _FULL_NAME.fullmatch(name) and len(self._heard) < _MOST_NODES:
                self._subscribe(name)
        for name, client in self._clients.items():
            answer = self._calls.get(name)
            if answer is not None and answer.done():
                self._heard[name]['rules'] = answer.result().rules
            # DDS loses the answer to a client that is not discovered yet: ask again.
            elif client.service_is_ready() and (answer is None or self._late(name)):
                self._call(name)

    def complete(self):
        """Return whether every active node told all."""
        return all(map(self._told, self._heard.values()))

    def _told(self, heard):
        return heard['statistics'] is not None and (
            heard['statistics'].state not in self._configured
            or (heard['flows'] is not None and heard['rules'] is not None))

    def answers(self):
        """Return what was heard, as JSON knows it."""
        from ipc_bypass.cli.status import plain, STATES
        return [{'name': name, 'state': STATES.get(heard['statistics'].state, 'unknown'),
                 'statistics': plain(heard['statistics']),
                 'flows': plain(heard['flows'].flows) if heard['flows'] else [],
                 'flows_left_out': heard['flows'].left_out if heard['flows'] else 0,
                 'rules': plain(heard['rules'] or []), 'told': self._told(heard)}
                for name, heard in self._heard.items() if heard['statistics'] is not None]

    def _subscribe(self, name):
        from ipc_bypass.cli.status import CONFIGURED
        from ipc_bypass.nodes.topics import LATCHED
        from ipc_bypass_interfaces.msg import BypassStatistics, FlowArray
        from ipc_bypass_interfaces.srv import ListRules
        heard = self._heard[name] = {'statistics': None, 'flows': None, 'rules': None}
        self._configured = CONFIGURED
        self._node.create_subscription(BypassStatistics, f'{name}/statistics',
                                       lambda message: heard.update(statistics=message), LATCHED)
        self._node.create_subscription(FlowArray, f'{name}/flows',
                                       lambda message: heard.update(flows=message), 1)
        self._clients[name] = self._node.create_client(ListRules, f'{name}/list_rules')

    def _call(self, name):
        from ipc_bypass_interfaces.srv import ListRules
        self._calls[name] = self._clients[name].call_async(ListRules.Request())
        self._heard[name]['asked'] = time.monotonic()

    def _late(self, name):
        return time.monotonic() - self._heard[name]['asked'] > _SETTLED_SECONDS


if __name__ == '__main__':
    sys.exit(main())
