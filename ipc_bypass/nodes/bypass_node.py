"""The lifecycle node `ipc_bypass`: configure makes the path, activate attaches it."""

import contextlib
import sys

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes import lifecycle, parameters
from ipc_bypass.nodes.collector import Collector
from ipc_bypass.nodes.enrollment import Enrollment, wanted_rules
from ipc_bypass.nodes.packet_tap import PacketTap
from ipc_bypass.nodes.paths import Paths
from ipc_bypass.nodes.services import RuleServices
from ipc_bypass.nodes.topics import Topics
from ipc_bypass.rules.service_limits import ServiceLimits
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult


class BypassNode(lifecycle.SteppedNode):
    """
    Thin shell around the paths of TCP and UDP.

    configure probes, compiles and makes the maps; activate attaches; deactivate stops steering at
    once; cleanup releases. A transition that fails leaves nothing attached, says why in one line
    at level error, and gives the compiler's or verifier's log in full at level debug.
    """

    def __init__(self, **node_arguments):
        """
        Declare parameters, services and topics; nothing touches the kernel yet.

        Raises BypassError where a parameter's value is not acceptable, and what
        `parameters.declare` raises.
        """
        super().__init__('ipc_bypass', **node_arguments)
        self._path = self._collector = self._tap = None
        self._active = False
        self._enrollment = Enrollment()
        parameters.declare(self)
        values = parameters.read(self)
        refusal = parameters.refusal(values, values, configured=False)
        if refusal:
            raise BypassError(refusal)
        self._enrollment.limit(ServiceLimits(
            values['service_rules'], self.context.get_domain_id(),
            wanted_rules(*parameters.rule_lists(values))))
        self.add_on_set_parameters_callback(self._change_parameters)
        self._topics = Topics(self, self._enrollment)
        self._rule_services = RuleServices(
            self, self._enrollment, lambda: self._path is not None, lambda: self._active)
        self._reached(State.PRIMARY_STATE_UNCONFIGURED)

    def _announce(self, state):
        self._topics.announce(state)

    def _unused_capabilities(self):
        values = parameters.read(self)
        if parameters.held_back(values, ['udp_path']) and values['udp_path'] == 'loopback':
            return ('CAP_NET_RAW',)  # nothing is ever diverted, and so nothing sent on
        return ()

    def _configure(self):
        values = parameters.read(self)
        parameters.check_socket_folder(values)
        path = self._path = Paths(parameters.tcp_settings(values),
                                  parameters.udp_settings(values), self.get_logger())
        try:
            path.configure()
            self._enrollment.begin(path, *parameters.rule_lists(values))
            self._begin_reading(values)
        except BaseException:
            self._release_quietly()
            raise
        self._topics.begin(path, values['statistics_period_s'], values['diagnostics_period_s'])
        self.get_logger().info(
            f'configured: {path}, {len(self._enrollment)} rules')
        for note in (*path.tcp.notes, *path.udp.notes):
            self.get_logger().info(note)

    def _activate(self):
        try:
            self._path.activate()
        except BypassError:
            self._path.deactivate()
            raise
        self._active = True
        self.get_logger().info(f'active: {self._path}')

    def _deactivate(self):
        self._active = False
        self._path.deactivate()
        self.get_logger().info('inactive: everything goes the usual way')

    def _release(self):
        """Let go of the path and its rules; where a part fails, the others happen still."""
        path, was_active = self._path, self._active
        self._path, self._active = None, False
        held = {'connections': 0, 'bytes': 0}
        with contextlib.ExitStack() as ending:  # the last one first, and each of them
            if path is not None:
                ending.callback(lambda: held.update(path.cleanup()))
            ending.callback(self._enrollment.end)
            ending.callback(self._topics.end)
            ending.callback(self._end_reading)
            if was_active:
                ending.callback(path.deactivate)
        self._topics.end(held['connections'])
        if held['connections']:
            self.get_logger().info(
                f"released; {held['connections']} open connections hold kernel objects until "
                f"they end, {held['bytes']} bytes unread")

    def _begin_reading(self, values):
        """Collect what is mirrored and nobody else reads, and tell of it on ~/events."""
        if self._path.udp.selected == 'loopback':
            return
        socket = values['control_socket']
        if values['collect_mirrored']:
            self._collector = Collector(socket, self.get_logger())
        self._tap = PacketTap(self, socket, self._path.udp, values['events_per_second'])

    def _end_reading(self):
        readers = self._tap, self._collector
        self._tap = self._collector = None
        with contextlib.ExitStack() as ending:
            for reader in filter(None, readers):
                ending.callback(reader.close)

    def _change_parameters(self, changed):
        """Check a change of parameters and let it take effect, all of it or nothing."""
        before = parameters.read(self)
        values = {**before, **{parameter.name: parameter.value for parameter in changed
                               if parameter.name in parameters.BY_NAME}}
        names = [name for name in values if values[name] != before[name]]
        reason = parameters.held_back(before, names) or parameters.refusal(
            values, names, configured=self._path is not None)
        if not reason:
            try:
                self._apply(values, names)
            except BypassError as error:
                reason = str(error)
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply(self, values, names):
        rules = parameters.rule_lists(values)
        if not parameters.RULE_LISTS.isdisjoint(names):
            self._enrollment.check_lists(*rules)
        if self._path is None:
            return
        # The rules come first: they may be refused, and are then as they were.
        if not parameters.RULE_LISTS.isdisjoint(names):
            self._enrollment.replace_parameters(*rules)
        if not parameters.TCP_NAMES.isdisjoint(names):
            self._path.tcp.apply(parameters.tcp_settings(values))
        if not parameters.UDP_NAMES.isdisjoint(names):
            self._path.udp.apply(parameters.udp_settings(values))
        if self._tap:
            self._tap.set_rate(values['events_per_second'])
        self._topics.set_periods(values['statistics_period_s'], values['diagnostics_period_s'])


def serve(args=None, *, bring_up=None):
    """Run the node until SIGINT or SIGTERM, as `lifecycle.serve` says; return the exit code."""
    return lifecycle.serve(BypassNode, args, bring_up=bring_up)


def main(args=None):
    """Run the node as a process of its own."""
    return serve(args)


if __name__ == '__main__':
    sys.exit(main())
