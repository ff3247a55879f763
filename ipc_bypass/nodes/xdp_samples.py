"""The topics ~/samples and ~/traffic of the node xdp_helper: what the samplers took."""

import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.xdp_guard import Guard
from ipc_bypass.xdp.sample_summary import Summarizer
from ipc_bypass_interfaces.msg import XdpSample, XdpTraffic, XdpTrafficShare
from rclpy.time import Time

_PERIOD_SECONDS = 0.1
#: Most samples of one interface that are read at once; those that are left wait.
_MOST = 4096
_FRAGMENT = 1  # FACT_FRAGMENT of enum xdp_fact, bpf/xdp_common.h


class Allowance:
    """How many messages may be published, so many a second; what is saved is for one period."""

    def __init__(self, now):
        """Begin with one message; `now` in seconds."""
        self._then, self._saved = now, 1.0

    def take(self, wanted, rate, now):
        """Return how many of `wanted` messages may be published now, at `rate` a second."""
        saved = self._saved + rate * (now - self._then)
        self._then = now
        granted = min(wanted, int(min(saved, max(1.0, rate * _PERIOD_SECONDS))))
        self._saved = min(saved, max(1.0, rate * _PERIOD_SECONDS)) - granted
        return granted


class XdpSamples:
    """
    Publishes samples, so many a second at most, and sums of all of them, while somebody listens.

    Nobody else may read the node's samples meanwhile; captures have their own. While nobody
    listens, the samplers write none.
    """

    def __init__(self, node):
        """Create the publishers on `node`; nothing is published yet."""
        self._node = node
        self._samples = node.create_publisher(XdpSample, '~/samples', 100)
        self._traffic = node.create_publisher(XdpTraffic, '~/traffic', 10)
        self._helper, self._timers, self._reading, self._told = None, [], False, ''
        self._rate, self._summarizers, self._allowances = 0.0, {}, {}
        #: {interface: samples that were beyond the rate, since the node was configured}
        self.not_published = {}
        self._guard = Guard(node.get_logger())

    def begin(self, helper, rate, period):
        """
        Publish what the samplers of `helper` take.

        :param rate: most messages of ~/samples a second and interface
        :param period: seconds between two sums
        """
        self._helper, self._rate = helper, rate
        self.set_rate(rate, period)

    def set_rate(self, rate, period):
        """Change what `begin` was given; without a helper nothing happens."""
        self._stop()
        self._rate = rate
        if self._helper is not None:
            self._timers = [self._node.create_timer(_PERIOD_SECONDS, self._guard(self._read)),
                            self._node.create_timer(period, self._guard(self._publish_traffic))]

    def end(self):
        """Stop publishing."""
        self._stop()
        self._helper, self._reading, self._summarizers = None, False, {}
        self._allowances, self.not_published = {}, {}

    def _stop(self):
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers = []

    def _read(self):
        for_samples = self._samples.get_subscription_count() and self._rate
        if not for_samples and not self._traffic.get_subscription_count():
            if self._reading:
                self._helper.stop_reading()
                self._reading, self._summarizers = False, {}
            return
        self._reading = True
        offset = time.time_ns() - time.monotonic_ns()
        try:
            found = self._helper.samples(_MOST)
            self._told = ''
        except BypassError as error:
            if str(error) != self._told:  # once, not ten times a second
                self._node.get_logger().warning(str(error))
            self._told = str(error)
            return
        for kept in self._summarizers, self._allowances, self.not_published:
            for name in kept.keys() - found.keys():
                del kept[name]
        now = time.monotonic()
        for name, samples in found.items():
            self._summarizers.setdefault(name, Summarizer()).add(samples)
            if not for_samples:
                continue
            room = self._allowances.setdefault(name, Allowance(now)).take(
                len(samples), self._rate, now)
            self.not_published[name] = self.not_published.get(name, 0) + len(samples) - room
            for sample in samples[:room]:
                self._samples.publish(_sample_message(name, sample, offset))

    def _publish_traffic(self):
        stamp = self._node.get_clock().now().to_msg()
        for name, summarizer in self._summarizers.items():
            message = _traffic_message(summarizer.take())
            message.header.frame_id, message.header.stamp = name, stamp
            self._traffic.publish(message)


def _sample_message(name, sample, offset):
    """Return the XdpSample message; `offset` makes wall time of the sample's, in nanoseconds."""
    message = XdpSample(
        queue=sample.queue, length=sample.length, every=sample.every, rule=sample.rule,
        ethertype=sample.ethertype, vlan=sample.vlan, family=sample.family,
        protocol=sample.protocol, fragment=bool(sample.flags & _FRAGMENT),
        source_port=sample.source_port, destination_port=sample.destination_port)
    message.source_address, message.destination_address = sample.addresses
    message.header.frame_id = name
    message.header.stamp = Time(nanoseconds=sample.time_ns + offset).to_msg()
    return message


def _traffic_message(summary):
    """Return the XdpTraffic message of a Summary, without its header."""
    return XdpTraffic(
        period=(summary.end_ns - summary.begin_ns) / 1e9, whole=_share(summary.whole),
        protocols=[_share(share, protocol=name) for name, share in summary.protocols],
        talkers=[_share(each.share, protocol=each.protocol, source=each.source,
                        destination=each.destination, destination_port=each.destination_port)
                 for each in summary.talkers],
        rest=_share(summary.rest))


def _share(share, **members):
    return XdpTrafficShare(samples=share.samples, packets=share.packets, bytes=share.bytes_,
                           **members)
