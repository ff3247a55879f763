"""The topics ~/status, ~/pipelines and /diagnostics of the node xdp_helper."""

from dataclasses import replace
import socket

from diagnostic_msgs.msg import DiagnosticArray
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass.nodes.xdp_guard import Guard
from ipc_bypass.nodes.xdp_messages import diagnostic_statuses, pipeline_messages, status_message
from ipc_bypass.xdp.af_xdp.statistics_board import read_board
from ipc_bypass.xdp.interfaces import namespace_inode
from ipc_bypass.xdp.status import Report
from ipc_bypass_interfaces.msg import XdpPipelines, XdpStatus
from lifecycle_msgs.msg import State


class XdpTopics:
    """
    Publishes what the helper says, while there is one, and at each change of state.

    ~/status is latched, so that who comes late sees the last one. ~/pipelines says what AF_XDP
    pipelines of other processes in the node's network namespace wrote, while there are any.

    :param not_published: called without arguments, returns {interface: samples beyond the rate}
    """

    def __init__(self, node, not_published=dict):
        """Create the publishers on `node`; nothing is published yet."""
        self._node, self._not_published = node, not_published
        self._guard = Guard(node.get_logger())
        self._pipelines = node.create_publisher(XdpPipelines, '~/pipelines', 10)
        self._namespace = 0
        self._status = node.create_publisher(XdpStatus, '~/status', LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._helper, self._timers, self._state = None, [], 0

    def begin(self, helper, status_period, diagnostics_period):
        """Publish what `helper` says, at these periods in seconds."""
        self._helper, self._namespace = helper, namespace_inode()
        self.set_periods(status_period, diagnostics_period)

    def set_periods(self, status_period, diagnostics_period):
        """Change the periods, in seconds; without a helper nothing happens."""
        self._stop()
        if self._helper is not None:
            self._timers = [
                self._node.create_timer(period, self._guard(publish))
                for period, publish in ((status_period, self.publish_status),
                                        (status_period, self._publish_pipelines),
                                        (diagnostics_period, self._publish_diagnostics))]

    def end(self):
        """Stop publishing."""
        self._stop()
        self._helper = None

    def announce(self, state):
        """Publish a state just reached, a lifecycle_msgs State id."""
        self._state = state
        self.publish_status()
        if self._helper is not None:
            self._publish_diagnostics()

    def publish_status(self):
        """Publish and return the status as it is now."""
        message = status_message(self._state, self._report() if self._helper else Report())
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(message)
        return message

    def _report(self):
        """Return the helper's Report, with the samples that were taken and not published."""
        report, beyond = self._helper.status(), self._not_published()
        return replace(report, interfaces=tuple(
            replace(each, counters={**each.counters, 'samples_not_published': beyond[each.name]})
            if each.name in beyond else each for each in report.interfaces))

    def _stop(self):
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers = []

    def _publish_diagnostics(self):
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = diagnostic_statuses(
            self._node.get_fully_qualified_name(), socket.gethostname(), self._report(),
            self._state == State.PRIMARY_STATE_ACTIVE)
        self._diagnostics.publish(message)

    def _publish_pipelines(self):
        found = [each for each in read_board() if each.namespace == self._namespace]
        if found:
            message = XdpPipelines(pipelines=pipeline_messages(found))
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._pipelines.publish(message)
