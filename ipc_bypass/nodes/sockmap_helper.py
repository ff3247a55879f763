"""The lifecycle node `sockmap_helper`: TCP forwards that the kernel splices where it can."""

import sys

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes import lifecycle, parameters
from ipc_bypass.nodes.proxy_parameters import (
    BY_NAME,
    refusal,
    service_networks,
    service_ports,
    settings,
    SPECS,
)
from ipc_bypass.nodes.proxy_services import ProxyServices
from ipc_bypass.nodes.proxy_topics import ProxyTopics
from ipc_bypass.proxy.helper import ProxyHelper
from ipc_bypass.proxy.metrics import MetricsServer
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult


class SockmapHelperNode(lifecycle.SteppedNode):
    """
    Thin shell around proxy.helper.ProxyHelper.

    configure loads and checks; activate listens; deactivate listens no more, and open connections
    go on by way of this process; cleanup ends them. When the process is killed, the kernel closes
    its sockets, and both ends of every connection see the end of it.
    """

    def __init__(self, **node_arguments):
        """Declare parameters, services and topics; raises BypassError for a wrong value."""
        super().__init__('sockmap_helper', **node_arguments)
        self._helper = self._metrics = None
        parameters.declare(self, SPECS)
        values = parameters.read(self, SPECS)
        reason = refusal(values, values, configured=False)
        if reason:
            raise BypassError(reason)
        self.add_on_set_parameters_callback(self._change_parameters)
        self._topics = ProxyTopics(self)
        self._proxy_services = ProxyServices(
            self, lambda: self._helper, service_networks(values), service_ports(values))
        self._reached(State.PRIMARY_STATE_UNCONFIGURED)

    def _announce(self, state):
        self._topics.announce(state)

    def _configure(self):
        values = parameters.read(self, SPECS)
        logger = self.get_logger()
        helper = ProxyHelper(settings(values), logger.warning, logger)
        helper.configure()
        self._helper = helper
        try:
            if values['prometheus_port']:
                self._metrics = MetricsServer(values['prometheus_address'],
                                              values['prometheus_port'], helper.report)
            self._topics.begin(helper, values['status_period_s'],
                               values['diagnostics_period_s'])
        except BaseException:
            self._release_quietly()
            raise
        report = helper.report()
        logger.info(f'configured: {len(report.forwards)} forwards; short cut: '
                    f"{'yes' if report.ways['shortcut'] else 'no'}; ends elsewhere: "
                    f'{report.remote}')
        for name, reason in report.reasons.items():
            logger.info(f'{name}: {reason}')

    def _activate(self):
        self._helper.activate()
        told = [f'{each.forward.listen} -> {each.forward.backend}'
                for each in self._helper.report().forwards]
        self.get_logger().info(f"active: {', '.join(told) or 'no forward yet'}; TLS is passed "
                               'through, never ended')

    def _deactivate(self):
        self._helper.deactivate()
        self.get_logger().info('inactive: nothing listens; open connections go on')

    def _release(self):
        """End every connection and let go of everything."""
        helper, self._helper = self._helper, None
        metrics, self._metrics = self._metrics, None
        self._topics.end()
        try:
            if metrics is not None:
                metrics.close()
        finally:
            if helper is not None:
                helper.close()
                self.get_logger().info('released')

    def _change_parameters(self, changed):
        """Check a change of parameters and let it take effect, all of it or nothing."""
        before = parameters.read(self, SPECS)
        values = {**before, **{parameter.name: parameter.value for parameter in changed
                               if parameter.name in BY_NAME}}
        names = [name for name in values if values[name] != before[name]]
        reason = parameters.held_back(before, names) or refusal(
            values, names, configured=self._helper is not None)
        if not reason and names:
            self._topics.set_periods(values['status_period_s'], values['diagnostics_period_s'])
        return SetParametersResult(successful=not reason, reason=reason)


def main(args=None):
    """Run the node as a process of its own."""
    return lifecycle.serve(SockmapHelperNode, args, program='sockmap_helper')


if __name__ == '__main__':
    sys.exit(main())
