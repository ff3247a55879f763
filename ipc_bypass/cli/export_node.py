"""The node of `ipc-bypass export`: it listens to the others and answers Prometheus."""

import json
import os
import signal
import sys
import time

from ipc_bypass.cli.enrolled import Rules
from ipc_bypass.cli.notify import notify
from ipc_bypass.metrics.exporter import Exporter
from ipc_bypass.metrics.server import MetricsServer
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import BypassStatistics, FlowArray, ProxyStatus, XdpStatus
import rclpy
from rclpy.signals import SignalHandlerOptions

_SPIN_SECONDS = 0.25
_NEXT_STEP = 'choose another one with --port and --address'


def serve(args):
    """
    Answer on HTTP until SIGINT, SIGTERM or SIGHUP; return 0.

    :param args: the options of ipc_bypass.cli.export
    :raises BypassError: the address and port cannot be had
    """
    ended = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: ended.append(number))
    rclpy.init(args=['ipc-bypass'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(f'ipc_bypass_export_{os.getpid()}', enable_rosout=False,
                                 start_parameter_services=False)
        exporter, rules = listening(node, args)
        server = MetricsServer(args.address, args.port, exporter.families, next_step=_NEXT_STEP)
        try:
            _tell(args, server.port)
            notify('READY=1')
            while not ended:
                rules.refresh()
                rclpy.spin_once(node, timeout_sec=_SPIN_SECONDS)
        finally:
            server.close()
        return 0
    finally:
        rclpy.try_shutdown()


def listening(node, args):
    """Return an Exporter that hears the nodes, and the Rules of the first."""
    name, xdp, proxy = ('/' + text.strip('/')
                        for text in (args.node, args.xdp_node, args.proxy_node))
    topics = {'': f'{name}/statistics', 'xdp_': f'{xdp}/status', 'proxy_': f'{proxy}/status'}
    rules = Rules(node, name, time.monotonic)
    exporter = Exporter(
        limit=args.top, stale_after=args.stale_after, port_of=rules.port_of,
        publishers=lambda part: node.count_publishers(topics[part]))
    for message, topic, take, qos in (
            (BypassStatistics, topics[''], exporter.take_statistics, LATCHED),
            (FlowArray, f'{name}/flows', exporter.take_flows, 1),
            (XdpStatus, topics['xdp_'], exporter.take_xdp, LATCHED),
            (ProxyStatus, topics['proxy_'], exporter.take_proxy, LATCHED)):
        node.create_subscription(message, topic, take, qos)
    return exporter, rules


def _tell(args, port):
    host = f'[{args.address}]' if ':' in args.address else args.address
    if args.json:
        print(json.dumps({'address': args.address, 'port': port}), flush=True)
    else:
        print(f'ipc-bypass export: http://{host}:{port}/metrics', file=sys.stderr, flush=True)
