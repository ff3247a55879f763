"""The lifecycle node `xdp_helper`: configure loads the arrays, activate attaches them."""

import sys

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes import lifecycle, parameters
from ipc_bypass.nodes.xdp_limits import XdpServiceLimits
from ipc_bypass.nodes.xdp_parameters import BY_NAME, refusal, settings, SPECS
from ipc_bypass.nodes.xdp_samples import XdpSamples
from ipc_bypass.nodes.xdp_services import XdpServices
from ipc_bypass.nodes.xdp_topics import XdpTopics
from ipc_bypass.xdp.helper import XdpHelper
from ipc_bypass.xdp.templates import Templates
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult


class XdpHelperNode(lifecycle.SteppedNode):
    """
    Thin shell around xdp.helper.XdpHelper.

    configure compiles, makes a root array for each interface and loads its slots; activate
    attaches; deactivate detaches at once; cleanup releases. A transition that fails leaves
    nothing attached. When the process is killed, the kernel detaches.
    """

    def __init__(self, **node_arguments):
        """Declare parameters, services and topics; raises BypassError for a wrong value."""
        super().__init__('xdp_helper', **node_arguments)
        # Kept over cleanup: a second configure compiles nothing that has not changed.
        self._helper, self._templates = None, Templates()
        parameters.declare(self, SPECS)
        values = parameters.read(self, SPECS)
        reason = refusal(values, values, configured=False)
        if reason:
            raise BypassError(reason)
        self.add_on_set_parameters_callback(self._change_parameters)
        self._samples = XdpSamples(self)
        self._topics = XdpTopics(self, lambda: self._samples.not_published)
        self._xdp_services = XdpServices(
            self, lambda: self._helper, self._topics.publish_status,
            XdpServiceLimits(values, self.context.get_domain_id()))
        self._reached(State.PRIMARY_STATE_UNCONFIGURED)

    def _announce(self, state):
        self._topics.announce(state)

    def _configure(self):
        values = parameters.read(self, SPECS)
        helper = XdpHelper(settings(values), self.get_logger().warning,
                           templates=self._templates)
        helper.configure()
        self._helper = helper
        try:
            self._topics.begin(helper, values['status_period_s'],
                               values['diagnostics_period_s'])
            self._samples.begin(helper, values['samples_per_second'],
                                values['status_period_s'])
        except BaseException:
            self._release_quietly()
            raise
        names = [each.name for each in helper.status().interfaces if each.slots]
        self.get_logger().info(f"configured: {', '.join(names) or 'no interface yet'}")

    def _activate(self):
        self._helper.activate()
        told = [f'{each.name} in {each.mode} mode' + (f' ({each.reason})' if each.reason else '')
                for each in self._helper.status().interfaces if each.attached]
        self.get_logger().info(f"active: {', '.join(told) or 'no interface yet'}")

    def _deactivate(self):
        self._helper.deactivate()
        self.get_logger().info('inactive: nothing is attached')

    def _release(self):
        """Detach and let go of everything."""
        helper, self._helper = self._helper, None
        self._topics.end()
        self._samples.end()
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
        if not reason and self._helper is not None and names:
            try:
                self._helper.apply(settings(values))
            except BypassError as error:
                reason = str(error)
        if not reason:
            self._topics.set_periods(values['status_period_s'], values['diagnostics_period_s'])
            self._samples.set_rate(values['samples_per_second'], values['status_period_s'])
        return SetParametersResult(successful=not reason, reason=reason)


def main(args=None):
    """Run the node as a process of its own."""
    return lifecycle.serve(XdpHelperNode, args, program='xdp_helper')


if __name__ == '__main__':
    sys.exit(main())
