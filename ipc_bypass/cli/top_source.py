"""Where `ipc-bypass top` has its figures from: the topics and services of the nodes."""

from dataclasses import dataclass, field
import os
import threading
import time

from ipc_bypass.cli.enrolled import Rules
from ipc_bypass.cli.status import NodeError, plain, STATES
from ipc_bypass.cli.top_columns import number
from ipc_bypass.cli.top_model import Model
from ipc_bypass.metrics.bypass import seconds
from ipc_bypass.metrics.heard import Heard, PERIODIC
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import BypassStatistics, FlowArray, ProxyStatus, XdpStatus
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

#: Seconds without a message, or three periods where these are longer, after which a node that is
#: configured counts as silent.
SILENT_AFTER = 3.0
_SPIN_SECONDS = 0.2
#: What is shown of ~/statistics above the table.
TOTALS = (
    'rules', 'flows', 'flows_redirected', 'flows_passed', 'redirected_bytes',
    'redirected_bytes_per_second', 'passed_bytes', 'passed_bytes_per_second', 'queued_bytes',
    'datagrams', 'datagrams_captured_per_second')


@dataclass(frozen=True)
class Look:
    """
    What is there at one moment, beside the rows.

    `totals` are members of ~/statistics, `paths` {transport: selected path}, `helpers` a text
    for each companion node that is there, `silent` seconds since the node's last message, 0
    where that is no cause for worry, `left_out` flows beyond those in the message, `stamp` the
    time of the last flows in seconds.
    """

    node: str
    state_label: str
    totals: dict
    paths: dict = field(default_factory=dict)
    helpers: tuple = ()
    silent: float = 0.0
    left_out: int = 0
    stamp: float = 0.0


class Source:
    """
    Listens in a thread of its own while the context lasts.

    `model` may be read under `lock`; `changed` is set at each message.

    :param args: the options of ipc_bypass.cli.top
    """

    def __init__(self, args) -> None:
        self.name = '/' + args.node.strip('/')
        self._timeout, self._xdp, self._proxy = args.timeout, args.xdp_node, args.proxy_node
        self.lock, self.changed, self.flows_came = (
            threading.RLock(), threading.Event(), threading.Event())
        self._statistics, self._xdp_status, self._proxy_status = (
            Heard(SILENT_AFTER, time.monotonic) for _ in range(3))
        self._flows, self._packets, self._packet_rate = None, None, 0.0

    def __enter__(self):
        """Join the graph."""
        self._context = rclpy.Context()
        self._context.init(args=['ipc-bypass'])
        self._node = rclpy.create_node(
            f'ipc_bypass_top_{os.getpid()}', context=self._context, enable_rosout=False,
            start_parameter_services=False)
        self.rules = Rules(self._node, self.name, time.monotonic)
        self.model = Model(self.rules.port_of)
        for message, topic, take, qos in (
                (BypassStatistics, f'{self.name}/statistics', self._take_statistics, LATCHED),
                (FlowArray, f'{self.name}/flows', self._take_flows, 1),
                (XdpStatus, f"/{self._xdp.strip('/')}/status", self._take_xdp, LATCHED),
                (ProxyStatus, f"/{self._proxy.strip('/')}/status", self._take_proxy, LATCHED)):
            self._node.create_subscription(message, topic, take, qos)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._ended = False
        self._thread = threading.Thread(target=self._spin, name='top-source', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        """Leave it."""
        self._ended = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait(self, ended=lambda: False) -> None:
        """Wait for the node and, where it is configured, its flows; raises NodeError."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline and not ended():
            with self.lock:
                last = self._statistics.last
                if last is not None and (self._flows is not None or last.state not in PERIODIC):
                    return
            self.changed.wait(0.1)
            self.changed.clear()
        if self._statistics.last is None and not ended():
            raise NodeError(
                f'ask node {self.name}', f'no answer within {self._timeout:g} s in ROS domain '
                f"{os.environ.get('ROS_DOMAIN_ID') or 0}",
                next_step='start it with `ipc-bypass up`, or name another one with --node')

    def look(self) -> Look:
        """Return what is there now; after wait() that was not ended."""
        with self.lock:
            statistics, flows = self._statistics.last, self._flows
            return Look(
                node=self.name, state_label=STATES.get(statistics.state, 'unknown'),
                totals={name: plain(getattr(statistics, name)) for name in TOTALS},
                paths={path.transport: path.name for path in statistics.paths if path.selected},
                helpers=tuple(self._helpers()),
                silent=self._statistics.silence,
                left_out=flows.left_out if flows else 0,
                stamp=seconds((flows or statistics).header.stamp))

    def _helpers(self):
        if (status := self._xdp_status.fresh()) is not None:
            attached = sum(interface.attached for interface in status.interfaces)
            yield f'xdp on {attached} interfaces {number(self._packet_rate)} packets/s'
        if (status := self._proxy_status.fresh()) is not None:
            yield f'proxy {sum(each.open for each in status.forwards)} connections'

    def enroll(self, port, done) -> None:
        """Enroll a TCP port; `done` is called with a line of text later."""
        self.rules.enroll(port, done)

    def withdraw(self, rule_id, done) -> None:
        """Withdraw a rule; `done` is called with a line of text later."""
        self.rules.withdraw(rule_id, done)

    def _spin(self):
        try:
            while not self._ended:
                self.rules.refresh()
                self._executor.spin_once(timeout_sec=_SPIN_SECONDS)
        except ExternalShutdownException:
            pass

    def _take_statistics(self, message):
        with self.lock:
            self._statistics.take(message)
            if message.state not in PERIODIC:
                self._flows = None
                self.model.clear()
        self.changed.set()

    def _take_flows(self, message):
        with self.lock:
            self._flows = message
            self.model.take(message.flows, seconds(message.header.stamp))
        self.flows_came.set()
        self.changed.set()

    def _take_xdp(self, message):
        packets = sum(interface.packets for interface in message.interfaces)
        now = seconds(message.header.stamp)
        with self.lock:
            then, before = self._packets or (now, packets)
            self._packets = now, packets
            self._packet_rate = max(0, packets - before) / (now - then) if now > then else 0.0
            self._xdp_status.take(message)

    def _take_proxy(self, message):
        with self.lock:
            self._proxy_status.take(message)
