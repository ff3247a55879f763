"""The lifecycle node `tun_bridge`: configure makes the devices, activate takes from the pool."""

import sys

from ipc_bypass.nodes import lifecycle, parameters
from ipc_bypass.nodes.bridge_parameters import check, refusal, SPECS
from ipc_bypass.nodes.bridge_topics import BridgeTopics
from ipc_bypass.pool.consumer import Consumer
from ipc_bypass.udp.bridge import Bridge
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.tun import is_own, TunDevice
from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult


class TunBridgeNode(lifecycle.SteppedNode):
    """
    Thin shell around udp.bridge.Bridge.

    configure makes the devices: from then on there is a way between the two ends. activate asks
    the node ipc_bypass for the lease: from then on what it diverts is carried without the usual
    way's detour. deactivate gives the lease back; cleanup removes the devices.
    """

    def __init__(self, **node_arguments):
        """Declare parameters and topics; raises BypassError where a value is not acceptable."""
        super().__init__('tun_bridge', **node_arguments)
        self._bridge, self._devices = None, []
        parameters.declare(self, SPECS)
        check(parameters.read(self, SPECS), complete=False)
        self.add_on_set_parameters_callback(self._change_parameters)
        self._topics = BridgeTopics(self)
        self._reached(State.PRIMARY_STATE_UNCONFIGURED)

    def _announce(self, state):
        self._topics.announce(state)

    def _configure(self):
        values = parameters.read(self, SPECS)
        check(values, complete=True)
        try:
            self._make_devices(values)
        except BaseException:
            self._release_quietly()
            raise
        self._topics.begin(self._bridge, self._devices, values['status_period_s'])
        self.get_logger().info(
            f"configured: {' and '.join(device.name for device in self._devices)} carry "
            f"{', '.join(values['prefixes'])}")

    def _make_devices(self, values):
        own = is_own(values['namespace'])
        self._devices.append(TunDevice(
            values['device'], namespace=values['namespace'], addresses=values['addresses'],
            routes=values['routes'], mtu=values['mtu'], queue_packets=values['queue_packets'],
            accept_local=own))
        local = None
        if values['local_device'] and not own:
            local = TunDevice(
                values['local_device'], addresses=values['local_addresses'],
                routes=values['prefixes'], mtu=values['mtu'],
                queue_packets=values['queue_packets'])
            self._devices.append(local)
        self._bridge = Bridge(self._devices[0], local, Prefixes(values['prefixes']),
                              lambda fault: self.get_logger().error(fault))

    def _activate(self):
        values = parameters.read(self, SPECS)
        self._bridge.check()
        self._bridge.attach(Consumer(
            values['rules'], control=values['control_socket'], claims=values['prefixes'],
            name='tun_bridge'))
        self.get_logger().info(
            f"active: takes what {', '.join(values['rules']) or 'every rule'} diverts, states "
            f"{values['max_rate']} datagrams a second")

    def _deactivate(self):
        self._bridge.detach()
        self.get_logger().info('inactive: every datagram goes the usual way')

    def _release(self):
        """Let go of the lease, then of the devices, which takes the routes away."""
        bridge, self._bridge = self._bridge, None
        self._topics.end()
        try:
            if bridge is not None:
                bridge.close()
                counted = {**bridge.counters(), **{
                    f'{device.name} {name}': count for device in self._devices
                    for name, count in device.statistics().items()}}
                told = [f'{name} {count}' for name, count in counted.items() if count]
                self.get_logger().info(f"released; {', '.join(told) or 'nothing was carried'}")
        finally:
            for device in self._devices:
                device.close()
            self._devices = []

    def _change_parameters(self, changed):
        before = parameters.read(self, SPECS)
        values = {**before, **{parameter.name: parameter.value for parameter in changed
                               if parameter.name in before}}
        names = [name for name in values if values[name] != before[name]]
        reason = parameters.held_back(before, names) or refusal(
            values, names, configured=self._bridge is not None)
        if not reason:
            self._topics.set_period(values['status_period_s'])
        return SetParametersResult(successful=not reason, reason=reason)


def main(args=None):
    """Run the node as a process of its own."""
    return lifecycle.serve(TunBridgeNode, args, program='tun_bridge')


if __name__ == '__main__':
    sys.exit(main())
