"""The topics ~/status and /diagnostics of the node sockmap_helper."""

import socket

from diagnostic_msgs.msg import DiagnosticArray
from ipc_bypass.nodes.proxy_messages import diagnostic_statuses, status_message
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass.nodes.xdp_guard import Guard
from ipc_bypass.proxy.status import ProxyReport
from ipc_bypass_interfaces.msg import ProxyStatus
from lifecycle_msgs.msg import State


class ProxyTopics:
    """Publishes what the helper says, while there is one, and at each change of state."""

    def __init__(self, node):
        """Create the publishers on `node`; nothing is published yet."""
        self._node, self._guard = node, Guard(node.get_logger())
        self._status = node.create_publisher(ProxyStatus, '~/status', LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._helper, self._timers, self._state = None, [], 0

    def begin(self, helper, status_period, diagnostics_period):
        """Publish what `helper` says, at these periods in seconds."""
        self._helper = helper
        self.set_periods(status_period, diagnostics_period)

    def set_periods(self, status_period, diagnostics_period):
        """Change the periods, in seconds; without a helper nothing happens."""
        self._stop()
        if self._helper is not None:
            self._timers = [
                self._node.create_timer(period, self._guard(publish))
                for period, publish in ((status_period, self.publish_status),
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
        """Publish the status as it is now."""
        message = status_message(self._state, self._report())
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._status.publish(message)

    def _report(self):
        return ProxyReport() if self._helper is None else self._helper.report()

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
