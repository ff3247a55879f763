"""The topics ~/status and /diagnostics of the node tun_bridge."""

import socket
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from ipc_bypass.udp.outcomes import GROUPS
from lifecycle_msgs.msg import State
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

#: As that of the node ipc_bypass, whose messages this node can do without.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

_LABELS = {'taken': 'pool', 'local': 'usual way', 'device': 'answers'}
#: Outcomes that mean a loss.
_LOST = {'taken': ('device_refused', 'stranded', 'overwritten'), 'local': ('local_refused',),
         'device': ('answers_refused',)}


class BridgeTopics:
    """
    Publishes what the bridge counted, while there is one, and at each change of state.

    ~/status is latched, and the same message goes to /diagnostics: `link`, and for each way what
    became of its packets, where the first value is the sum of the others.
    """

    def __init__(self, node):
        """Create the publishers on `node`."""
        self._node = node
        self._publishers = [node.create_publisher(DiagnosticArray, '~/status', LATCHED),
                            node.create_publisher(DiagnosticArray, '/diagnostics', 10)]
        self._bridge, self._devices, self._timer, self._state = None, [], None, 0
        self._before = (0.0, 0)

    def begin(self, bridge, devices, period):
        """Publish what `bridge` says, every `period` seconds."""
        self._bridge, self._devices = bridge, devices
        self._before = (time.monotonic(), 0)
        self.set_period(period)

    def set_period(self, period):
        """Change the period, in seconds; without a bridge nothing happens."""
        self._stop()
        if self._bridge is not None:
            self._timer = self._node.create_timer(period, self._publish)

    def end(self):
        """Stop publishing."""
        self._stop()
        self._bridge, self._devices = None, []

    def announce(self, state):
        """Publish a state just reached, a lifecycle_msgs State id."""
        self._state = state
        self._publish()

    def _stop(self):
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None

    def _publish(self):
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._status('link', *self._link())]
        if self._bridge is not None:
            counters = self._bridge.counters()
            message.status += [self._status(_LABELS[total], *self._way(total, counters))
                               for total in GROUPS]
        for publisher in self._publishers:
            publisher.publish(message)

    def _link(self):
        """Return (level, text, values) of devices, rate and fault."""
        if self._bridge is None:
            return DiagnosticStatus.WARN, 'not configured: there are no devices', {}
        most = self._node.get_parameter('max_rate').value
        rate = self._rate()
        values = {'rate': round(rate), 'stated rate': most}
        dropped = 0
        for device in self._devices:
            statistics = device.statistics()
            dropped += statistics.get('queue_dropped', 0)
            values.update({f'{device.name} {name}': number
                           for name, number in statistics.items()})
        if self._bridge.fault:
            return DiagnosticStatus.ERROR, self._bridge.fault, values
        if self._state != State.PRIMARY_STATE_ACTIVE:
            return (DiagnosticStatus.WARN,
                    'the node is not active: every datagram goes the usual way', values)
        if self._bridge.problem:
            return DiagnosticStatus.WARN, f'no lease: {self._bridge.problem}', values
        if rate > most:
            return (DiagnosticStatus.WARN, f'{rate:.0f} datagrams a second are above the stated '
                    f'rate of {most}', values)
        if dropped:
            return DiagnosticStatus.WARN, f'{dropped} packets found a device full', values
        return DiagnosticStatus.OK, f'{rate:.0f} datagrams a second', values

    def _rate(self):
        """Return the datagrams a second, from the pool and the usual way, since the last call."""
        counters = self._bridge.counters()
        now, number = time.monotonic(), counters['taken'] + counters['local']
        before, self._before = self._before, (now, number)
        return (number - before[1]) / max(now - before[0], 1e-3)

    @staticmethod
    def _way(total, counters):
        """Return (level, text, values) of one way."""
        values = {name: counters[name] for name in (total, *GROUPS[total])}
        lost = sum(counters[name] for name in _LOST[total])
        if lost:
            return DiagnosticStatus.WARN, f'{lost} of {counters[total]} were lost', values
        return DiagnosticStatus.OK, f'{counters[total]} packets', values

    def _status(self, label, level, text, values):
        return DiagnosticStatus(
            name=f'{self._node.get_fully_qualified_name()}: {label}', level=level, message=text,
            hardware_id=socket.gethostname(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
