"""The ends of a pair as nodes of ROS 2: messages are std_msgs/UInt8MultiArray."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
import threading

from ipc_bypass.compare.messages import HISTORY
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt8MultiArray

RCLError = rclpy_implementation.RCLError


class Session:
    """A node that is spun by a thread of its own; a context manager."""

    def __init__(self, end: str) -> None:
        rclpy.init(args=[])
        self._node = rclpy.create_node(f'ipcb_compare_{end}', enable_rosout=False,
                                       start_parameter_services=False)
        self._qos = QoSProfile(depth=HISTORY, reliability=ReliabilityPolicy.RELIABLE)
        self._publishers, self._subscriptions = [], []
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception) -> None:
        rclpy.try_shutdown()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def publisher(self, name: str) -> Callable[[UInt8MultiArray], None]:
        """Return what sends a message on a topic; one that the DDS has no room for is lost."""
        publisher = self._node.create_publisher(UInt8MultiArray, name, self._qos)
        self._publishers.append(publisher)

        def send(message: UInt8MultiArray) -> None:
            with suppress(RCLError):
                publisher.publish(message)

        return send

    def subscribe(self, name: str, callback: Callable[[UInt8MultiArray], None]) -> None:
        """Have each message of a topic given to `callback`."""
        self._subscriptions.append(self._node.create_subscription(
            UInt8MultiArray, name, callback, self._qos))

    def matched(self) -> bool:
        """Begin to spin; return whether each publisher and each subscription has its other end."""
        if not self._thread.is_alive():
            self._thread.start()
        return (all(each.get_subscription_count() for each in self._publishers)
                and all(self._node.count_publishers(each.topic_name)
                        for each in self._subscriptions))

    @staticmethod
    def payload(size: int) -> UInt8MultiArray:
        """Return a message with `size` bytes of data."""
        return UInt8MultiArray(data=array('B', bytes(size)))

    @staticmethod
    def buffer(message: UInt8MultiArray) -> array:
        """Return the data of a message."""
        return message.data

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
