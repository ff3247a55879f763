"""The topics ~/statistics, ~/flows and /diagnostics, and the timers that feed them."""

import heapq
import socket
import time

from diagnostic_msgs.msg import DiagnosticArray
from ipc_bypass.nodes.conversions import flow_message, Rates, statistics_message
from ipc_bypass.nodes.datagrams import add_datagrams, CAPTURED
from ipc_bypass.nodes.diagnostics import diagnostic_statuses
from ipc_bypass.nodes.graph_diagnostics import GraphDiagnostics
from ipc_bypass_interfaces.msg import BypassStatistics, FlowArray
from lifecycle_msgs.msg import State
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

#: Reliable, and the last message is kept for those who come later.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Topics:
    """
    Publishes what the path and the rules say, as long as there is a path.

    ~/statistics is also published at each change of state, so that who comes late sees the last
    one; ~/flows only while somebody listens.
    """

    def __init__(self, node, enrollment):
        """Create the publishers on `node`; nothing is published yet."""
        self._node = node
        self._enrollment = enrollment
        self._statistics = node.create_publisher(BypassStatistics, '~/statistics', LATCHED)
        self._flows = node.create_publisher(FlowArray, '~/flows', 1)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._graph = GraphDiagnostics(node.get_logger())
        self._timers = []
        self._path = None
        self._state = 0
        self._held_after_cleanup = 0

    def begin(self, path, statistics_period, diagnostics_period):
        """Publish what `path` says, at these periods in seconds."""
        self._path = path
        self._rates = Rates(time.monotonic)
        self._datagram_rates = Rates(time.monotonic, CAPTURED)
        self.set_periods(statistics_period, diagnostics_period)

    def set_periods(self, statistics_period, diagnostics_period):
        """Change the periods, in seconds; without a path nothing happens."""
        self._stop_timers()
        if self._path is not None:
            self._timers = [
                self._node.create_timer(statistics_period, self._publish_statistics),
                self._node.create_timer(diagnostics_period, self._publish_diagnostics)]

    def end(self, held_connections=0):
        """Stop publishing; `held_connections` still hold kernel objects."""
        self._stop_timers()
        self._graph.close()
        self._path = None
        self._held_after_cleanup = held_connections

    def announce(self, state):
        """Publish the statistics of a state just reached, a lifecycle_msgs State id."""
        self._state = state
        self._publish_statistics()
        if self._path is not None:
            self._publish_diagnostics()

    def _stop_timers(self):
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers = []

    def _publish_statistics(self):
        stamp = self._node.get_clock().now().to_msg()
        if self._path is None:
            message = statistics_message(
                self._state, None, 0, [], None, self._held_after_cleanup)
        else:
            flows = self._path.tcp.flows()
            message = statistics_message(
                self._state, self._path, len(self._enrollment), flows, self._rates,
                self._path.tcp.held()['connections'])
            add_datagrams(message, self._path.udp, self._datagram_rates)
            if self._flows.get_subscription_count():
                self._publish_flows(flows, stamp)
        message.header.stamp = stamp
        self._statistics.publish(message)

    def _publish_flows(self, flows, stamp):
        most = self._node.get_parameter('max_published_flows').value
        shown = heapq.nlargest(most, flows, key=lambda flow: flow.bytes)
        message = FlowArray(flows=[flow_message(flow) for flow in shown],
                            left_out=len(flows) - len(shown))
        message.header.stamp = stamp
        self._flows.publish(message)

    def _publish_diagnostics(self):
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        name, host = self._node.get_fully_qualified_name(), socket.gethostname()
        active = self._state == State.PRIMARY_STATE_ACTIVE
        message.status = [
            *diagnostic_statuses(name, host, self._enrollment, self._path, active),
            *self._graph.statuses(name, host, self._graph_facts, active)]
        self._diagnostics.publish(message)

    def _graph_facts(self):
        """Return what a look at the graph takes from the paths and the rules."""
        return self._path.tcp.flows(), self._path.udp.counters(), [
            (rule, self._enrollment.obstacle(rule, active=True))
            for rule in self._enrollment.rules()]
